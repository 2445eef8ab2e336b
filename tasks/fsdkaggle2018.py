"""FSDKaggle2018 (Fonseca et al. 2018, DCASE 2018 task 2): 11,073 Freesound clips in 41 classes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from uamix_bench.data.own_data import read_csv
from uamix_bench.plugins.card import TaskCard, read_card

from .official import Official, names, whole

_MORE_THAN_A_HEADER = 45  # bytes; the shortest WAV header has 44


class FSDKaggle2018(Official):
    """Reads the two lists in ``FSDKaggle2018.meta`` and ``FSDKaggle2018.audio_train|audio_test/{fname}``."""

    card = read_card(Path(__file__).with_suffix(".toml"), TaskCard)
    marker = "FSDKaggle2018.meta/train_post_competition.csv"

    def clips(self, root: Path) -> pd.DataFrame:
        """Lists the clips: label the class, group the Freesound id, split train-verified, train-unverified or test.

        Only clips that a list names and that belong to the scoring: the competition's test folder also holds some
        thousands that were ignored, three of them empty. A listed clip that is empty counts as missing.
        """
        columns = ("fname", "label", "freesound_id")
        train = read_csv(root / self.marker, (*columns, "manually_verified"))
        train["split"] = train["manually_verified"].map({"1": "train-verified"}).fillna("train-unverified")
        test = read_csv(root / "FSDKaggle2018.meta/test_post_competition_scoring_clips.csv", (*columns, "usage"))
        test = test[test["usage"] != "Ignored"].assign(split="test")
        rows, missing = [], []
        for folder, listed in (("FSDKaggle2018.audio_train", train), ("FSDKaggle2018.audio_test", test)):
            there = names(root / folder, _MORE_THAN_A_HEADER)
            for name, label, group, split in listed[[*columns, "split"]].itertuples(index=False, name=None):
                clip = f"{folder}/{name}"
                if name in there:
                    rows.append((clip, f"{root}/{clip}", label, group, split))
                else:
                    missing.append(clip)
        return whole(self, root, rows, missing)
