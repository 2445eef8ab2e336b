"""Pace at which a model's cached embeddings were made, by device, kept beside their shards.

A result whose embeddings all come from the cache says nothing of the speed of its model. So each run that embeds adds
its clips and seconds, and a later result tells them as those of earlier runs.
"""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import NamedTuple

from uamix_bench.util import files
from uamix_bench.util.errors import MachineError

PACE = "pace.json"


class Pace(NamedTuple):
    """Clips that a device embedded over all runs, and the seconds it took.

    Attributes:
        device: Name of the processor or GPU.
        clips: Number of clips.
        seconds: Wall time of the embedding, decoding included, in seconds.
    """

    device: str
    clips: int
    seconds: float


def kept_paces(folder: Path) -> tuple[Pace, ...]:
    """Paces kept in a model's folder of the cache, by device; none if the file is missing, damaged or not credible."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        kept = json.loads((folder / PACE).read_bytes())
        found = [Pace(str(device), int(clips), float(seconds)) for device, (clips, seconds) in sorted(kept.items())]
        if all(one.clips > 0 and one.seconds > 0 and math.isfinite(one.seconds) for one in found):
            return tuple(found)
    return ()


def add_pace(folder: Path, device: str, clips: int, seconds: float) -> None:
    """Adds a run's embedding to the paces of a model's folder; nothing where the folder is not written.

    Of two runs that end at the same moment one may be lost.
    """
    if clips < 1 or seconds <= 0 or not folder.is_dir():
        return
    kept = {one.device: one for one in kept_paces(folder)}
    before = kept.get(device, Pace(device, 0, 0.0))
    kept[device] = Pace(device, before.clips + clips, before.seconds + seconds)
    with contextlib.suppress(MachineError):  # a full disk, of which the cache has told
        files.write_json(folder / PACE, {name: (one.clips, one.seconds) for name, one in kept.items()})
