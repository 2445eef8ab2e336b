"""The documented import path of `uamix_bench.models.contract`."""

from uamix_bench.models.contract import (
    EQUAL as EQUAL,
    Check as Check,
    check as check,
)
