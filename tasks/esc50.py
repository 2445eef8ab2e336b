"""ESC-50 (Piczak 2015): 50 classes of environmental sound, 40 clips each, five folds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from uamix_bench.data.own_data import read_csv
from uamix_bench.plugins.card import TaskCard, read_card
from uamix_bench.util.errors import BadInputError

from .official import Official, names, whole


class ESC50(Official):
    """Reads ``ESC-50-master/meta/esc50.csv`` and ``ESC-50-master/audio/{fold}-{clip}-{take}-{target}.wav``."""

    card = read_card(Path(__file__).with_suffix(".toml"), TaskCard)
    marker = "ESC-50-master/meta/esc50.csv"

    def clips(self, root: Path) -> pd.DataFrame:
        """Lists the 2,000 clips: label the category, group the Freesound recording, split the fold."""
        columns = ["filename", "fold", "src_file", "take", "target", "category"]
        meta = read_csv(root / self.marker, columns)
        there = names(root / "ESC-50-master/audio")
        rows, missing = [], []
        for line, name, fold, recording, take, target, label in meta[columns].itertuples(name=None):
            if name != f"{fold}-{recording}-{take}-{target}.wav":
                reason = f"line {line} names {name!a}, which does not agree with its columns"
                raise BadInputError(root / self.marker, reason, "unpack the archive again")
            clip = f"ESC-50-master/audio/{name}"
            if name in there:
                rows.append((clip, f"{root}/{clip}", label, recording, f"fold{fold}"))
            else:
                missing.append(clip)
        return whole(self, root, rows, missing)
