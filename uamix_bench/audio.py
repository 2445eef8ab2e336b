"""The documented import path of `uamix_bench.data.audio`."""

from uamix_bench.data.audio import (
    AudioInfo as AudioInfo,
)
from uamix_bench.data.audio import (
    Waveform as Waveform,
)
from uamix_bench.data.audio import (
    loop as loop,
)
from uamix_bench.data.audio import (
    probe as probe,
)
from uamix_bench.data.audio import (
    read as read,
)
from uamix_bench.data.audio import (
    resample as resample,
)
from uamix_bench.data.audio import (
    samples_read as samples_read,
)
from uamix_bench.data.audio import (
    segments as segments,
)
from uamix_bench.data.audio import (
    undecoded as undecoded,
)
