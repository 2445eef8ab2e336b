"""Count of MPEG audio frames (ISO/IEC 11172-3, 13818-3), one by one.

Only a Xing, Info or VBRI frame states their number. A decoder estimates the length of a file without one from its size.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import NamedTuple

from uamix_bench.data import tags
from uamix_bench.data.streams import MAX_STREAMS, Source, Stream, damaged, truncated

_RATES = (44_100, 48_000, 32_000)
_VERSIONS = {0b11: 1, 0b10: 2, 0b00: 4}  # MPEG-1, 2 and 2.5: what divides the rates
_LAYERS = {0b11: 1, 0b10: 2, 0b01: 3}
_KBPS = {  # by layer, of MPEG-1 and of the others
    1: (range(0, 449, 32), (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256)),
    2: ((0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),) * 2,
    3: ((0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),) * 2,
}
_LOW_KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # layers II and III below 32 kHz
_SYNC = re.compile(rb"\xff[\xe2-\xff][\x00-\xef]")
_BLOCK = 1 << 18  # bytes looked through at once
_IN_A_ROW = 3  # frames that follow one another are no accident
_MAX_FREE = 1 << 13  # bytes of a frame of free format
_MARGIN = 16  # frames that delay and padding, of 12 bits each, may take
_FOREIGN = 0.005  # share of bytes beside the frames; from 0.01 on libsndfile's decoder writes to the screen


class _Format(NamedTuple):
    """Common properties of a stream's frames; `sizes` in bytes, by the second and third byte of a header."""

    sample_rate: int
    samples: int  # of a frame, per channel
    layer: int
    sizes: dict[int, int]


class _Count(NamedTuple):
    """A Xing, Info or VBRI frame: its size and mark, and the frames and bytes that it states (0 if it states none)."""

    size: int = 0
    mark: str = ""
    frames: int = 0
    bytes: int = 0
    bytes_at: int = 0


def streams(source: Source, until_s: float | None) -> list[Stream]:
    """Streams of an MP3 file: one, or several if files were joined.

    Args:
        source: Bytes of the file.
        until_s: Length that is needed, in seconds; the rest is not read. None reads the whole structure.

    Raises:
        BadInputError: The last frame is incomplete, the file holds fewer frames than a Xing, Info or VBRI frame states,
            or bytes between frames are no tag.
    """
    found: list[Stream] = []
    position, end, found_s = 0, tags.before(source), 0.0
    while (position := tags.behind(source, position)) < end:
        if (form := _format(source, position, end)) is None:
            sound = _resync(source, position, end)
            if sound is None:
                break  # junk behind the last frame
            if found:
                raise damaged(source.path, f"bytes {position} to {sound} are no MPEG audio, and more of it follows")
            position = sound
            continue
        stream, seconds, position = _stream(source, position, end, form, until_s and until_s - found_s)
        found += [stream] if stream else []
        found_s += seconds
        if len(found) > MAX_STREAMS:
            raise damaged(source.path, f"it is joined of more than {MAX_STREAMS} streams")
        if until_s is not None and found_s >= until_s:
            break
    if not found:
        raise damaged(source.path, "it holds no whole frame of MPEG audio")
    return found


def begins_within(source: Source) -> bool:
    """True if a frame begins soon; a recording cut from a stream begins within a frame."""
    return _resync(source, 0, min(source.size, _IN_A_ROW * _MAX_FREE)) is not None


def _stream(
    source: Source, start: int, end: int, form: _Format, until_s: float | None
) -> tuple[Stream | None, float, int]:
    """The stream from `start` on, its length in seconds as far as it was read, and the position behind it."""
    claim = _count_frame(source, start, form)
    wanted = math.inf if until_s is None else math.ceil(until_s * form.sample_rate / form.samples) + _MARGIN
    if claim.mark != "VBRI" and claim.frames > wanted:
        return _counted(source, start, end, claim), math.inf, end
    count, position = _walk(source, start + claim.size, end, form, wanted, claim.frames)
    if position > end or _begins(source.at(position, end - position), form):
        raise truncated(source.path, "its last frame is incomplete")
    spare = claim.mark == "VBRI"  # some writers count that frame too
    if count < min(claim.frames - spare, wanted):
        raise truncated(source.path, f"its {claim.mark} header counts {claim.frames} frames, {count} are there")
    seconds = count * form.samples / form.sample_rate
    if not count:
        return None, 0.0, position
    if claim.mark != "VBRI" and claim.frames == count:
        return _counted(source, start, position, claim), seconds, position
    part = source.part(start + claim.size, position if count < wanted else end)
    return Stream(part, count * form.samples, open_end=True), seconds, position


def _counted(source: Source, start: int, stop: int, claim: _Count) -> Stream:
    """A stream whose Xing or Info frame gives the decoder its length.

    A wrong byte count there is corrected, as the decoder would warn of it.
    """
    foreign = max(start + source.size - stop, abs(source.size - claim.bytes) if claim.bytes_at else 0)
    if foreign <= _FOREIGN * source.size and (start == 0 or source.at(0, 3) == b"ID3"):
        return Stream(source)
    part = source.part(start, stop)
    return Stream(part.patched(claim.bytes_at, part.size.to_bytes(4, "big")) if claim.bytes_at else part)


