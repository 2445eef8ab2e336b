"""Training data: the log-mel frames of every clip, decoded once, and the order in which steps visit the clips."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from uamix_bench.audio import read
from uamix_bench.errors import BadInputError, UsageError
from uamix_bench.progress import SILENT, Progress
from uamix_bench.task import TaskData, is_path, load_task

Fbank = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Ints = npt.NDArray[np.int64]
_DECODED_AT_ONCE = 64  # clips


@dataclass(frozen=True)
class Frames:
    """The log-mel frames of a data set, one clip after the other.

    Attributes:
        values: (N, F) float16, nepers of power; half precision resolves 0.01 of a neper at the quietest bins.
        first: (n,) row of each clip's first frame.
        count: (n,) frames of each clip.
        recordings: (n,) number of the recording that each clip comes from.
        sha256: Of the clip table: what a resumed training must find unchanged.
        skipped: (clip, reason) of each clip that could not be read.
    """

    values: npt.NDArray[np.float16]
    first: Ints
    count: Ints
    recordings: Ints
    sha256: str
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.first)


def find_data(name: str, data_dir: Path | None = None, audio_root: Path | None = None) -> TaskData:
    """Resolves a recipe's data: ``TASK[:SPLIT]``, a folder, or a CSV.

    Raises:
        UsageError: Unknown task or split.
        BadInputError: The data is missing or not what it claims.
    """
    if is_path(name):
        return load_task(name, audio_root=audio_root)
    task, _, split = name.partition(":")
    try:
        return load_task(task, data_dir, splits=(split,) if split else None)
    except UsageError as error:
        raise UsageError(f"--data {name}", error.reason, "give a folder, a CSV, or TASK[:SPLIT]") from error


def load_frames(data: TaskData, fbank: Fbank, sample_rate: int, progress: Progress = SILENT) -> Frames:
    """Decodes every clip of `data`, cut to the card's clip length, into log-mel frames.

    A clip that cannot be read is skipped and named.

    Args:
        data: The clips.
        fbank: (B, S) float32 waveforms and (B,) lengths -> (B, T, F) frames and (B,) counts.
        sample_rate: That `fbank` takes, in Hz.
        progress: Is told of every clip.

    Raises:
        BadInputError: No clip can be read.
    """
    data.task.materialise(data.clips, progress)
    parts: list[npt.NDArray[np.float16]] = []
    kept: list[int] = []
    skipped: list[tuple[str, str]] = []
    clips, paths = data.clips["clip"].astype(str).tolist(), data.clips["path"].astype(str).tolist()
    with progress.bar("decoding", len(clips)) as advance:
        for begin in range(0, len(clips), _DECODED_AT_ONCE):
            waves = []
            for row in range(begin, min(begin + _DECODED_AT_ONCE, len(clips))):
                try:
                    waves.append(read(Path(paths[row]), sample_rate, max_seconds=data.card.clip_seconds).samples)
                    kept.append(row)
                except BadInputError as error:
                    skipped.append((clips[row], error.reason))
                advance(1, f"{len(skipped)} skipped" if skipped else "")
            parts.extend(_frames(waves, fbank))
    if not parts:
        raise BadInputError(data.root, "no clip can be read", "run 'uamix-bench tasks verify' on it")
    count = np.array([len(part) for part in parts], np.int64)
    return Frames(
        values=np.concatenate(parts),
        first=np.cumsum(count) - count,
        count=count,
        recordings=np.unique(data.clips["group"].to_numpy(str)[kept], return_inverse=True)[1].astype(np.int64),
        sha256=data.clips_sha256,
        skipped=tuple(skipped),
    )


def _frames(waves: list[npt.NDArray[np.float32]], fbank: Fbank) -> Iterator[npt.NDArray[np.float16]]:
    if not waves:
        return
    lengths = torch.tensor([len(wave) for wave in waves])
    batch = torch.zeros(len(waves), int(lengths.max()))
    for row, wave in zip(batch, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    frames, counts = fbank(batch, lengths)
    for clip, count in zip(frames, counts.tolist(), strict=True):
        yield clip[:count].to(torch.float16).numpy()


def random(seed: int, stage: int, step: int, view: int) -> np.random.Generator:
    """The stream of one (seed, stage, step, view): what a step draws depends on nothing that came before it."""
    counter = (view << 192) | (step << 128) | (stage << 64)
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


def batches(recordings: Ints, batch: int, seed: int, stage: int, epoch: int) -> Ints:
    """Orders one epoch: whole batches of clips, no two of one recording in a batch.

    Args:
        recordings: (n,) recording of each clip.
        batch: Clips in a batch.
        seed: Of the training.
        stage: Of the training, so that stages differ.
        epoch: From 0; a different order each.

    Returns:
        (steps, batch) int64 rows; clips that fill no whole batch wait for another epoch.

    Raises:
        UsageError: There are fewer recordings than a batch needs.
    """
    available = len(np.unique(recordings))
    if available < batch:
        raise UsageError(f"batch {batch}", f"the data holds only {available} recordings", "choose a smaller --batch")
    shuffled = random(seed, stage, epoch, view=1 << 32).permutation(len(recordings))
    if available == len(recordings):
        return shuffled[: len(shuffled) // batch * batch].reshape(-1, batch)
    waiting = deque(shuffled.tolist())
    rows: list[list[int]] = []
    while True:
        taken: list[int] = []
        present: set[int] = set()
        postponed: list[int] = []
        while waiting and len(taken) < batch:
            clip = waiting.popleft()
            if int(recordings[clip]) in present:
                postponed.append(clip)
            else:
                taken.append(clip)
                present.add(int(recordings[clip]))
        if len(taken) < batch:
            return np.array(rows, np.int64).reshape(-1, batch)
        rows.append(taken)
        waiting.extendleft(reversed(postponed))
