"""Excerpts of the clips that a model confuses most, inside the page, so that a reader can hear why."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from uamix_bench.evaluation.replay import Replay
from uamix_bench.reports.blocks import Block, Prose, Sound
from uamix_bench.util.errors import BenchError

SECONDS, RATE = 3.0, 16_000  # of an excerpt; Hz
CLIPS = 6  # of a model
MOST_BYTES = 2_000_000  # of all excerpts of a task, as they stand in the page


def blocks(replays: Mapping[str, Replay]) -> Iterator[Block]:
    """Players of each model's most confused clips, up to `MOST_BYTES` for all models together.

    Args:
        replays: Replays of models on one clip table, by the models' names.
    """
    room, refused = MOST_BYTES, 0
    yield Prose(
        f"The first {SECONDS:g} s of clips, mono at {RATE // 1000} kHz. The sounds are inside this file, and "
        "all who have it can hear them."
    )
    for name, replay in replays.items():
        for row, given, times, asked in confused(replay):
            clip, label = replay.data.table["clip"][row], replay.data.table["label"][row]
            title = f"{clip}: {label}, {times:,} of {asked:,} times {given} by {name}"
            try:
                source = excerpt(Path(replay.data.table["path"][row]))
            except BenchError as error:
                yield Prose(f"{title}; {error.reason}.")
                continue
            if len(source) > room:
                refused += 1
                continue
            room -= len(source)
            yield Sound(title, source)
    if refused:
        yield Prose(f"{refused} more clips are left out: excerpts take {MOST_BYTES / 1e6:g} MB at most.")


def confused(replay: Replay, most: int = CLIPS) -> list[tuple[int, str, int, int]]:
    """Clips that are taken most often for one other class.

    Returns:
        For each clip its row in the clip table, the class it was taken for, the number of times, and the number of
        times that it was a query.
    """
    episodes, names = replay.episodes, replay.episodes.class_names
    given = np.take_along_axis(episodes.classes[:, None, :], replay.chosen.astype(np.int64), axis=2)
    wrong = given != episodes.classes[:, :, None]
    asked = np.bincount(episodes.query.ravel(), minlength=len(replay.data.table))
    pairs, times = np.unique(episodes.query[wrong] * len(names) + given[wrong], return_counts=True)
    found: dict[int, tuple[int, str, int, int]] = {}
    for at in np.argsort(-times, kind="stable").tolist():
        row, label = divmod(int(pairs[at]), len(names))
        found.setdefault(row, (row, names[label], int(times[at]), int(asked[row])))
        if len(found) == most:
            break
    return list(found.values())


def excerpt(path: Path) -> str:
    """Beginning of a sound as the data URI of a FLAC file, 16 bits, mono.

    Raises:
        BadInputError: The file is missing or no sound.
        MachineError: The file cannot be opened.
    """
    import soundfile

    from uamix_bench.data.audio import read

    samples = read(path, RATE, max_seconds=SECONDS).samples
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), RATE, format="FLAC", subtype="PCM_16")
    return f"data:audio/flac;base64,{base64.b64encode(file.getvalue()).decode()}"
