"""The documented import path of `uamix_bench.data.audio`."""

from uamix_bench.data.audio import (
    AudioInfo as AudioInfo,
    Waveform as Waveform,
    loop as loop,
    probe as probe,
    read as read,
    resample as resample,
    samples_read as samples_read,
    segments as segments,
    undecoded as undecoded,
)
