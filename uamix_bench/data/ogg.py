"""Pages of OGG files (RFC 3533): the links of a chain, FLAC in OGG as plain FLAC, and truncated ends.

Writers set a mark on the last page; some leave it out. Vorbis and Opus then show the end by a last packet of which not
all samples count (RFC 7845, section 4.4; Vorbis I specification, section A.2).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from uamix_bench.data import flac
from uamix_bench.data.streams import MAX_STREAMS, Source, Stream, damaged, truncated
from uamix_bench.util.errors import BadInputError

_MARK = b"OggS"
_FIRST, _LAST = 2, 4  # flags of a page
_MAX_PAGE = 65_307
_NOWHERE = (1 << 64) - 1  # granule position of a page on which no packet ends
_MARGIN = 1 << 16  # samples that an Opus stream may begin with and that are not heard
_VORBIS, _OPUS, _FLAC = b"\x01vorbis", b"OpusHead", b"\x7fFLAC"
_REMEDY = "download it again; if no other is to be had, 'ffmpeg -i IN OUT.flac' keeps what is there"
_OPUS_MS = (10, 20, 40, 60) * 3 + (10, 20) * 2 + (2.5, 5, 10, 20) * 4  # by the configuration of a packet


def _crc_table() -> list[int]:
    """Table of a page's CRC-32 by byte (RFC 3533, section 6)."""
    table = [number << 24 for number in range(256)]
    for _ in range(8):
        table = [(crc << 1 ^ 0x1_04C1_1DB7) if crc & 0x8000_0000 else crc << 1 for crc in table]
    return table


_CRC = _crc_table()


class _Page(NamedTuple):
    """An OGG page: positions of the page and of its body, lengths of its segments, and fields of its header."""

    start: int
    body: int
    lacing: bytes
    flags: int
    granule: int
    serial: bytes

    @property
    def end(self) -> int:
        return self.body + sum(self.lacing)


def streams(source: Source, until_s: float | None) -> list[Stream]:
    """Streams of an OGG file: one, or the links of a chain.

    Args:
        source: Bytes of the file.
        until_s: Length that is needed, in seconds; beyond it only the end is read. None reads the whole structure.

    Raises:
        BadInputError: A page is incomplete, or nothing shows that the last page is the end.
    """
    enough = None if until_s is None or not _ends(source) else until_s * _rate(source) + _MARGIN
    pages: list[_Page] = []
    starts: list[int] = []
    position = 0
    while (page := _page(source, position)) is not None:
        if page.end > source.size:
            raise truncated(source.path, "its last page is incomplete")
        if page.flags & _FIRST and not (pages and pages[-1].flags & _FIRST):
            starts.append(len(pages))
            if len(starts) > MAX_STREAMS:
                raise damaged(source.path, f"it is joined of more than {MAX_STREAMS} streams")
        pages.append(page)
        position = page.end
        if enough is not None and len(starts) == 1 and enough < page.granule < _NOWHERE:
            return [Stream(source)]
    if position < source.size and source.at(position, 4) == _MARK:
        raise truncated(source.path, "its last page is incomplete")
    if (again := next(source.places(_MARK, position), -1)) >= 0:
        raise damaged(source.path, f"bytes {position} to {again} are no page, and more pages follow")
    if not starts:
        raise damaged(source.path, "its first page is missing")
    links = [pages[start:stop] for start, stop in pairwise([*starts, len(pages)])]
    if not pages[-1].flags & _LAST:
        _check_end(source, links[-1])
    alone = len(links) == 1 and position == source.size
    return [stream for link in links for stream in _link(source, link, alone)]


def _page(source: Source, position: int) -> _Page | None:
    """The page at `position`; None if no whole page header is there."""
    head = source.at(position, 27 + 255)
    if len(head) < 27 or not head.startswith(_MARK) or len(head) < 27 + head[26]:
        return None
    lacing = head[27 : 27 + head[26]]
    granule = int.from_bytes(head[6:14], "little")
    return _Page(position, position + 27 + head[26], lacing, head[5], granule, head[14:18])


def _ends(source: Source) -> bool:
    """Test for a last page that is whole and marked as the last."""
    begin = max(0, source.size - _MAX_PAGE)
    at = source.at(begin, _MAX_PAGE).rfind(_MARK)
    page = _page(source, begin + at) if at >= 0 else None
    return page is not None and page.end <= source.size and bool(page.flags & _LAST)


def _rate(source: Source) -> float:
    """Granule positions per second; infinite for a codec whose header is not read here."""
    page = _page(source, 0)
    head = source.at(page.body, 16) if page else b""
    if head.startswith(_VORBIS):
        return int.from_bytes(head[12:16], "little")
    return 48_000 if head.startswith(_OPUS) else float("inf")


