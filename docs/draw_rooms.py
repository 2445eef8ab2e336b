"""Drawing of the rooms of the product, from its own imports and the floors in pyproject.toml, as docs/rooms.svg.

python docs/draw_rooms.py          # writes docs/rooms.svg; needs the extra [dev]
"""

from __future__ import annotations

import re
import tomllib
from html import escape
from pathlib import Path

import grimp

REPOSITORY = Path(__file__).resolve().parent.parent
PICTURE = REPOSITORY / "docs" / "rooms.svg"
WIDTH, FLOOR, ROOM, GAP = 860, 74, 40, 18  # units of the drawing


def contract() -> dict[str, list[str]]:
    """The layers contract of pyproject.toml."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    found: dict[str, list[str]] = next(one for one in contracts if one["type"] == "layers")
    return found


def floors() -> list[list[str]]:
    """Rooms of each floor, the top one first; documented import paths are left out."""
    rows = [[room.strip() for room in re.split("[:|]", layer)] for layer in contract()["layers"]]
    return [row for row in rows if "__main__" not in row]


def arrows(rooms: list[str]) -> dict[tuple[str, str], int]:
    """Number of imports from each room to each other."""
    graph = grimp.build_graph("uamix_bench", cache_dir=None)
    counts: dict[tuple[str, str], int] = {}
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            pair = (importer.split(".")[1:2] or [""])[0], (imported.split(".")[1:2] or [""])[0]
            if pair[0] != pair[1] and set(pair) <= set(rooms):
                counts[pair] = counts.get(pair, 0) + 1
    return counts


def needed(counts: dict[tuple[str, str], int]) -> list[tuple[str, str]]:
    """Arrows that no longer way through other rooms replaces: the transitive reduction."""
    below: dict[str, set[str]] = {}
    for one, other in counts:
        below.setdefault(one, set()).add(other)

    def reached(room: str) -> set[str]:
        found: set[str] = set()
        for other in below.get(room, ()):
            found |= {other} | reached(other)
        return found

    return sorted((a, b) for a, b in counts if not any(b in reached(c) for c in below[a] - {b}))


def draw() -> str:
    """The picture, as SVG."""
    rows = floors()
    counts = arrows([room for row in rows for room in row])
    boxes: dict[str, tuple[float, float, float]] = {}
    for number, row in enumerate(rows):
        size = (WIDTH - GAP * (len(row) + 1)) / len(row)
        size = min(size, 240)
        start = (WIDTH - len(row) * size - (len(row) - 1) * GAP) / 2
        for place, room in enumerate(row):
            boxes[room] = (start + place * (size + GAP), GAP + number * FLOOR, size)
    height = GAP + len(rows) * FLOOR
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="system-ui, sans-serif" text-anchor="middle">',
        "<title>Rooms of uamix-bench and the imports between them</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for one, other in needed(counts):
        (x1, y1, w1), (x2, y2, w2) = boxes[one], boxes[other]
        if y1 == y2:
            begin, end = (x1 + w1, x2) if x1 < x2 else (x1, x2 + w2)
            parts.append(f'<path d="M{begin:.0f} {y1 + ROOM / 2:.0f}H{end:.0f}" stroke="#8a97a8" fill="none"/>')
            continue
        a, b, top, bottom = x1 + w1 / 2, x2 + w2 / 2, y1 + ROOM, y2
        bend = (top + bottom) / 2
        curve = f"M{a:.0f} {top:.0f}C{a:.0f} {bend:.0f} {b:.0f} {bend:.0f} {b:.0f} {bottom:.0f}"
        parts.append(f'<path d="{curve}" stroke="#8a97a8" fill="none"/>')
        parts.append(f'<path d="M{b - 4:.0f} {bottom - 6:.0f}h8l-4 6z" fill="#8a97a8"/>')
    for room, (x, y, size) in boxes.items():
        parts.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="{size:.0f}" height="{ROOM}" rx="5" fill="#eaf0f8"/>')
        middle = f'x="{x + size / 2:.0f}" y="{y + 25:.0f}"'
        parts.append(f'<text {middle} font-size="15" fill="#1d2733">{escape(room)}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw())
