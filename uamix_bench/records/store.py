"""Folder of immutable records (`ResultStore`), and a reader for records of any kind. Free of torch."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union, get_args

from uamix_bench.plugins.card import ModelIdentity
from uamix_bench.records import results
from uamix_bench.records.finetune_record import FinetuneResult
from uamix_bench.records.record import Record, TaskIdentity, load, read_head, record_text
from uamix_bench.records.results import Result, load_result
from uamix_bench.records.training_records import AblationRecord, TrainingRecord
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.util import files
from uamix_bench.util.errors import BadInputError

# Every kind of record, by its name in the files.
KINDS: dict[str, type[Record]] = {
    get_args(kind.model_fields["kind"].annotation)[0]: kind
    for kind in (Result, TrainingRecord, AblationRecord, FinetuneResult)
}
HEAD = {"kind", "id", "model", "task", "protocol", "data", "arms"}  # parts that a choice of records may ask for


def load_record(path: Path) -> Record:
    """Reads a record of any kind by :func:`uamix_bench.records.record.load`."""
    return load(path, KINDS)


class Found(NamedTuple):
    """Records read from files, with their paths, and the errors of the other files."""

    records: tuple[tuple[Path, Record], ...]
    bad: tuple[BadInputError, ...]


def read_all(paths: Iterable[Path], wanted: Callable[[Mapping[str, Any]], bool] | None = None) -> Found:
    """Reads files, and all ``.json`` files in folders and below, each once, in the order of their names.

    Args:
        paths: Paths of files and folders; without any, all of ``UAMIX_BENCH_HOME/results``, which need not exist.
        wanted: Choice of records by their parts `HEAD` as plain data, as far as their kind has them. A file that says
            of itself that it is not wanted is read no further, so that its damages are not found.

    Raises:
        MachineError: A file cannot be read.
    """
    kept = files.home() / "results"
    places = list(paths) or ([kept] if kept.exists() else [])
    names = (sorted(path.rglob("*.json")) if path.is_dir() else [path] for path in places)
    records, bad = [], []
    for path in dict.fromkeys(chain.from_iterable(names)):
        if wanted and not _may_be(wanted, path):
            continue
        try:
            record = load_record(path)
        except BadInputError as error:
            bad.append(error)
        else:
            if not wanted or wanted(record.model_dump(mode="json", include=HEAD)):
                records.append((path, record))
    return Found(tuple(records), tuple(bad))


def _may_be(wanted: Callable[[Mapping[str, Any]], bool], path: Path) -> bool:
    """False if a file says of itself that its record is not wanted."""
    head = read_head(path, HEAD)
    try:
        return not head or wanted(head)
    except (KeyError, TypeError, AttributeError, IndexError):  # damaged, as reading it will tell
        return True


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the files. It holds all rules for records except those that need arithmetic."""
    from pydantic import Field, TypeAdapter

    kinds: Any = Annotated[Union[tuple(KINDS.values())], Field(discriminator="kind")]  # noqa: UP007
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A record of uamix-bench"}
    return head | TypeAdapter(kinds).json_schema()


class ResultStore:
    """A folder of immutable record files, safe for many writers at once, merged by copying files together.

    Args:
        folder: Folder of the records; default ``UAMIX_BENCH_HOME/results``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or files.home() / "results"

    def check_writable(self) -> None:
        """Makes sure that a record can be written here, before any long work.

        Raises:
            MachineError: No record can be written.
        """
        files.check_writable(self.folder)

    def path(self, record: Record) -> Path:
        """Path of a record: its place, a hyphen, the first 12 digits of its id, ``.json``."""
        return self.folder / f"{record.place()}-{record.id[:12]}.json"

    def write(self, record: Record) -> Path:
        """Writes a record and returns its path. An identical record that exists is kept.

        Raises:
            BadInputError: Another outcome of the same evaluation exists, another record holds the name, or the file of
                that name is damaged.
            MachineError: The folder cannot be written.
        """
        path = self.path(record)
        self._refuse_conflict(record, path)
        if not path.exists() and _create(path, record_text(record).encode()):
            return path
        if load_record(path).id != record.id:
            raise BadInputError(
                path, "another record has the same first 12 digits of its id", "write to another folder with -o"
            )
        return path

    def find(
        self, model: ModelIdentity, task: TaskIdentity, protocol: Protocol, digest: str
    ) -> Iterator[tuple[Path, Result]]:
        """Finds the complete few-shot results of this model's name, clip table, protocol and draw.

        They may be of other weights, code or sounds, which the caller must compare.
        """
        for path in self._beside(results.place(model, task, protocol)):
            result = load_result(path)
            if result.answers(task, protocol, digest):
                yield path, result

    def __iter__(self) -> Iterator[tuple[Path, Record]]:
        for path in sorted(self.folder.rglob("*.json")):
            yield path, load_record(path)

    def _beside(self, place: str) -> list[Path]:
        """Files of one place, sorted."""
        start = self.folder / place
        return sorted(start.parent.glob(f"{start.name}-*.json"))

    def _refuse_conflict(self, record: Record, path: Path) -> None:
        """Raises an error if the store holds another outcome of the same evaluation."""
        unit = record.unit()
        if unit is None:
            return
        for other in self._beside(record.place()):
            try:
                differs = other != path and load_record(other).unit() == unit
            except BadInputError:  # a damaged neighbour is no reason to lose this one
                continue
            if differs:
                remedy = "compare devices and versions in the provenances, or write to another folder with -o"
                raise BadInputError(other, f"the same evaluation now comes out differently ({record.id[:12]})", remedy)


def _create(path: Path, content: bytes) -> bool:
    """Writes a file whole under an unused name. Returns False if another process was first."""
    files.sweep(path.parent)
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        files.write_atomic(temporary, content)
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: the name is taken in one step, if not exclusively
        try:
            temporary.replace(path)
        except OSError as error:
            raise files.machine_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return True
