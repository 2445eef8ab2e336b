"""The documented import path of `uamix_bench.models.frontend`."""

from uamix_bench.models.frontend import (
    KaldiFbank as KaldiFbank,
    LogMel as LogMel,
)
