"""Streams of a sound file: bytes that a decoder reads as one file. A container may hold several."""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from uamix_bench.util.errors import BadInputError

REFETCH = "download or export it again"
REENCODE = "re-encode it, for example with 'ffmpeg -i IN OUT.flac'"
_BLOCK = 1 << 20  # bytes searched at once
_NEAR = 1 << 12  # bytes that are read at once for a smaller number
MAX_STREAMS = 1_000  # a radio recording of days has one per title


class Source:
    """Random-access bytes: pieces of a file, and other bytes between them, joined in order.

    Args:
        path: Name of the file, for messages.
        file: The file, open for reading in binary; None if all pieces are bytes.
        pieces: Pieces in order, each as (first position, position behind the last) in the file, or as bytes.
    """

    def __init__(self, path: object, file: io.FileIO | None, pieces: Iterable[tuple[int, int] | bytes]) -> None:
        self.path, self._file, self._pieces = path, file, list(pieces)
        self._starts: list[int] = []
        self.size = 0
        self._near, self._near_at = b"", 0  # headers lie side by side
        for piece in self._pieces:
            self._starts.append(self.size)
            self.size += len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]

    def at(self, position: int, count: int) -> bytes:
        """Bytes from `position` on, `count` of them; fewer only at the end."""
        inside = position - self._near_at
        if inside >= 0 and (inside + count <= len(self._near) or self._near_at + len(self._near) == self.size):
            return self._near[inside : inside + count]
        if count >= _NEAR:
            return self._read(position, count)
        self._near, self._near_at = self._read(position, _NEAR), position
        return self._near[:count]

    def _read(self, position: int, count: int) -> bytes:
        found: list[bytes] = []
        index = max(0, bisect_right(self._starts, position) - 1)
        while count > 0 and index < len(self._pieces):
            piece, inside = self._pieces[index], position - self._starts[index]
            if isinstance(piece, bytes):
                found.append(piece[inside : inside + count])
            else:
                assert self._file is not None
                self._file.seek(piece[0] + inside)
                found.append(self._file.read(max(0, min(count, piece[1] - piece[0] - inside))) or b"")
            position, count, index = position + len(found[-1]), count - len(found[-1]), index + 1
        return found[0] if len(found) == 1 else b"".join(found)

    def part(self, start: int, stop: int) -> Source:
        """Bytes from `start` up to, without, `stop`."""
        pieces: list[tuple[int, int] | bytes] = []
        for piece, begin in zip(self._pieces, self._starts, strict=True):
            length = len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]
            first, last = max(0, start - begin), min(length, stop - begin)
            if first < last:
                inside = piece[first:last] if isinstance(piece, bytes) else (piece[0] + first, piece[0] + last)
                pieces.append(inside)
        return Source(self.path, self._file, pieces)

    def patched(self, position: int, content: bytes) -> Source:
        """The same bytes, except for `content` at `position`."""
        return self.joined(
            [self.part(0, position), content, self.part(position + len(content), self.size)],
        )

    def joined(self, parts: Iterable[Source | bytes]) -> Source:
        """Parts of this file, one after the other."""
        pieces: list[tuple[int, int] | bytes] = []
        for part in parts:
            pieces.extend([part] if isinstance(part, bytes) else part._pieces)
        return Source(self.path, self._file, pieces)

    def places(self, mark: bytes, position: int) -> Iterator[int]:
        """Positions of all occurrences of four bytes from `position` on."""
        for start in range(position, self.size, _BLOCK):
            data = self.at(start, _BLOCK + 3)
            if _holds(data, mark):
                yield from (start + match.start() for match in re.finditer(re.escape(mark), data))

    def is_file(self, size: int) -> bool:
        """Test for bytes that are the file unchanged, `size` bytes long."""
        return self._pieces == [(0, size)]


class Stream(NamedTuple):
    """A stream that is decoded as one file.

    `frames` is the number of samples per channel found in its structure; None if the decoder's own count is right.
    With `open_end` the decoder sees an endless file, so that it goes on until there are no more bytes.
    """

    source: Source
    frames: int | None = None
    open_end: bool = False


class Handle(io.RawIOBase):
    """A stream as a separate read-only file object."""

    _ENDLESS = 1 << 40
    _TAIL = 1 << 12  # a decoder looks there for tags

    def __init__(self, stream: Stream) -> None:
        self._source, self._position = stream.source, 0
        self._end = self._ENDLESS if stream.open_end else stream.source.size
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves the position, as in any file."""
        self._position = max(0, offset + (0, self._position, self._end)[whence])
        return self._position

    def tell(self) -> int:
        """Returns the position, as in any file."""
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Reads into a buffer. The disk's error is kept in `error`, as a decoder could not pass it on."""
        if self._position >= self._ENDLESS - self._TAIL:
            content = bytes(min(len(buffer), self._ENDLESS - self._position))
        else:
            try:
                content = self._source.at(self._position, len(buffer))
            except OSError as error:
                self.error, content = error, b""
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def _holds(data: bytes, mark: bytes) -> bool:
    """Test for four bytes in the data; on noise some times as fast as `bytes.find`."""
    word = np.frombuffer(mark, np.uint32)
    counts = ((len(data) - shift) // 4 for shift in range(4))
    return any(
        count > 0 and bool((np.frombuffer(data, np.uint32, count, shift) == word).any())
        for shift, count in enumerate(counts)
    )


def truncated(path: object, how: str) -> BadInputError:
    """Error for a file that is truncated."""
    return BadInputError(path, f"is truncated: {how}", REFETCH)


def damaged(path: object, how: str) -> BadInputError:
    """Error for a file with a fault in its middle."""
    return BadInputError(path, f"is damaged: {how}", REFETCH)
