"""ESC-50 (Piczak 2015): 50 classes of environmental sound, 40 clips each, five folds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from uamix_bench.card import TaskCard, read_card
from uamix_bench.errors import BadInputError
from uamix_bench.task import Task, read_csv


class ESC50(Task):
    """Reads ``ESC-50-master/meta/esc50.csv`` and ``ESC-50-master/audio/{fold}-{clip}-{take}-{target}.wav``."""

    card = read_card(Path(__file__).with_suffix(".toml"), TaskCard)
    marker = "ESC-50-master/meta/esc50.csv"

    def clips(self, root: Path) -> pd.DataFrame:
        """Lists the 2,000 clips: label the category, group the Freesound recording, split the fold."""
        meta = read_csv(root / self.marker, ("filename", "fold", "target", "category", "src_file", "take"))
        named = meta["fold"] + "-" + meta["src_file"] + "-" + meta["take"] + "-" + meta["target"] + ".wav"
        other = meta.index[meta["filename"] != named]
        if len(other):
            reason = f"line {other[0]} names {meta['filename'][other[0]]}, where its columns make {named[other[0]]}"
            raise BadInputError(root / self.marker, reason, "unpack the archive again")
        clips = "ESC-50-master/audio/" + named
        paths = [root / clip for clip in clips]
        missing = [path.name for path in paths if not path.is_file()]
        expected = self.edition(root).clips
        if missing or len(paths) != expected:
            first = f", {missing[0]} is missing" if missing else ""
            reason = f"{len(paths) - len(missing)} of {expected} clips found ({len(paths)} listed{first})"
            raise BadInputError(root / "ESC-50-master", reason, "unpack the archive again")
        return pd.DataFrame(
            {
                "clip": clips,
                "path": [str(path) for path in paths],
                "label": meta["category"],
                "group": meta["src_file"],
                "split": "fold" + meta["fold"],
            }
        )
