"""Base of all persisted records: strict parts, an id over the content, strict reading of files. Free of torch."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NoReturn, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from uamix_bench.plugins.card import Count as Count, Name, Sha256 as Sha256, Text as Text
from uamix_bench.plugins.overlap import MARKS, Overlap, overlap
from uamix_bench.records.schema_v1 import OldRecordError, upgraded
from uamix_bench.util import files
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.text import fit

if TYPE_CHECKING:
    from uamix_bench.data.task import TaskData
    from uamix_bench.plugins.card import ModelIdentity
    from uamix_bench.scoring.statistics import Interval

_ROUNDING = 1e-9  # sums in another order, on another machine
_LONGEST_NAME = 200  # characters of a stranger's field, as an error shows it
_UPGRADED = "upgraded"  # context of reading what was written in an older form: its id is taken anew
_REMEDY = "restore the original file, or delete it and run again what wrote it"

Seconds = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
HalfWidth = Annotated[float, Field(ge=0)]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,39}$")]


class Part(BaseModel):
    """A part of a record: frozen, without unknown fields, NaN or infinities."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid", allow_inf_nan=False)


class Skipped(Part):
    """A clip that was skipped, with the reason."""

    clip: Text
    reason: Text

    @classmethod
    def unread(cls, task: TaskData) -> tuple[Self, ...]:
        """Clips of a task that are sounds by name but have a format that is not read."""
        return tuple(cls(clip=fit(one.clip), reason=fit(one.reason)) for one in task.unread)


class Status(Part):
    """Completeness of an evaluation. Incomplete results are compared only if they left out the same broken clips.

    Attributes:
        complete: True if the whole task was evaluated.
        limited: True if only the first clips of each class were requested.
        partial: Clips that the copy of the data set lacks, in words; empty for a whole copy.
        skipped: Clips that were skipped.
        notes: Further facts for readers, one line each. Programs need not read them.
    """

    complete: bool
    limited: bool = False
    partial: Text = ""
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.complete and (self.limited or self.partial or self.skipped):
            raise ValueError("complete, yet clips were skipped or left out")
        return self


class HalfInterval(Part):
    """Half-width of a 95% interval or, if it cannot be given, the reason."""

    half_width: HalfWidth | None
    reason: Text = ""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.half_width is None) != bool(self.reason):
            raise ValueError("an interval has either a half-width or the reason why there is none")
        return self

    @classmethod
    def of(cls, interval: Interval) -> Self:
        """Half-width of a computed interval."""
        return cls(half_width=interval.half_width, reason=interval.reason)


def task_label(name: str, version: str) -> str:
    """Label of a task in tables: name and version, or the name alone for a user's own data, whose version is a hash."""
    return name if name.startswith("local/") else f"{name}@{version}"


