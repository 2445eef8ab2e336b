"""The documented import path of `uamix_bench.models.checkpoint`."""

from uamix_bench.models.checkpoint import (
    Checkpoint as Checkpoint,
    load_state as load_state,
    read_checkpoint as read_checkpoint,
    read_settings as read_settings,
    write_safetensors as write_safetensors,
)
