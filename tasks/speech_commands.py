"""Speech Commands v0.02 (Warden 2018): 105,829 one-second utterances of 35 words."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from uamix_bench.plugins.card import TaskCard, read_card

from .official import Official, lines, names, whole

_UTTERANCE = re.compile(r"([0-9a-f]{8})_nohash_\d+\.wav")  # the hash is the speaker's


class SpeechCommands(Official):
    """Reads ``{word}/{speaker}_nohash_{take}.wav``; the archive has no folder of its own above the words."""

    card = read_card(Path(__file__).with_suffix(".toml"), TaskCard)
    marker = "testing_list.txt"

    def clips(self, root: Path) -> pd.DataFrame:
        """Lists the utterances: label the word, group the speaker, split what the two lists say, else train.

        ``_background_noise_`` holds no utterance and is left out.
        """
        listed = dict.fromkeys(lines(root / "validation_list.txt"), "validation")
        listed |= dict.fromkeys(lines(root / self.marker), "test")
        rows = []
        for word in sorted(names(root)):
            if word.startswith(("_", ".")):
                continue
            for name in names(root / word):
                if utterance := _UTTERANCE.fullmatch(name):
                    clip = f"{word}/{name}"
                    rows.append((clip, f"{root}/{clip}", word, utterance[1], listed.pop(clip, "train")))
        return whole(self, root, rows, listed)
