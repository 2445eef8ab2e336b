"""Log-mel frames of many sounds, decoded once by worker processes into a file that is memory-mapped.

A folder below ``UAMIX_BENCH_HOME/frames``, named by a digest of its contents, has two files that only grow: ``values``
(float16 frames, one clip after the other) and ``journal`` (one JSON line a block of clips: their counts, the skipped
clips, and the CRC-32 of the block's values). A block counts once its line is complete and its values match the CRC. So
a killed run resumes with the next block, a file is finished once its journal names every clip, and damaged blocks are
decoded again.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from uamix_bench.data.audio import read, undecoded
from uamix_bench.data.sound import Sound
from uamix_bench.models.sources import is_own
from uamix_bench.util import files
from uamix_bench.util.arrays import Floats, Halves, Ints
from uamix_bench.util.errors import BadInputError, MachineError, Stopped
from uamix_bench.util.progress import Progress
from uamix_bench.util.threads import SLOW_S, Watch, cores, in_threads, settle

Fbank = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_VERSION = 1  # raised whenever the same sound gives other frames
_BLOCK = 64  # clips decoded at once: what a killed run loses
_WORTH_WORKERS = 512  # clips: fewer are done before the workers have imported torch
_MOST_WORKERS = 16
_PATIENCE_S = 600.0  # for a block of clips, each of which has a minute
_ALONE = "repeat the command to resume; --workers 1 decodes in this process"
_NOTHING = np.zeros((0, 1), np.float16)


@dataclass(frozen=True)
class Sounds:
    """Sounds to decode, and the front end that makes frames of them.

    Args:
        clips: The n sounds.
        digests: SHA-256 of each; zeros for one that cannot be read.
        fbank: Front end: (B, S) float32 waveforms and (B,) lengths -> (B, T, F) frames and (B,) counts. Frames are
            stored only if it is a dataclass of the project, whose `repr` tells it from every other front end.
        sample_rate: Sample rate that `fbank` takes, in Hz.
        max_seconds: Length in seconds that each clip is cut to.
    """

    clips: Sequence[Sound]
    digests: Sequence[bytes]
    fbank: Fbank
    sample_rate: int
    max_seconds: float

    @property
    def key(self) -> str:
        """SHA-256 (hex) over all that the frames depend on."""
        rule = [_VERSION, _BLOCK, repr(self.fbank), self.sample_rate, float(self.max_seconds)]
        return files.digest([*rule, *(digest.hex() for digest in self.digests)])


class Decoded(NamedTuple):
    """Decoded frames: (N, F) of all clips, (n,) counts of each (0 if skipped), and reasons of skipping by clip."""

    values: Halves
    counts: Ints
    reasons: dict[int, str]


class _Block(NamedTuple):
    """Frames of a block of clips; `skipped` gives the reason by the clip's place in the block."""

    values: Halves
    counts: list[int]
    skipped: dict[int, str]


def decode(sounds: Sounds, workers: int | None, progress: Progress, stop: Callable[[], bool]) -> Decoded:
    """Decodes the sounds that were not decoded before, and maps the frames of all.

    Args:
        sounds: Sounds to decode.
        workers: Number of decoding processes; None for one a core, or for this process alone if there is little to do.
        progress: Progress display, advanced with every block.
        stop: Function polled after every block; True raises Stopped.

    Raises:
        MachineError: The disk is full, the folder cannot be written, a worker died, or a file hangs its decoder;
            decoded blocks are kept.
        Stopped: `stop` returned True; decoded blocks are kept.
    """
    total = len(sounds.clips)
    if not (is_dataclass(sounds.fbank) and is_own(type(sounds.fbank))):
        blocks = []
        with progress.bar("decoding", total) as advance:
            for block in _blocks(sounds, 0, 1, progress):
                blocks.append(block)
                advance(len(block.counts), "")
        values = [block.values for block in blocks if len(block.values)]
        return _decoded(
            np.concatenate(values) if values else _NOTHING,
            [block.counts for block in blocks],
            [block.skipped for block in blocks],
        )
    folder = files.make_folder(files.home() / "frames" / sounds.key[:32])
    bins: int = sounds.fbank.num_mel_bins
    with files.locked(folder / "lock", progress.say):
        journal = _whole(folder, total, bins)
        done = sum(len(entry["count"]) for entry in journal)
        if done < total:
            journal += _continue(folder, sounds, done, workers, progress, stop)
        files.note_use(folder / "journal")
        size = sum(sum(entry["count"]) for entry in journal)
        mapped = np.memmap(folder / "values", np.float16, "r", shape=(size, bins)) if size else _NOTHING
    return _decoded(
        mapped.view(np.ndarray),
        [entry["count"] for entry in journal],
        [{int(place): reason for place, reason in entry["skipped"].items()} for entry in journal],
    )


def _decoded(values: Halves, counts: list[list[int]], skipped: list[dict[int, str]]) -> Decoded:
    reasons = {
        number * _BLOCK + place: reason for number, of_block in enumerate(skipped) for place, reason in of_block.items()
    }
    return Decoded(values, np.array([count for block in counts for count in block], np.int64), reasons)


