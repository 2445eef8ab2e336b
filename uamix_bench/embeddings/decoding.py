"""Decoding of clips ahead of what listens to them, in threads and in order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain, islice

from uamix_bench.data import audio
from uamix_bench.data.sound import Sound
from uamix_bench.plugins.card import Segments
from uamix_bench.util.arrays import Floats
from uamix_bench.util.errors import BenchError
from uamix_bench.util.progress import Progress
from uamix_bench.util.threads import SLOW_S, cores, in_threads

_AHEAD = 64  # segments decoded before the encoder asks for them
_TOGETHER = 4  # of them of one clip


def decode(
    clip_sounds: Sequence[Sound],
    sample_rate: int,
    seconds: float,
    segments: Segments,
    progress: Progress,
    check: Callable[[Sound], None] = lambda _: None,
) -> Generator[Iterable[Floats | BenchError], None, None]:
    """Decodes clips in order, some ahead in threads so that the encoder does not wait. A hung clip counts as broken.

    Only the first segments of a long clip are decoded ahead; the others are decoded on demand. `check` is called behind
    a clip's last segment; a clip for which it raises a BenchError is broken.
    """

    def begin(sound: Sound) -> Iterable[Floats | BenchError]:
        rest = _listen(sound, sample_rate, seconds, segments, check)
        return chain(list(islice(rest, _TOGETHER)), rest)

    def slow(sound: Sound) -> None:
        progress.say(f"{sound}: still decoding after {SLOW_S:g} s")

    def hung(sound: Sound) -> Iterable[Floats | BenchError]:
        return [audio.undecoded(sound)]

    ahead = _AHEAD if segments == "first" else _AHEAD // _TOGETHER
    return in_threads(begin, clip_sounds, threads=cores(), ahead=ahead, slow=slow, hung=hung)


def _listen(
    sound: Sound, sample_rate: int, seconds: float, segments: Segments, check: Callable[[Sound], None]
) -> Iterator[Floats | BenchError]:
    """Yields the segments of a sound for a model and, if it is broken, the error."""
    try:
        if segments == "first":
            yield audio.read(sound, sample_rate, max_seconds=seconds).samples
        else:
            yield from audio.segments(sound, sample_rate, seconds)
        check(sound)
    except BenchError as error:
        yield error