def _walk(source: Source, position: int, end: int, form: _Format, wanted: float, claimed: int) -> tuple[int, int]:
    """Counts frames until other bytes begin, `wanted` are counted, or a joined file follows the `claimed` ones.

    Returns:
        The number of whole frames, and the position of the next: beyond `end` if the last frame is incomplete.
    """
    count, size_of = 0, form.sizes.get
    while position < end and count < wanted:
        data = source.at(position, min(_BLOCK, end - position))
        at, last, before = 0, len(data) - 2, count
        while at < last and data[at] == 0xFF and (size := size_of(data[at + 1] << 8 | data[at + 2])):
            at += size
            count += 1
            if count == claimed:
                break
        position += at
        if position > end:
            return count - 1, position
        if count == before or (count == claimed and _count_frame(source, position, form).mark):
            break
    return count, position


def _count_frame(source: Source, position: int, form: _Format) -> _Count:
    """The Xing, Info or VBRI frame at `position`, if any. Such a frame holds no sound."""
    head = source.at(position, 64)
    if form.layer != 3 or len(head) < 64 or head[0] != 0xFF:
        return _Count()
    size = form.sizes.get(head[1] << 8 | head[2], 0)
    at = 4 + _side_bytes(head) + 2 * (not head[1] & 1)
    if size and head[at : at + 4] in (b"Xing", b"Info"):
        frames = int.from_bytes(head[at + 8 : at + 12], "big") if head[at + 7] & 1 else 0
        bytes_at = at + 8 + 4 * (head[at + 7] & 1) if head[at + 7] & 2 else 0
        held = int.from_bytes(head[bytes_at : bytes_at + 4], "big")
        return _Count(size, head[at : at + 4].decode(), frames, held, bytes_at)
    if size and head[36:40] == b"VBRI":
        return _Count(size, "VBRI", int.from_bytes(head[50:54], "big"))
    return _Count()


def _side_bytes(head: bytes) -> int:
    """Bytes of layer III's side information, without which there is no frame; no layer has frames below that."""
    mono, first = head[3] >> 6 == 0b11, head[1] >> 3 & 0b11 == 0b11
    return (17 if mono else 32) if first else (9 if mono else 17)


def _begins(rest: bytes, form: _Format) -> bool:
    """Test for one or two last bytes that begin a frame's header."""
    second = {key >> 8 for key in form.sizes}
    return len(rest) in (1, 2) and rest[0] == 0xFF and second.issuperset(rest[1:])


def _format(source: Source, position: int, end: int, in_a_row: int = 2) -> _Format | None:
    """Format of the frames at `position`: `in_a_row` of them, or fewer up to the end; None if there are none."""
    head = source.at(position, 4)
    if len(head) < 4 or not _SYNC.match(head) or head[1] & 0x18 == 0x08 or not head[1] & 0x06 or head[2] & 0x0C == 0x0C:
        return None
    free = 0 if head[2] >> 4 else _free_size(source, position, end)
    form = _sizes(head[1] >> 1 & 0x0F, head[2] >> 2 & 0b11, free)
    for _ in range(in_a_row):
        if position >= end:
            break
        head = source.at(position, 3)
        size = form.sizes.get(head[1] << 8 | head[2], 0) if len(head) == 3 and head[0] == 0xFF else 0
        if not size or (in_a_row == _IN_A_ROW and position + size > end):
            return None
        position += size
    return form


@lru_cache(64)
def _sizes(kind: int, rate: int, free: int) -> _Format:
    """Format for a version and layer (four bits of the header), an index of the rate, and a size of free format."""
    version, layer = _VERSIONS[kind >> 2], _LAYERS[kind & 0b11]
    sample_rate = _RATES[rate] // version
    samples = 384 if layer == 1 else 576 if layer == 3 and version > 1 else 1152
    unit = 4 if layer == 1 else 1
    kbps = _LOW_KBPS if version > 1 and layer > 1 else _KBPS[layer][version > 1]
    sizes = {}
    for index in range(1 if not free else 0, 15 if not free else 1):
        whole = free if free else samples // 8 // unit * kbps[index] * 1_000 // sample_rate * unit
        for padded in (0, 1):
            for protected in (0, 1):
                for private in (0, 1):
                    second, third = 0xE0 | kind << 1 | protected, index << 4 | rate << 2 | padded << 1 | private
                    sizes[second << 8 | third] = whole + padded * unit
    return _Format(sample_rate, samples, layer, sizes)


def _free_size(source: Source, position: int, end: int) -> int:
    """Bytes of a free-format frame without padding. Its header must be repeated twice, else the size is 0."""
    data = source.at(position, max(4, min(3 * _MAX_FREE, end - position)))
    unit = 4 if data[1] & 0x06 == 0x06 else 1

    def alike(at: int) -> bool:
        return data[at : at + 2] == data[:2] and len(data) > at + 2 and (data[at + 2] ^ data[2]) & 0xFC == 0

    at = 4 + _side_bytes(data)
    while 0 < (at := data.find(data[:2], at)) < _MAX_FREE:
        size = at - unit * (data[2] >> 1 & 1)
        if alike(at) and (alike(following := at + size + unit * (data[at + 2] >> 1 & 1)) or following == len(data)):
            return size
        at += 1
    return 0


def _resync(source: Source, position: int, end: int) -> int | None:
    """Position where frames begin again behind other bytes; None if they do not."""
    while position < end:
        data = source.at(position, min(_BLOCK, end - position))
        for match in _SYNC.finditer(data):
            if _format(source, position + match.start(), end, _IN_A_ROW):
                return position + match.start()
        position += max(1, len(data) - 2)
    return None
