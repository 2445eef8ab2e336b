"""Chunks of WAV (RIFF, RIFX, RF64) and AIFF files, and stated lengths that contradict the file.

A decoder believes the length of the sound chunk. A writer that was killed, or counts in 32 bits, leaves a wrong one.
"""

from __future__ import annotations

import math
import string
from typing import Literal, NamedTuple

from uamix_bench.data.streams import REFETCH, Source, Stream, truncated
from uamix_bench.util.errors import BadInputError

_STREAMED = 0x7FFF_E000  # writers that cannot seek back leave a length of 2 or 4 GiB, less some bytes
_UNKNOWN = b"\xff\xff\xff\xff"  # so libsndfile reads to the end of the file
_MAX_CHUNKS = 1_000  # a damaged file may hold millions of empty ones
_PADDING = 1 << 16  # zero bytes up to the end of a cluster of a disk
_LETTERS = frozenset((string.ascii_letters + string.digits + " _-.()").encode())
_KNOWN = frozenset(
    b"LIST INFO fact PEAK JUNK junk PAD  FLLR bext iXML aXML axml chna cue  smpl inst plst labl note ltxt adtl DISP "
    b"id3  ID3  acid cart umid levl r64m minf elm1 regn SAUR _PMX afsp LGWV MARK COMT INST MIDI AESD APPL NAME AUTH "
    b"ANNO (c)  FVER SAXL CHAN"[index : index + 4]
    for index in range(0, 270, 5)
)
_AIFC_PCM = (b"NONE", b"sowt", b"twos", b"raw ", b"in24", b"in32")
_AIFF_STREAMED = 0x7F00_0000
_MPEG = (0x0050, 0x0055)
_EXTENSIBLE = 0xFFFE
_IGNORE = "if all of it is sound, 'ffmpeg -ignore_length 1 -i IN OUT.wav' repairs it"


class _Chunk(NamedTuple):
    """A chunk: its name, the position behind its header, and its length in bytes."""

    name: bytes
    start: int
    length: int


def wav(source: Source) -> tuple[Stream, bool]:
    """The sound of a WAV file, and True if it is MPEG audio (format tags 0x50 and 0x55).

    Raises:
        BadInputError: The data chunk states more bytes than the file holds, or more sound follows it.
    """
    order: Literal["big", "little"] = "big" if source.at(0, 4) == b"RIFX" else "little"
    chunks = {chunk.name: chunk for chunk in reversed(_chunks(source, 12, order))}  # the first of each name
    if b"data" not in chunks:
        return Stream(source), False
    start, length = chunks[b"data"][1:]
    long_at = chunks[b"ds64"].start + 8 if b"ds64" in chunks else 0
    if long_at:  # RF64 keeps a length beyond 32 bits there (EBU Tech 3306)
        length = int.from_bytes(source.at(long_at, 8), "little")
    stop, sound = start + length, source
    if stop > source.size and not long_at and length >= _STREAMED:
        stop = source.size
    elif stop > source.size:
        how = f"its header claims {length} bytes of sound, {stop - source.size} of them are missing"
        raise truncated(source.path, how)
    elif _sound_behind(source, stop, order):
        if length:
            how = f"its header claims {length} bytes of sound, and {source.size - stop} bytes follow that are no chunk"
            raise BadInputError(source.path, f"has an unfinished or wrong header: {how}", _IGNORE)
        stop = source.size  # the writer never came to write the length
        held = (stop - start).to_bytes(8, "little")
        sound = source.patched(long_at, held) if long_at else source.patched(start - 4, _UNKNOWN)
    return (Stream(source.part(start, stop)), True) if _is_mpeg(source, chunks, order) else (Stream(sound), False)


def _is_mpeg(source: Source, chunks: dict[bytes, _Chunk], order: Literal["big", "little"]) -> bool:
    form = source.at(chunks[b"fmt "].start, 26) if b"fmt " in chunks else b""
    tag = int.from_bytes(form[:2], order)
    return (int.from_bytes(form[24:26], order) if tag == _EXTENSIBLE else tag) in _MPEG


def aiff(source: Source) -> Stream:
    """The sound of an AIFF or AIFF-C file.

    Raises:
        BadInputError: The sound chunk states more bytes than the file holds, the two lengths in the file contradict
            each other, or more sound follows.
    """
    chunks = {chunk.name: chunk for chunk in reversed(_chunks(source, 12, "big"))}
    if b"SSND" not in chunks or b"COMM" not in chunks:
        return Stream(source)
    start, length = chunks[b"SSND"][1:]
    common = source.at(chunks[b"COMM"].start, 22)
    frames = int.from_bytes(common[2:6], "big")
    width = int.from_bytes(common[:2], "big") * math.ceil(int.from_bytes(common[6:8], "big") / 8)
    if source.at(8, 4) == b"AIFC" and common[18:22] not in _AIFC_PCM:
        width = 0  # as many bytes as the codec takes
    missing = start + length - source.size
    if length == 0 or (missing > 0 and length >= _AIFF_STREAMED):  # never finished: libsndfile reads to the end
        return Stream(source)
    if missing > 0:
        raise truncated(source.path, f"its header claims {length} bytes of sound, {missing} of them are missing")
    held = max(0, length - 8 - int.from_bytes(source.at(start, 4), "big"))
    if width and held < frames * width:
        raise truncated(source.path, f"its header claims {frames} frames, {held // width} are there")
    if (width and held >= (frames + 1) * width) or _sound_behind(source, start + length, "big"):
        how = f"its header claims {frames} frames, and bytes follow them that are no chunk"
        raise BadInputError(source.path, f"has an unfinished or wrong header: {how}", REFETCH)
    return Stream(source)


def _chunks(source: Source, position: int, order: Literal["big", "little"]) -> list[_Chunk]:
    """Chunks from `position` on, as far as their headers exist. A chunk of odd length is padded by a byte."""
    found: list[_Chunk] = []
    while position + 8 <= source.size and len(found) < _MAX_CHUNKS:
        head = source.at(position, 8)
        found.append(_Chunk(head[:4], position + 8, int.from_bytes(head[4:], order)))
        position += 8 + found[-1].length + found[-1].length % 2
    return found


def _sound_behind(source: Source, position: int, order: Literal["big", "little"]) -> bool:
    """Test for sound behind the sound chunk, beyond other chunks, a tag and padding.

    Raises:
        BadInputError: A second file follows, or a second sound chunk.
    """
    starts = sorted({position, position + position % 2})
    return position + 8 <= source.size and all(_is_sound(source, start, order) for start in starts)


def _is_sound(source: Source, position: int, order: Literal["big", "little"]) -> bool:
    for chunk in _chunks(source, position, order):
        if chunk.name in (b"RIFF", b"RIFX", b"RF64", b"FORM", b"data", b"SSND"):
            how = f"holds a second sound from byte {chunk.start - 8} on, which would not be read"
            raise BadInputError(source.path, how, "split the file")
        end = chunk.start + chunk.length
        if not _LETTERS.issuperset(chunk.name) or (end > source.size and chunk.name not in _KNOWN):
            break
        position = min(source.size, end + chunk.length % 2)
    rest = source.at(position, _PADDING + 1)
    return len(rest) >= 8 and not rest.startswith((b"TAG", b"ID3")) and (len(rest) > _PADDING or any(rest))
