"""Rendered pages written to files."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from uamix_bench.util.files import write_atomic

if TYPE_CHECKING:
    from uamix_bench.plugins.registry import RenderedPage


def write_page(page: RenderedPage, folder: Path, name: str, durable: bool = True) -> list[Path]:
    """Writes a page as ``<name>.html`` and ``<name>.md``, after the files that it links to; see :func:`write_atomic`.

    Returns:
        Paths of all files, those two last.

    Raises:
        MachineError: The folder cannot be written.
    """
    texts = chain(page.files.items(), [(f"{name}.html", page.html), (f"{name}.md", page.markdown)])
    return [write_atomic(folder / path, text.encode(), durable) for path, text in texts]
