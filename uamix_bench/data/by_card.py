"""Reader of data sets that are described by a card alone: its `Layout` says where clips lie and what they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from uamix_bench.data import folders, own_data
from uamix_bench.data.clip_table import ClipTable
from uamix_bench.data.columns import Listed, as_text
from uamix_bench.data.folders import SOUND_SUFFIXES, Listing, Remark
from uamix_bench.data.hub_folder import own_list
from uamix_bench.data.reader import Task, counted
from uamix_bench.plugins.card import FIELD, Layout, TaskCard, fields, read_card
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.text import listed


class ByCard(Task):
    """Data set that its card's layout describes.

    Args:
        card: Card with a layout.
        near: Folder that is searched first for a copy: that of a user's own card.
    """

    def __init__(self, card: TaskCard, near: Path | None = None) -> None:
        assert card.layout is not None
        self.card = card  # type: ignore[misc]  # of the instance, where readers of their own have one per class
        self.layout: Layout = card.layout
        self.near = near
        fixed = self.layout.list or self.layout.path.partition("{")[0].rpartition("/")[0]
        self.marker = fixed  # type: ignore[misc]

    @classmethod
    def of_file(cls, path: Path) -> ByCard:
        """Reader for a user's own card.

        Raises:
            BadInputError: The file is no card, or its card has no layout.
        """
        card = read_card(path, TaskCard)
        if card.layout is None:
            raise BadInputError(path, "has no [layout]", "say where its clips lie; docs/your-task.md shows how")
        return cls(card, near=path.parent)

    def locate(self, data_dir: Path) -> Path:
        """Finds the root: beside a user's own card, in ``data_dir/NAME`` or `data_dir`, or in the card's folder there.

        Raises:
            BadInputError: The data set is in none of them; the line names its source.
        """
        places = [*([self.near] if self.near else []), data_dir / self.card.name]
        places += [data_dir] if self.marker else []  # which exists, whatever it holds
        for place in places:
            if found := self.mark(place):
                return Path(str(found).removesuffix(self.marker)) if self.marker else found
        where = (
            f"unpack {self.card.home or 'its files'} into {data_dir / self.card.name}, or name another with --data-dir"
        )
        lacks = f"no {self.marker}" if self.marker else "no such folder"
        raise BadInputError(self.card.name, f"{lacks} in {' or '.join(map(str, places))}", where)

    def mark(self, root: Path) -> Path | None:
        """Path of the list, or of the folder around the clips, in a root or the card's folder there; None if absent."""
        places = [root / inner / self.marker for inner in dict.fromkeys((self.card.folder, ""))]
        return next((place for place in places if place.exists()), None)

    def clips(self, root: Path) -> ClipTable:
        """Lists the clips as the layout says.

        Raises:
            IncompleteError: The copy lacks clips of its list, or has fewer than the card counts.
            BadInputError: The copy has more clips, or other classes, than the card counts; or the list is faulty.
        """
        return self.listing(root).clips

    def listing(self, root: Path) -> Listing:
        """The clip table with remarks; one of them says so if the layout is not verified."""
        layout, missing = self.layout, list[str]()
        if not layout.path and not layout.list:
            found = folders.class_folders(root)
        elif not layout.path:
            found = own_list(root / layout.list, root)
        else:
            found, missing = self._by_templates(root)
        table = found.clips.take(~found.clips.among("label", layout.leave_out))
        if layout.labels:
            table = table.assign(label=self._labels(root, table["label"].tolist()))
        table = counted(self, root, table, missing)
        classes = len(set(table["label"]))
        if self.card.classes not in (None, classes):
            reason = f"{classes:,} of {self.card.classes:,} classes found"
            raise BadInputError(root, reason, "compare its lists with the card's")
        remarks = found.remarks
        if why := self.card.unverified:
            remarks = (*remarks, Remark("unverified", f"the layout is unverified: {why}"))
        return found._replace(clips=table, remarks=remarks)

    def _by_templates(self, root: Path) -> tuple[Listing, list[str]]:
        """Listing by the layout's templates, and the listed files that do not exist."""
        layout = self.layout
        source = root / layout.list if layout.list else root
        given = own_data.read_list(source) if layout.list else _matching(root, layout.path)
        for name in dict.fromkeys(name for text in layout.templates.values() for name in fields(text)):
            if name not in given.columns:
                have = ", ".join(map(str, given.columns))
                raise BadInputError(source, f"has no column '{name}' (it has: {have[:200]})", "correct the layout")
        rows = given.records()
        made = given._replace(
            columns={name: [_filled(text, row) for row in rows] for name, text in layout.templates.items()}
        )
        chosen = made.kept([label not in layout.leave_out for label in made.columns["label"]])
        paths = chosen.columns["path"]
        there = [own_data.find(root, path) is not None for path in paths]
        if not any(there):
            what = f"{len(there):,} clips of {layout.list}" if layout.list else f"files {layout.path}"
            raise BadInputError(root, f"holds none of the {what}", "unpack it again, or correct the layout")
        missing = [path for path, found in zip(paths, there, strict=True) if not found]
        found = own_data.clips_of(source, chosen.kept(there), root)
        if layout.list:
            return found, missing
        known = set(found.clips["path"])
        others = sum(Path(parts[-1]).suffix.lower() in SOUND_SUFFIXES for parts in folders.walk(root)) - len(known)
        text = f"{others:,} sounds do not match {layout.path} and are left out"
        return found._replace(remarks=(*found.remarks, *([Remark("layout", text)] if others else []))), missing

    def _labels(self, root: Path, codes: Sequence[str]) -> list[str]:
        unknown = sorted(set(codes) - set(self.layout.labels))
        if unknown:
            reason = f"has labels that the card does not name ({listed(unknown)})"
            raise BadInputError(root, reason, "add them to labels, or to leave_out")
        return [self.layout.labels[code] for code in codes]


def _matching(root: Path, pattern: str) -> Listed:
    """Files below a root whose path matches a pattern: its fields, and the path itself as fields of the pattern."""
    parts = [re.escape(text) if at % 2 == 0 else "([^/]+?)" for at, text in enumerate(FIELD.split(pattern))]
    form = re.compile("".join(parts))
    found = [match.groups() for path in sorted(map("/".join, folders.walk(root))) if (match := form.fullmatch(path))]
    columns = {name: [groups[at] for groups in found] for at, name in enumerate(fields(pattern))}
    return Listed(columns, range(len(found)), "file")


def _filled(template: str, row: Mapping[str, object]) -> str:
    return FIELD.sub(lambda field: as_text(row[field[1]]), template)
