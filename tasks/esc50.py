"""ESC-50 (Piczak 2015): 50 classes of environmental sound, 40 clips each, five folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from uamix_bench.data.clip_table import ClipTable
from uamix_bench.data.own_data import read_csv
from uamix_bench.plugins.card import TaskCard, read_card
from uamix_bench.util.errors import BadInputError

from .official import Official, holder, whole


class ESC50(Official):
    """Reads ``ESC-50-master/meta/esc50.csv`` and ``ESC-50-master/audio/{fold}-{clip}-{take}-{target}.wav``.

    The folder may have another name, as that of a git clone has, and lie in another. Kaggle's copy has ``esc50.csv``
    beside ``audio/audio/44100``. Clips have the ids of the archive.
    """

    card = read_card(Path(__file__).with_suffix(".toml"), TaskCard)
    marker = "ESC-50-master/meta/esc50.csv"
    elsewhere = ("meta/esc50.csv", "*/meta/esc50.csv", "*/*/meta/esc50.csv", "esc50.csv", "*/esc50.csv")

    def clips(self, root: Path) -> ClipTable:
        """Lists the 2,000 clips: label the category, group the Freesound recording, split the fold."""
        columns = ["filename", "fold", "src_file", "take", "target", "category"]
        listed = self.mark(root) or root / self.marker
        meta = read_csv(listed, columns)
        base = listed.parent.parent if listed.parent.name == "meta" else listed.parent
        places = [base / place for place in ("audio", "audio/audio/44100", "audio/audio", "")]
        names = meta.columns["filename"]
        audio, there = holder(places, names)
        rows, missing = [], []
        listing = zip(meta.numbers, *(meta.columns[column] for column in columns), strict=True)
        for line, name, fold, recording, take, target, label in listing:
            if name != f"{fold}-{recording}-{take}-{target}.wav":
                reason = f"line {line} names {name!a}, which does not agree with its columns"
                raise BadInputError(listed, reason, "unpack the archive again")
            clip = f"ESC-50-master/audio/{name}"
            if name in there:
                rows.append((clip, f"{audio}/{name}", label, recording, f"fold{fold}"))
            else:
                missing.append(clip)
        return whole(self, root, rows, missing, _other_format(audio, there, names) if missing else "")


def _other_format(audio: Path, there: set[str], listed: Iterable[str]) -> str:
    """Hint for a copy whose sounds were converted: what was found and what is expected; else empty."""
    stems = {name.removesuffix(".wav") for name in listed}
    endings = Counter(Path(name).suffix for name in there if Path(name).stem in stems and not name.endswith(".wav"))
    if not endings:
        return ""
    ending, count = endings.most_common(1)[0]
    return f"{audio} holds {count:,} of them as {ending}, and .wav as published is expected: unpack the archive there"
