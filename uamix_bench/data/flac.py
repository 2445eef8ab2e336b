"""FLAC streams (RFC 9639): several in one file, and lengths that the header leaves open or states too short.

The last frame holds its own position in the stream, so the length is found without decoding.
"""

from __future__ import annotations

from itertools import islice

from uamix_bench.data import tags
from uamix_bench.data.streams import MAX_STREAMS, Source, Stream, damaged

_MARK = b"fLaC"
_STREAMINFO = (b"\0\0\0\x22", b"\x80\0\0\x22")  # the header of the block behind the mark
_TOTAL_AT = 21  # four bits of this byte, and the four bytes behind it
_TAILS = (1 << 14, 1 << 17, 1 << 22)  # bytes; the last is more than a frame of eight channels has
_BLOCK_SIZES = {1: 192} | {code: 144 << code for code in range(2, 6)} | {code: 1 << code for code in range(8, 16)}


def streams(source: Source, until_s: float | None) -> list[Stream]:
    """Streams of a FLAC file: one, or several if files were joined.

    Args:
        source: Bytes of the file.
        until_s: Length that is needed, in seconds; the rest is not read. None reads the whole structure.

    Raises:
        BadInputError: A header leaves the length open, and the stream holds no frame.
    """
    start = tags.behind(source, 0)
    head = source.at(start, 26)
    sample_rate, claimed = int.from_bytes(head[18:21], "big") >> 4, total(head)
    if until_s is not None and claimed > until_s * sample_rate > 0:
        return [_stream(source, start, source.size, check=False)]
    marks = source.places(_MARK, start + len(_MARK))
    more = (at for at in marks if source.at(at + len(_MARK), 4) in _STREAMINFO)
    starts = [start, *islice(more, MAX_STREAMS)]
    if len(starts) > MAX_STREAMS:
        raise damaged(source.path, f"it is joined of more than {MAX_STREAMS} streams")
    return [_stream(source, *span) for span in zip(starts, [*starts[1:], source.size], strict=True)]


def _stream(source: Source, start: int, stop: int, check: bool = True) -> Stream:
    part = source if (start, stop) == (0, source.size) else source.part(start, stop)
    claimed, found = total(part.at(0, 26)), _extent(part) if check else None
    if found is None:
        if claimed == 0:
            raise damaged(source.path, "its header leaves its length open, and it holds no frame that tells it")
        return Stream(part)
    begin, length = found
    segment = begin > 0 and claimed == begin + length  # cut out of a stream by a tool, with the header of the whole
    if claimed >= max(1, length) and not segment:
        return Stream(part)  # the decoder finds what is cut
    patch = bytes([part.at(_TOTAL_AT, 1)[0] & 0xF0 | length >> 32]) + (length & 0xFFFF_FFFF).to_bytes(4, "big")
    return Stream(part.patched(_TOTAL_AT, patch), length)


def total(head: bytes) -> int:
    """Number of samples per channel in STREAMINFO, from a stream's first 26 bytes; 0 leaves it open."""
    return int.from_bytes(head[_TOTAL_AT : _TOTAL_AT + 5], "big") & 0xF_FFFF_FFFF


def _extent(part: Source) -> tuple[int, int] | None:
    """Position of the first frame in its stream, and samples per channel from there to the last frame's end."""
    position = 4
    while True:  # metadata blocks (section 8)
        head = part.at(position, 4)
        if len(head) < 4:
            return None
        position += 4 + int.from_bytes(head[1:], "big")
        if head[0] & 0x80:
            break
    first = part.at(position, 32)
    begin = _frame(first, first)
    if begin is None:
        return None
    for reach in _TAILS:
        tail = part.at(max(position, part.size - reach), reach)
        at = len(tail)
        while (at := tail.rfind(first[:2], 0, at + 1)) >= 0:
            last = _frame(tail[at : at + 32], first)
            if last is not None:
                unit = 1 if first[1] & 1 else begin[1]  # fixed block sizes number frames, variable ones samples
                return begin[0] * unit, (last[0] - begin[0]) * unit + last[1]
            at -= 1
        if position + reach >= part.size:
            break
    return None


def _frame(head: bytes, first: bytes) -> tuple[int, int] | None:
    """Number and samples of the frame with this header; None if it is none of the stream that begins with `first`."""
    if len(head) < 16 or head[0] != 0xFF or head[1] & 0xFE != 0xF8 or head[3] & 1 or head[3] >> 4 > 10:
        return None
    if head[1] != first[1] or (head[2] ^ first[2]) & 0x0F or (head[3] ^ first[3]) & 0x0E:
        return None
    more = 8 - (head[4] ^ 0xFF).bit_length()  # the number is coded as UTF-8 is, in up to 7 bytes
    if more == 1 or more > 7:
        return None
    at = 5 + max(0, more - 1)
    number = head[4] & (0x7F >> more)
    for byte in head[5:at]:
        if byte >> 6 != 0b10:
            return None
        number = number << 6 | byte & 0x3F
    code = head[2] >> 4
    wide = {6: 1, 7: 2}.get(code, 0)
    samples = _BLOCK_SIZES.get(code, 0) or (int.from_bytes(head[at : at + wide], "big") + 1 if wide else 0)
    at += wide + {12: 1, 13: 2, 14: 2}.get(head[2] & 0x0F, 0)
    if not samples or _crc8(head[:at]) != head[at]:
        return None
    return number, samples


def _crc8(content: bytes) -> int:
    """CRC-8 with the polynomial x^8 + x^2 + x + 1 (section 9.1.8)."""
    crc = 0
    for byte in content:
        crc = _CRC[crc ^ byte]
    return crc


def _crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [(crc << 1 ^ 0x107) if crc & 0x80 else crc << 1 for crc in table]
    return table


_CRC = _crc_table()
