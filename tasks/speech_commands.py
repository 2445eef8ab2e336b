"""Speech Commands v0.02 (Warden 2018): 105,829 one-second utterances of 35 words."""

from __future__ import annotations

import re
from pathlib import Path

from uamix_bench.data.clip_table import ClipTable
from uamix_bench.plugins.card import TaskCard, read_card

from .official import Official, holder, lines, names, whole

_UTTERANCE = re.compile(r"([0-9a-f]{8})_nohash_\d+\.wav")  # the hash is the speaker's
_NEW = ("backward", "follow", "forward", "learn", "visual")  # words that v0.01 lacks


class SpeechCommands(Official):
    """Reads ``{word}/{speaker}_nohash_{take}.wav``; the archive has no folder of its own above the words.

    torchaudio unpacks it into ``SpeechCommands/speech_commands_v0.02``; Kaggle's copies have folders of other names,
    and the words may lie in ``audio`` beside the lists. Clips have the ids of the archive.
    """

    card = read_card(Path(__file__).with_suffix(".toml"), TaskCard)
    marker = "testing_list.txt"
    elsewhere = (
        "speech_commands_v0.02/testing_list.txt",
        "SpeechCommands/speech_commands_v0.02/testing_list.txt",
        "*/testing_list.txt",
        "*/*/testing_list.txt",
    )

    def clips(self, root: Path) -> ClipTable:
        """Lists the utterances: label the word, group the speaker, split what the two lists say, else train.

        ``_background_noise_`` holds no utterance and is left out.
        """
        test = self.mark(root) or root / self.marker
        listed = dict.fromkeys(lines(test.parent / "validation_list.txt"), "validation")
        listed |= dict.fromkeys(lines(test), "test")
        rows = []
        base, words = holder((test.parent, test.parent / "audio"), self.card.holds)
        for word in sorted(words):
            if word.startswith(("_", ".")):
                continue
            for name in names(base / word):
                if utterance := _UTTERANCE.fullmatch(name):
                    clip = f"{word}/{name}"
                    rows.append((clip, f"{base}/{clip}", word, utterance[1], listed.pop(clip, "train")))
        older = "get v0.02: this is v0.01 (Kaggle's competition has it), which lacks the words " + ", ".join(_NEW)
        return whole(self, root, rows, listed, hint="" if words.intersection(_NEW) or listed or not rows else older)
