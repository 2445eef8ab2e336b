"""The documented import path of `uamix_bench.models.contract`."""

from uamix_bench.models.contract import (
    EQUAL as EQUAL,
)
from uamix_bench.models.contract import (
    Check as Check,
)
from uamix_bench.models.contract import (
    check as check,
)