class TaskIdentity(Part):
    """Identity of a task: the clip table that the episodes were drawn from, and the sounds.

    Attributes:
        clips_sha256: SHA-256 of the clip table: ids, labels, groups and splits.
        names_sha256: SHA-256 of the canonical JSON of the class names by label, for a zero-shot evaluation; absent from
            any other.
        content_sha256: SHA-256 of the bytes of the used clips, of a segment of its file and times, in the order of the
            table (`sounds_sha256` in `uamix_bench.storage.digests`), for a user's own data. None if name and version
            identify the sounds; the provenance then has the digest.
    """

    name: Name
    version: Version
    clips_sha256: Sha256
    content_sha256: Sha256 | None = None
    classes: Count
    clips: Count
    clip_seconds: float = Field(gt=0)
    names_sha256: Sha256 | None = None

    @model_serializer(mode="wrap")
    def _without_unset(self, given: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = given(self)
        if fields.get("names_sha256", True) is None:
            del fields["names_sha256"]
        return fields

    @classmethod
    def of(cls, task: TaskData, content_sha256: str | None, classes: int | None = None, *, named: bool = False) -> Self:
        """Identity of a task's clips.

        Args:
            task: Data of the task.
            content_sha256: SHA-256 of the bytes of the used clips; None if the bytes are not read.
            classes: Number of classes of a task whose clips may have several; None counts the labels.
            named: True if the class names are part of what is asked.
        """
        return cls(
            name=task.name,
            version=task.card.version,
            clips_sha256=task.clips_sha256,
            content_sha256=None if task.version_tells_sounds else content_sha256,
            classes=len(set(task.table["label"])) if classes is None else classes,
            clips=len(task.table),
            clip_seconds=task.card.clip_seconds,
            names_sha256=files.digest(task.class_names) if named else None,
        )

    @property
    def own(self) -> bool:
        """True for a user's own folder or list, whose version is the hash of its clip table."""
        return self.name.startswith("local/")

    @property
    def label(self) -> str:
        """Label of the task in tables."""
        return task_label(self.name, self.version)


class Provenance(Part):
    """Provenance of a record, without user name, host or absolute path.

    `device` names the processors and GPUs that made the embeddings of a few-shot result, cached ones included, or that
    trained. `content_sha256` is the digest of the used sounds, for any task. It is None in records without it: those of
    schema version 1, and trainings.
    """

    package: Text
    git_revision: Text | None
    git_dirty: bool | None
    packages: dict[Text, Text]
    python: Text
    device: Text
    platform: Text
    started_at: Text
    command: Text
    content_sha256: Sha256 | None = None

    @property
    def revision(self) -> str:
        """Revision of the code, such as ``2926e3ab57c0 with changes``; ``unknown`` outside a git checkout."""
        return (self.git_revision or "unknown")[:12] + " with changes" * bool(self.git_dirty)


class Record(Part):
    """A record that is written once and never changed. Each kind of record is a subclass.

    Attributes:
        schema_version: Version of the file's schema.
        kind: Name of the kind, fixed by each subclass.
        id: SHA-256 (hex) of the canonical JSON of `content`.
        largest_bytes: Size limit in bytes of a file of this kind; larger files are refused.

    Raises:
        pydantic.ValidationError: A field is invalid, or a recomputed value disagrees with a stated one.
    """

    largest_bytes: ClassVar[int] = 8 * 2**20  # 10,000 episodes over 1,000 classes take 0.1 MB

    schema_version: Literal[2] = 2
    kind: str
    id: Sha256

    @classmethod
    def create(cls, **parts: Any) -> Self:
        """Builds a record from its parts, without `id`."""
        unsigned = cls.model_construct(id="", **parts)
        return cls(id=unsigned.expected_id(), **parts)

    def content(self) -> dict[str, Any]:
        """Plain data that the id is computed from: by default all parts except id, cost, provenance and overlap."""
        return self.model_dump(mode="json", exclude={"schema_version", "id", "cost", "provenance", "overlap"})

    def expected_id(self) -> str:
        """Id computed from the content."""
        return files.digest(self.content())

    def place(self) -> str:
        """Place in a store: folders, and the beginning of the file's name."""
        raise NotImplementedError

    def unit(self) -> str | None:
        """Key of the requested evaluation. Records with equal keys must have equal outcomes.

        None, the default, if outcomes may differ.
        """
        return None

    def check(self) -> None:
        """Recomputes the values that follow from other parts.

        Raises:
            ValueError: Parts disagree; the text names them.
        """

    @model_validator(mode="after")
    def _parts_agree(self, info: ValidationInfo) -> Self:
        self.check()
        if info.context == _UPGRADED:
            object.__setattr__(self, "id", self.expected_id())  # frozen, but not made yet
        elif self.id != self.expected_id():
            raise ValueError("the id is not that of the content")
        return self


class SoundsRecord(Record):
    """A record of an outcome on sounds, with the digests that identify the sounds.

    `overlap` is that of the model's training data with the task, by the facts known when the record was made; None in
    older records. It is no part of the content that the id is of.
    """

    if TYPE_CHECKING:  # each kind places them in its own order
        model: ModelIdentity
        task: TaskIdentity
        provenance: Provenance
        overlap: Overlap | None

    @property
    def overlap_known(self) -> Overlap:
        """Overlap of the training data with the task by the facts known here; by the record's if none are known."""
        known = overlap(self.model.pretrained_on, self.task.name)
        return self.overlap if known.level == "unknown" and self.overlap is not None else known

    @property
    def overlap_mark(self) -> str:
        """Mark of the overlap beside a score; none for "unknown" on own sounds, whose source is never stated."""
        level = self.overlap_known.level
        return "" if self.task.own and level == "unknown" else MARKS[level]

    @property
    def sounds_recorded(self) -> bool:
        """True if the record has the digest of its sounds. Those of schema version 1 have none and are never reused."""
        return self.provenance.content_sha256 is not None

    def check(self) -> None:
        """Makes sure that both digests of the sounds are equal.

        Raises:
            ValueError: The digests differ.
        """
        stated = self.task.content_sha256
        if stated is not None and stated != self.provenance.content_sha256:
            raise ValueError("task.content_sha256 is not that of the provenance")


AnyRecord = TypeVar("AnyRecord", bound=Record)


def load(path: Path, kinds: Mapping[str, type[AnyRecord]]) -> AnyRecord:
    """Reads a record's file, which may come from anyone.

    Args:
        path: Path of the file.
        kinds: Accepted kinds of record, by name.

    Raises:
        BadInputError: The file is no such record or no strict JSON (NaN, repeated keys, too long or deep), or its parts
            disagree.
        MachineError: The file cannot be read.
    """
    text, document = read_json(path, max(kind.largest_bytes for kind in kinds.values()))
    if not isinstance(document, dict):
        raise BadInputError(path, "is not a JSON object", _REMEDY)
    version = document.get("schema_version")
    if isinstance(version, int) and not isinstance(version, bool) and version > 2:
        raise BadInputError(path, "was written by a newer release, in another form", "install a newer uamix-bench")
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        reason = f"is of the kind {kind[:40]!a}" if isinstance(kind, str) else "says no kind of record"
        raise BadInputError(path, reason, f"here are read: {', '.join(kinds)}")
    if len(text) > kinds[kind].largest_bytes:
        raise _too_large(path, kinds[kind].largest_bytes)
    context = None
    try:
        if version == 1 and not isinstance(version, bool):
            text, context = json.dumps(upgraded(document)), _UPGRADED
        return kinds[kind].model_validate_json(text, strict=True, context=context)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))[:_LONGEST_NAME]
        reason = first["msg"].removeprefix("Value error, ")
        raise BadInputError(path, f"{field}: {reason}" if field else reason, _REMEDY) from error
    except OldRecordError as error:
        raise BadInputError(path, str(error), _REMEDY) from error


