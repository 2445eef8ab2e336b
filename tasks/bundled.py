"""Bundled tasks of recorded sounds, whose clips lie beside the code."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from uamix_bench.data.task import COLUMNS, Task

SOUNDS = Path(__file__).parent / "sounds"


class Bundled(Task):
    """Reader of ``sounds/<name>/clips.csv`` and the FLAC files that it lists, made by `bundling`."""

    def clips(self, root: Path) -> pd.DataFrame:
        """Lists all clips."""
        table = pd.read_csv(root / "clips.csv", dtype=str, keep_default_na=False)
        paths = [str(root / clip) for clip in table["clip"]]
        return table.assign(path=paths, split="test")[list(COLUMNS)]

    def locate(self, data_dir: Path) -> Path:
        """Returns the folder in the package, whatever the data directory."""
        return SOUNDS / self.card.name
