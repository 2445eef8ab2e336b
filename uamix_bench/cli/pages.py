"""Rendered pages written to files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from uamix_bench.util.files import write_atomic

if TYPE_CHECKING:
    from uamix_bench.plugins.registry import RenderedPage


def write_page(page: RenderedPage, folder: Path, name: str) -> tuple[Path, Path]:
    """Writes a page as ``<name>.html`` and ``<name>.md``, with the files that it links to beside them.

    Returns:
        Paths of the two files.

    Raises:
        MachineError: The folder cannot be written.
    """
    for path, text in page.files.items():
        write_atomic(folder / path, text.encode())
    html = write_atomic(folder / f"{name}.html", page.html.encode())
    return html, write_atomic(folder / f"{name}.md", page.markdown.encode())
