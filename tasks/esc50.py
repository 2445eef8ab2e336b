"""ESC-50 (Piczak 2015): 50 classes of environmental sound, 40 clips each, five folds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from uamix_bench.card import TaskCard, read_card
from uamix_bench.errors import BadInputError
from uamix_bench.task import Task


class ESC50(Task):
    """Reads ``ESC-50-master/meta/esc50.csv`` and ``ESC-50-master/audio/{fold}-{clip}-{take}-{target}.wav``."""

    card = read_card(Path(__file__).with_suffix(".toml"), TaskCard)
    marker = "ESC-50-master/meta/esc50.csv"

    def clips(self, root: Path) -> pd.DataFrame:
        """Lists the 2,000 clips: label the category, group the Freesound recording, split the fold."""
        meta = pd.read_csv(root / self.marker, dtype=str)
        lacking = {"filename", "fold", "category", "src_file"} - set(meta.columns)
        if lacking:
            raise BadInputError(root / self.marker, f"has no column {sorted(lacking)}", "unpack the archive again")
        clips = "ESC-50-master/audio/" + meta["filename"]
        paths = [root / clip for clip in clips]
        found = sum(path.is_file() for path in paths)
        expected = self.card.clips
        if (len(meta), found) != (expected, expected):
            raise BadInputError(
                root / "ESC-50-master", f"{found} of {expected} clips found ({len(meta)} listed)", "unpack the archive again"
            )
        return pd.DataFrame(
            {
                "clip": clips,
                "path": [str(path) for path in paths],
                "label": meta["category"],
                "group": meta["src_file"],
                "split": "fold" + meta["fold"],
            }
        )
