"""Training data: the log-mel frames of every clip, decoded once, and the order in which steps visit the clips."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from uamix_bench.data.sound import sound_digests, sounds
from uamix_bench.data.task import TaskData
from uamix_bench.storage.digests import sounds_sha256
from uamix_bench.tuning.decoding import Fbank, Sounds, decode
from uamix_bench.util.arrays import Halves, Ints
from uamix_bench.util.errors import BadInputError, UsageError
from uamix_bench.util.progress import SILENT, Progress

_DRAW = 10  # stage number of the draw of clips
_NAMED = 10  # skipped clips that are said one by one


@dataclass(frozen=True)
class Frames:
    """The log-mel frames of a data set, one clip after the other.

    Attributes:
        values: (N, F) float16 log-mel power in nepers; half precision resolves 0.01 of a neper at the quietest bins.
            Mapped from a file, so that only the values in use are in memory.
        first: (n,) row of each clip's first frame.
        count: (n,) frames of each clip.
        recordings: (n,) number of the recording that each clip comes from.
        sha256: SHA-256 of the clip table.
        skipped: (clip, reason) of each clip that could not be read.
        sounds_sha256: SHA-256 of the clips' sounds; this and `sha256` must be unchanged when a training resumes.
    """

    values: Halves
    first: Ints
    count: Ints
    recordings: Ints
    sha256: str
    skipped: tuple[tuple[str, str], ...] = ()
    sounds_sha256: str = ""

    def __len__(self) -> int:
        return len(self.first)

    def drawn(self, clips: int | None, seed: int) -> Frames:
        """The same data with only the clips that :func:`drawn` draws. Its digests remain those of the whole."""
        rows = drawn(len(self), clips, seed)
        return replace(self, first=self.first[rows], count=self.count[rows], recordings=self.recordings[rows])


def load_frames(
    data: TaskData,
    fbank: Fbank,
    sample_rate: int,
    progress: Progress = SILENT,
    *,
    workers: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Frames:
    """Decodes every clip of `data`, cut to the card's clip length, into log-mel frames.

    The frames are stored under ``UAMIX_BENCH_HOME/frames``, keyed by the contents of the sounds and the front end, so
    that nothing is decoded twice. A clip that cannot be read is skipped and named.

    Args:
        data: Clips to decode.
        fbank: Front end: (B, S) float32 waveforms and (B,) lengths -> (B, T, F) frames and (B,) counts.
        sample_rate: Sample rate that `fbank` takes, in Hz.
        progress: Progress display of the decoded clips.
        workers: Number of decoding processes; None for one a core, or for this process alone if there is little to do.
        stop: Function polled while decoding; True raises Stopped, and the next call resumes.

    Raises:
        BadInputError: No clip can be read.
        MachineError: The disk is full, the folder cannot be written, or a worker died.
        Stopped: `stop` returned True.
    """
    data.task.materialise(data.table, progress)
    clips, heard = data.table["clip"].tolist(), sounds(data.table)
    digested = sound_digests(heard, progress=progress)
    source = Sounds(heard, digested.digests, fbank, sample_rate, data.card.clip_seconds)
    decoded = decode(source, workers, progress, stop)
    kept = np.flatnonzero(decoded.counts)
    if not len(kept):
        raise BadInputError(data.root, "no clip can be read", "run 'uamix-bench tasks verify' on it")
    count = decoded.counts[kept]
    skipped = tuple((clips[index], decoded.reasons[index]) for index in sorted(decoded.reasons))
    if skipped:
        progress.say(f"skipped {len(skipped)} of {len(clips)} clips that cannot be read")
    for clip, reason in skipped[:_NAMED]:
        progress.say(f"skipped {clip}: {reason}")
    if len(skipped) > _NAMED:
        progress.say(f"skipped {len(skipped) - _NAMED} more; the record names all")
    return Frames(
        values=decoded.values,
        first=np.cumsum(count) - count,
        count=count,
        recordings=np.unique(data.table["group"].astype(str)[kept], return_inverse=True)[1].astype(np.int64),
        sha256=data.clips_sha256,
        skipped=skipped,
        sounds_sha256=sounds_sha256(digested.digests),
    )


def random(seed: int, stage: int, step: int, view: int) -> np.random.Generator:
    """Random stream of one (seed, stage, step, view): a step's draws depend on nothing that came before it."""
    counter = (view << 192) | (step << 128) | (stage << 64)
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


def drawn(available: int, clips: int | None, seed: int) -> Ints:
    """Rows of the clips that a training takes, in order: the first ones of a permutation by the seed; None takes all.

    Raises:
        UsageError: The data holds fewer clips.
    """
    if clips is None:
        return np.arange(available)
    if clips > available:
        raise UsageError(f"clips {clips}", f"the data holds only {available}", "choose fewer: --set clips=N, or all")
    return np.sort(random(seed, _DRAW, 0, 0).permutation(available)[:clips])


def batches(recordings: Ints, batch: int, seed: int, stage: int, epoch: int) -> Ints:
    """Orders one epoch into whole batches of clips, no two of one recording in a batch.

    Args:
        recordings: (n,) recording of each clip.
        batch: Number of clips in a batch.
        seed: Seed of the training.
        stage: Number of the training stage, so that stages differ.
        epoch: Number of the epoch, from 0; each has an order of its own.

    Returns:
        (steps, batch) int64 rows; clips that fill no whole batch are left to another epoch.

    Raises:
        UsageError: The data has fewer recordings than a batch needs.
    """
    available = len(np.unique(recordings))
    if available < batch:
        raise UsageError(
            f"batch {batch}", f"the data holds only {available} recordings", "choose a smaller batch: --set batch=N"
        )
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