def agrees(field: str, stated: float | None, expected: float | None) -> None:
    """Compares a stated number with the one recomputed from the other parts.

    Raises:
        ValueError: The numbers differ by more than rounding, or one of them is null.
    """
    known = stated is not None and expected is not None and math.isclose(stated, expected, abs_tol=_ROUNDING)
    if not known and stated != expected:
        raise ValueError(f"{field} is {stated}, but the parts give {expected}")


def record_text(record: Record) -> str:
    """Strict JSON with one line for each part of the record."""
    parts = record.model_dump(mode="json").items()
    lines = (f'  "{name}": {json.dumps(part, allow_nan=False, ensure_ascii=False)}' for name, part in parts)
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_head(path: Path, names: Container[str]) -> dict[str, Any]:
    """Parts of these names from a file that :func:`record_text` made, unchecked; the other parts are not parsed.

    Empty for a file of any other form, or one that cannot be read.
    """
    try:
        first, *lines, last = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        if (first, last) != ("{", "}") or not all(line.startswith('  "') for line in lines):
            return {}
        parts = (line[3:].removesuffix(",").split('": ', 1) for line in lines)
        return {name: json.loads(text) for name, text in parts if name in names}
    except (OSError, ValueError, RecursionError):
        return {}


def read_json(path: Path, largest: int) -> tuple[str, Any]:
    """Reads a file of strict JSON: no NaN, no number beyond a float's range, no repeated key, UTF-8.

    Args:
        path: Path of the file.
        largest: Size limit of the file in bytes.

    Returns:
        The text of the file, and the document parsed from it.

    Raises:
        BadInputError: The file is larger, missing, or no strict JSON.
        MachineError: The file cannot be read.
    """
    try:
        with files.regular(path).open("rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise files.unreadable(path, error) from error
    if len(content) > largest:
        raise _too_large(path, largest)
    try:
        text = content.decode("utf-8")
        return text, json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique)
    except RecursionError as error:
        raise BadInputError(path, "is nested too deeply", _REMEDY) from error
    except ValueError as error:  # JSON, UTF-8, a number of thousands of digits
        raise BadInputError(path, f"is not strict JSON ({error})", _REMEDY) from error


def _too_large(path: Path, largest_bytes: int) -> BadInputError:
    return BadInputError(path, f"is larger than {largest_bytes // 2**20} MB", "this is no record of the bench")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is beyond the range of numbers")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            raise ValueError(f"the key '{key[:40]}' is repeated")
        members[key] = value
    return members
