"""Local copies of published data sets: their state, and the download of missing files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from uamix_bench.data import fetch
from uamix_bench.data.archive import extract, extracted
from uamix_bench.data.task import MINIATURE, IncompleteError, Task, reader
from uamix_bench.plugins.card import RemoteFile, TaskCard
from uamix_bench.util.errors import BadInputError, UsageError
from uamix_bench.util.progress import SILENT, Progress

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


class Copy(NamedTuple):
    """State of a data set's local copy, from names alone: no list is read and no clip is counted."""

    task: str
    state: Literal["here", "partial", "absent", "miniature", "generated", "bundled"]
    root: Path
    missing: tuple[str, ...]  # of the card's `holds`, below `root`; of a miniature, those it was made with
    archives: tuple[str, ...]  # in `archive_folder`, those that are still being downloaded too


def archive_folder(card: TaskCard, data_dir: Path) -> Path:
    """Folder of a data set's published archives, apart from its root, which holds its clips alone."""
    return data_dir / "archives" / card.name


def look(card: TaskCard, data_dir: Path) -> Copy:
    """State of a data set's local copy.

    Args:
        card: Card of the task.
        data_dir: Folder of the data sets.

    Returns:
        The copy in ``data_dir/<name>``, else in `data_dir` itself. A copy in another layout that the reader knows has
        no missing names.
    """
    folder = archive_folder(card, data_dir)
    names = {part for file in card.files for part in (file.name, f"{file.name}.part")}
    archives = tuple(sorted(path.name for path in folder.glob("*") if path.name in names))
    if not card.home:
        return Copy(card.name, "bundled" if card.bundled else "generated", data_dir / card.name, (), archives)
    copies = []
    for root in (data_dir / card.name, data_dir):
        mark = root / MINIATURE
        holds = mark.read_text(encoding="utf-8", errors="replace").splitlines()[1:] if mark.is_file() else card.holds
        missing = tuple(name for name in holds if not (root / name).exists())
        state: Literal["here", "partial", "absent", "miniature"] = "partial" if missing else "here"
        if mark.is_file():
            state = "miniature"
        elif len(missing) == len(holds):
            state = "absent"
        copies.append(Copy(card.name, state, root, missing, archives))
    with suppress(UsageError, BadInputError, StopIteration):
        task = reader(card.name)
        copy, found = next((copy, found) for copy in copies if (found := task.mark(copy.root)))
        if card.layout or found != copy.root / task.marker:  # another layout, of which names do not say what is missing
            return copy._replace(state="miniature" if copy.state == "miniature" else "here", missing=())
    return next((copy for copy in copies if copy.state != "absent"), copies[0])


def prepare(task: Task, data_dir: Path, *, offline: bool = False, progress: Progress = SILENT) -> Path:
    """Prepares a data set in ``data_dir/<name>``: downloads, verifies and unpacks missing files, then counts clips.

    Files that only a person can get are verified in their place. An interrupted run is resumed by the next call.

    Args:
        task: Reader of the data set.
        data_dir: Folder of the data sets.
        offline: True never uses the network.
        progress: Progress display.

    Returns:
        Root of the copy.

    Raises:
        UsageError: The data set is generated on first use, or bundled.
        BadInputError: A person must get files first (the line names them, their source and their place); or a
            downloaded, existing or unpacked file is not the published one.
        MachineError: The network or the disk failed.
    """
    card = task.card
    if not card.home:
        sounds = "come with the package" if card.bundled else "are made on first use"
        raise UsageError(card.name, "needs no preparation", f"its sounds {sounds}")
    try:
        root = task.locate(data_dir)
        whole = not task.verify(root)
    except BadInputError:
        root, whole = data_dir / card.name, False
    if not whole and not card.files:
        reason = f"is not here, and no file of {card.home} can be fetched by itself"
        raise BadInputError(card.name, reason, f"get it there and unpack it into {data_dir / card.name}")
    if not whole and card.layout:
        root = data_dir / card.name  # above the folder that its archives unpack to
    folder, done = archive_folder(card, data_dir), extracted(root)
    archives = [file for file in card.files if file.name.endswith(_ARCHIVES) and file.name not in done]
    if not whole:
        _ask(card, archives, folder, progress)
    parts = {part for file in card.files for part in file.parts}
    for file in card.files:
        if file.name not in parts and not file.name.endswith(_ARCHIVES) and not (whole and (root / file.name).exists()):
            fetch.download(file, root, progress=progress, offline=offline)
    if whole:
        return root
    for file in archives:
        extract(_bring(file, card, folder, offline, progress), root, progress=progress)
    if card.layout:
        root = task.locate(data_dir)
    try:
        task.clips(root)
    except IncompleteError as error:
        remedy = f"move it away and run 'uamix-bench tasks prepare {card.name}' again"
        raise BadInputError(root, f"{error.reason}, although every archive is unpacked", remedy) from error
    return root


def _parts(file: RemoteFile, card: TaskCard) -> list[RemoteFile]:
    """Published files of one archive: the archive itself, or its parts in order."""
    known = {entry.name: entry for entry in card.files}
    return [known[name] for name in file.parts] or [file]


def _ask(card: TaskCard, archives: Sequence[RemoteFile], folder: Path, progress: Progress) -> None:
    """Raises an error if a person must get files first. Existing files are verified before."""
    lacking: list[RemoteFile] = []
    for archive in archives:
        if not (folder / archive.name).exists():
            lacking += [part for part in _parts(archive, card) if not part.url and not (folder / part.name).exists()]
    if not lacking:
        return
    good = [file.name for file in card.files if (folder / file.name).exists() and not file.url]
    for file in card.files:
        if file.name in good:
            fetch.verify(folder / file.name, file, progress=progress)
    names = ", ".join(file.name for file in lacking)
    reason = f"{len(lacking)} files must be requested from {lacking[0].page}"
    if good:
        reason += f" ({', '.join(good)}: here and right)"
    raise BadInputError(card.name, reason, f"put {names} into {folder} and run this again")


def _bring(file: RemoteFile, card: TaskCard, folder: Path, offline: bool, progress: Progress) -> Path:
    """Returns an archive that exists and is verified, downloaded or joined from its parts."""
    target = folder / file.name
    if file.parts and not target.exists():
        parts = [fetch.download(part, folder, progress=progress, offline=offline) for part in _parts(file, card)]
        fetch.join(parts, target, progress=progress)
    return fetch.download(file, folder, progress=progress, offline=offline)
