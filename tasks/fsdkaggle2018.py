"""FSDKaggle2018 (Fonseca et al. 2018, DCASE 2018 task 2): 11,073 Freesound clips in 41 classes."""

from __future__ import annotations

from pathlib import Path

from uamix_bench.data.clip_table import ClipTable
from uamix_bench.data.own_data import read_csv
from uamix_bench.plugins.card import TaskCard, read_card
from uamix_bench.util.errors import BadInputError

from .official import Official, first, holder, whole

_MORE_THAN_A_HEADER = 45  # bytes; the shortest WAV header has 44
_TRAIN = "train_post_competition.csv"
_TEST = "test_post_competition_scoring_clips.csv"
_META = ("FSDKaggle2018.meta", "meta")


class FSDKaggle2018(Official):
    """Reads the two lists in ``FSDKaggle2018.meta`` and ``FSDKaggle2018.audio_train|audio_test/{fname}``.

    Kaggle has ``audio_train`` and ``audio_test``, with ``train_post_competition.csv`` and ``test_post_competition.csv``
    beside them. Clips have the ids of the archives.
    """

    card = read_card(Path(__file__).with_suffix(".toml"), TaskCard)
    marker = f"FSDKaggle2018.meta/{_TRAIN}"
    elsewhere = (
        _TRAIN,
        f"meta/{_TRAIN}",
        f"*/FSDKaggle2018.meta/{_TRAIN}",
        f"*/{_TRAIN}",
        "audio_train",
        "*/audio_train",
    )

    def clips(self, root: Path) -> ClipTable:
        """Lists the clips: label the class, group the Freesound id, split train-verified, train-unverified or test.

        Only clips that a list names and that count for the scoring: the competition's test folder also holds some
        thousands that were ignored, three of them empty. A listed clip that is empty counts as missing.
        """
        columns = ("fname", "label", "freesound_id")
        marked = self.mark(root) or root / self.marker
        base = marked.parent.parent if marked.parent.name in _META else marked.parent
        train = read_csv(_list(base, _TRAIN, "train.csv"), (*columns, "manually_verified")).columns
        verified = ["train-verified" if one == "1" else "train-unverified" for one in train["manually_verified"]]
        test = read_csv(_list(base, _TEST, "test_post_competition.csv"), (*columns, "usage"))
        test = test.kept([usage != "Ignored" for usage in test.columns["usage"]])
        rows, missing = [], []
        for part, listed, splits in (
            ("audio_train", train, verified),
            ("audio_test", test.columns, ["test"] * len(test.numbers)),
        ):
            folder = f"FSDKaggle2018.{part}"
            places = [base / place for place in (folder, part, f"{part}/{part}")]
            audio, there = holder(places, listed["fname"], _MORE_THAN_A_HEADER)
            for name, label, group, split in zip(*(listed[column] for column in columns), splits, strict=True):
                clip = f"{folder}/{name}"
                if name in there:
                    rows.append((clip, f"{audio}/{name}", label, group, split))
                else:
                    missing.append(clip)
        return whole(self, root, rows, missing)


def _list(base: Path, name: str, at_kaggle: str) -> Path:
    """Path of the list `name`, from the archives or beside the sounds, or of Kaggle's list.

    Raises:
        BadInputError: The only list is Kaggle's ``train.csv``, which does not name the recordings of the clips.
    """
    places = [f"{folder}{file}" for file in (name, at_kaggle) for folder in (*(f"{meta}/" for meta in _META), "")]
    found = first(base, *places) or base / places[0]
    if found.name == "train.csv" and "freesound_id" not in read_csv(found, ()).columns:
        remedy = f"put {_TRAIN} beside it, which Kaggle and FSDKaggle2018.meta.zip have"
        raise BadInputError(found, "has no column 'freesound_id', which the groups are", remedy)
    return found
