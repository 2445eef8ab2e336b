"""Pace at which a model's cached embeddings were made, by device, kept beside their shards.

A result whose embeddings all come from the cache says nothing of the speed of its model. So each run that embeds adds
its clips and seconds, and a later result tells them as those of earlier runs.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from uamix_bench.embeddings.cache import PACE
from uamix_bench.records.results import Pace
from uamix_bench.util import files
from uamix_bench.util.errors import MachineError
from uamix_bench.util.text import fit


def kept_paces(folder: Path) -> tuple[Pace, ...]:
    """Paces kept in a model's folder of the cache, by device; none if the file is missing, damaged or not credible."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        kept = json.loads((folder / PACE).read_bytes())
        return tuple(Pace(device=name, clips=clips, seconds=s) for name, (clips, s) in sorted(kept.items()))
    return ()


def add_pace(folder: Path, device: str, clips: int, seconds: float) -> None:
    """Adds a run's embedding to the paces of a model's folder; nothing where the folder is not written.

    Of two runs that end at the same moment one may be lost.
    """
    if clips < 1 or seconds <= 0 or not folder.is_dir():
        return
    device, kept = fit(device), {one.device: (one.clips, one.seconds) for one in kept_paces(folder)}
    before = kept.get(device, (0, 0.0))
    kept[device] = (before[0] + clips, before[1] + seconds)
    with contextlib.suppress(MachineError):  # a full disk, of which the cache has told
        files.write_json(folder / PACE, kept)