def _link(source: Source, pages: list[_Page], alone: bool) -> list[Stream]:
    """Streams of a link. Pages are passed on unchanged, except FLAC pages, which libsndfile does not read."""
    first = pages[0]
    if source.at(first.body, len(_FLAC)) == _FLAC:  # the stream's own mark follows after four more bytes
        bodies = [(page.body, page.end) for page in pages if page.serial == first.serial]
        bodies[0] = (first.body + len(_FLAC) + 4, first.end)
        return flac.streams(source.joined(source.part(*body) for body in bodies), None)
    if not pages[-1].flags & _LAST:
        return [Stream(_marked(source.part(first.start, pages[-1].end), pages[-1].start - first.start))]
    return [Stream(source if alone else source.part(first.start, pages[-1].end))]


def _marked(source: Source, last: int) -> Source:
    """Copy with the end-of-stream mark on its last page. Without the mark libsndfile does not read Opus."""
    page = source.at(last, _MAX_PAGE)
    page = page[:5] + bytes([page[5] | _LAST]) + page[6:22] + bytes(4) + page[26:]
    crc = 0
    for byte in page:
        crc = crc << 8 & 0xFFFF_FFFF ^ _CRC[crc >> 24 ^ byte]
    return source.joined([source.part(0, last), page[:22], crc.to_bytes(4, "little"), page[26:]])


def _check_end(source: Source, pages: list[_Page]) -> None:
    """Refuses a link that is not marked as ended, unless its last packet shows the end."""
    pages = [page for page in pages if page.serial == pages[-1].serial]
    head = source.at(pages[0].body, 32)
    if pages[-1].lacing[-1:] == b"\xff":
        raise BadInputError(source.path, "is truncated: its last packet is incomplete", _REMEDY)
    if head.startswith(_FLAC) and flac.total(source.at(pages[0].body + len(_FLAC) + 4, 26)):
        return  # its decoder counts
    places = [page.granule for page in pages if page.granule != _NOWHERE]
    if head.startswith((_VORBIS, _OPUS)) and len(places) > 2:
        held = sum(samples for page, samples in _durations(source, pages, head) if page == len(pages) - 1)
        if pages[-1].granule < places[-2] + held:
            return
    how = "it is cut there, or its writer left the mark out"
    raise BadInputError(source.path, f"has no end-of-stream mark on its last page: {how}", _REMEDY)


def _durations(source: Source, pages: list[_Page], head: bytes) -> Iterator[tuple[int, float]]:
    """Index of the page on which each packet of sound ends, and the samples of the packet."""
    headers = 3 if head.startswith(_VORBIS) else 2
    modes: list[int] = []
    before = 0
    for number, (page, packet) in enumerate(_packets(source, pages, headers)):
        if number < headers:
            modes = _block_sizes(head, packet) if number == 2 else modes
        elif headers == 2:
            yield page, _opus_samples(packet)
        elif modes and packet and not packet[0] & 1:
            bits = (len(modes) - 1).bit_length()
            size = modes[min(packet[0] >> 1 & ((1 << bits) - 1), len(modes) - 1)]
            yield page, (before + size) / 4 if before else 0
            before = size


def _packets(source: Source, pages: list[_Page], headers: int) -> Iterator[tuple[int, bytes]]:
    """Index of the page on which each packet ends, and the packet: headers whole, the first two bytes of the others."""
    packet, number = b"", 0
    for index, page in enumerate(pages):
        body, at = source.at(page.body, sum(page.lacing)), 0
        for length in page.lacing:
            if number < headers or len(packet) < 2:
                packet += body[at : at + length]
            at += length
            if length < 255:
                yield index, packet
                packet, number = b"", number + 1


def _opus_samples(packet: bytes) -> float:
    """Number of samples at 48 kHz in an Opus packet (RFC 6716, section 3.1)."""
    if not packet:
        return 0
    code = packet[0] & 0b11
    frames = (packet[1] & 0x3F if len(packet) > 1 else 0) if code == 3 else min(code, 1) + 1
    return _OPUS_MS[packet[0] >> 3] * 48 * frames


def _block_sizes(head: bytes, setup: bytes) -> list[int]:
    """Block size of every mode of a Vorbis stream; the modes are the last in the setup packet (section 4.2.4)."""
    sizes = (1 << (head[28] & 0x0F), 1 << (head[28] >> 4))
    bits = int.from_bytes(setup, "little")
    flags: list[int] = []
    found: list[int] = []
    at = bits.bit_length() - 1  # the framing bit
    while at >= 47 and len(flags) < 64 and not bits >> (at - 40) & 0xFFFF_FFFF:  # window and transform are always 0
        at -= 41
        flags.insert(0, bits >> at & 1)
        if bits >> (at - 6) & 0x3F == len(flags) - 1:
            found = [sizes[flag] for flag in flags]
    return found