def _continue(
    folder: Path, sounds: Sounds, done: int, workers: int | None, progress: Progress, stop: Callable[[], bool]
) -> list[dict[str, Any]]:
    """Appends the blocks from clip `done` on; returns their lines of the journal."""
    total, added, skipped = len(sounds.clips), [], 0
    try:
        with (
            (folder / "values").open("ab") as values,
            (folder / "journal").open("ab") as journal,
            progress.bar("decoding", total) as advance,
            closing(_blocks(sounds, done, workers, progress)) as blocks,
        ):
            advance(done, "")
            for block in blocks:
                content = block.values.tobytes()
                entry = {"count": block.counts, "skipped": block.skipped, "crc": zlib.crc32(content)}
                for file, part in ((values, content), (journal, json.dumps(entry).encode() + b"\n")):
                    file.write(part)
                    file.flush()
                added.append(json.loads(json.dumps(entry)))
                done += len(block.counts)
                skipped += len(block.skipped)
                advance(len(block.counts), f"{skipped} skipped" if skipped else "")
                if done < total and stop():
                    raise Stopped("decoding", f"stopped after {done} of {total} clips", "repeat the command to resume")
            for file in (values, journal):
                os.fsync(file.fileno())
    except OSError as error:
        raise files.machine_error(folder, error) from error
    except BrokenProcessPool as error:
        reason = "a process that decodes was killed or crashed"
        raise MachineError(folder, reason, _ALONE) from error
    return added


def _whole(folder: Path, total: int, bins: int) -> list[dict[str, Any]]:
    """Reads the journal as far as the values match it, and cuts both files off there."""
    entries: list[dict[str, Any]] = []
    lines_end = values_end = clips = 0
    try:
        with (folder / "journal").open("rb") as journal, (folder / "values").open("rb") as values:
            for line in journal:
                try:
                    entry = json.loads(line)
                    content = values.read(2 * bins * sum(entry["count"]))
                    agrees = line.endswith(b"\n") and zlib.crc32(content) == entry["crc"]
                except (ValueError, KeyError, TypeError):
                    break
                if not agrees or clips + len(entry["count"]) > total:
                    break
                entries.append(entry)
                clips += len(entry["count"])
                lines_end, values_end = lines_end + len(line), values.tell()
    except FileNotFoundError:
        pass
    try:
        for name, end in (("journal", lines_end), ("values", values_end)):
            path = folder / name
            if path.exists() and path.stat().st_size != end:
                os.truncate(path, end)
    except OSError as error:
        raise files.machine_error(folder, error) from error
    return entries


def _blocks(sounds: Sounds, done: int, workers: int | None, progress: Progress) -> Generator[_Block, None, None]:
    """Decodes block after block from clip `done` on, in this process or ahead in worker processes."""

    def slow(clip: object) -> None:
        progress.say(f"{clip}: still decoding after {SLOW_S:g} s")

    blocks = [list(sounds.clips[begin : begin + _BLOCK]) for begin in range(done, len(sounds.clips), _BLOCK)]
    how = (sounds.sample_rate, sounds.max_seconds, sounds.fbank)
    count = workers or (min(cores(), _MOST_WORKERS) if len(sounds.clips) - done >= _WORTH_WORKERS else 1)
    if count == 1:
        yield from (_decode(clips, *how, slow) for clips in blocks)
        return
    # joblib's processes neither inherit the locks of our threads, as a forked child would, nor run the caller's script
    # again, as a spawned one does where it has no main guard.
    from joblib.externals.loky import ProcessPoolExecutor

    pool = ProcessPoolExecutor(count, initializer=_begin_worker, initargs=(os.getpid(),))
    ahead: deque[tuple[list[Sound], Future[_Block]]] = deque()
    watch = Watch(SLOW_S / 10)

    def due() -> _Block:
        clips, future = ahead.popleft()
        begun_s = watch.look()
        block = f"{clips[0]} or one of the {len(clips) - 1} after it"
        if not settle(future, lambda: slow(block), lambda: watch.look() - begun_s > _PATIENCE_S, watch):
            reason = f"a process that decodes does not answer for {_PATIENCE_S:g} s (at {block})"
            raise MachineError("--workers", reason, _ALONE)
        return future.result()

    try:
        for clips in blocks:
            ahead.append((clips, pool.submit(_decode, clips, *how)))
            if len(ahead) == 2 * count:
                yield due()
        while ahead:
            yield due()
    finally:
        pool.shutdown(kill_workers=True)  # one of them may hang, and none has anything to keep


def _begin_worker(parent: int) -> None:
    """Initialises a worker: one thread, interrupts left to the parent, exit if the parent was killed."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _decode(
    clips: list[Sound],
    sample_rate: int,
    max_seconds: float,
    fbank: Fbank,
    slow: Callable[[object], None] = lambda clip: None,
) -> _Block:
    def hear(clip: Sound) -> Floats | BadInputError:
        try:
            return read(clip, sample_rate, max_seconds=max_seconds).samples
        except BadInputError as error:
            return error

    def hung(clip: Sound) -> NoReturn:
        raise undecoded(clip)

    waves: list[Floats] = []
    skipped: dict[int, str] = {}
    for place, heard in enumerate(in_threads(hear, clips, threads=1, ahead=1, slow=slow, hung=hung)):
        if isinstance(heard, BadInputError):
            skipped[place] = heard.reason
        else:
            waves.append(heard)
    frames = _frames(waves, fbank)
    rest = iter(frames)
    count = [0 if place in skipped else len(next(rest)) for place in range(len(clips))]
    return _Block(np.concatenate(frames) if frames else _NOTHING, count, skipped)


def _frames(waves: list[Floats], fbank: Fbank) -> list[Halves]:
    if not waves:
        return []
    lengths = torch.tensor([len(wave) for wave in waves])
    batch = torch.zeros(len(waves), int(lengths.max()))
    for row, wave in zip(batch, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    frames, counts = fbank(batch, lengths)
    return [clip[:count].to(torch.float16).numpy() for clip, count in zip(frames, counts.tolist(), strict=True)]
