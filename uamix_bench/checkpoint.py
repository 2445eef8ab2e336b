"""The documented import path of `uamix_bench.models.checkpoint`."""

from uamix_bench.models.checkpoint import (
    Checkpoint as Checkpoint,
)
from uamix_bench.models.checkpoint import (
    fingerprint as fingerprint,
)
from uamix_bench.models.checkpoint import (
    load_state as load_state,
)
from uamix_bench.models.checkpoint import (
    read_checkpoint as read_checkpoint,
)
from uamix_bench.models.checkpoint import (
    read_settings as read_settings,
)
from uamix_bench.models.checkpoint import (
    write_safetensors as write_safetensors,
)
