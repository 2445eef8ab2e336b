"""Tags in sound files: ID3v2 and APE before, behind and between joined files, ID3v1 and Lyrics3 at the end."""

from __future__ import annotations

from uamix_bench.data.streams import Source

_APE_BYTES, _ID3V1_BYTES = 32, 128


def behind(source: Source, position: int) -> int:
    """Position of the first byte from `position` on that belongs to no tag."""
    while length := _length(source.at(position, _APE_BYTES)):
        position += length
    return min(position, source.size)


def before(source: Source) -> int:
    """Position of the first tag at the end of a file, which is the end of the sound."""
    end = source.size
    while True:
        if end >= _ID3V1_BYTES and source.at(end - _ID3V1_BYTES, 3) == b"TAG":
            end -= _ID3V1_BYTES
            continue
        foot = source.at(max(0, end - _APE_BYTES), min(end, _APE_BYTES))
        length = 0
        if foot.startswith(b"APETAGEX"):
            length = int.from_bytes(foot[12:16], "little") + (_APE_BYTES if foot[23] & 0x80 else 0)
        elif foot[-10:-7] == b"3DI":
            length = 20 + _syncsafe(foot[-4:])
        elif foot.endswith(b"LYRICS200") and foot[-15:-9].isdigit():
            length = 15 + int(foot[-15:-9])
        if not 0 < length <= end:
            return end
        end -= length


def _length(head: bytes) -> int:
    """Length in bytes of the tag that `head` begins; 0 if it begins none."""
    if head[:3] == b"ID3" and len(head) >= 10 and head[3] < 0xFF and max(head[6:10]) < 0x80:
        return 10 + _syncsafe(head[6:10]) + (10 if head[5] & 0x10 else 0)
    if head[:8] == b"APETAGEX" and len(head) == _APE_BYTES and head[23] & 0x20:  # the flag of a header
        return _APE_BYTES + int.from_bytes(head[12:16], "little")
    if head[:3] == b"TAG" and len(head) == _APE_BYTES:
        return _ID3V1_BYTES
    return 0


def _syncsafe(four: bytes) -> int:
    """Number of 28 bits in four bytes of seven (ID3v2.4, section 6.2)."""
    return four[0] << 21 | four[1] << 14 | four[2] << 7 | four[3]
