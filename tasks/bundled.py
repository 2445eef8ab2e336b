"""Bundled tasks of recorded sounds, whose clips lie beside the code."""

from __future__ import annotations

from pathlib import Path

from uamix_bench.data.clip_table import ClipTable
from uamix_bench.data.own_data import read_csv
from uamix_bench.data.task import Task

SOUNDS = Path(__file__).parent / "sounds"


class Bundled(Task):
    """Reader of ``sounds/<name>/clips.csv`` and the FLAC files that it lists, made by `bundling`."""

    def clips(self, root: Path) -> ClipTable:
        """Lists all clips."""
        listed = read_csv(root / "clips.csv", ("clip", "label", "group")).columns
        rows = zip(*(listed[name] for name in ("clip", "label", "group")), strict=True)
        return ClipTable.of_rows((clip, str(root / clip), label, group, "test") for clip, label, group in rows)

    def locate(self, data_dir: Path) -> Path:
        """Returns the folder in the package, whatever the data directory."""
        return SOUNDS / self.card.name
