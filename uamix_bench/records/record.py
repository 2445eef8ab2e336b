"""What all persisted records share: strict parts, an id over their content, strict reading of files. Free of torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NoReturn, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from uamix_bench.plugins.card import Count as Count, Name, Sha256 as Sha256, Text as Text
from uamix_bench.records.schema_v1 import OldRecordError, upgraded
from uamix_bench.util import files
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.text import fit

if TYPE_CHECKING:
    from uamix_bench.data.task import TaskData
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
    """A part of a record: frozen, with no field beyond its own, and no NaN or infinity in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Skipped(Part):
    """A clip that was set aside, and why."""

    clip: Text
    reason: Text

    @classmethod
    def unread(cls, task: TaskData) -> tuple[Self, ...]:
        """The clips of a task that are sounds by name and whose format is not read."""
        return tuple(cls(clip=fit(one.clip), reason=fit(one.reason)) for one in task.unread)


class Status(Part):
    """Whether all of the task was evaluated; what is not complete is never ranked or paired.

    Attributes:
        complete: Whether it was.
        limited: Whether only the first clips of each class were asked for.
        partial: What the copy of the data set lacks; empty for a whole one.
        skipped: Clips that were set aside.
        notes: What else a reader needs, one line each; nothing is told by their wording alone.
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
    """Half the width of a 95% interval or, where it cannot be given, the reason."""

    half_width: HalfWidth | None
    reason: Text = ""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.half_width is None) != bool(self.reason):
            raise ValueError("an interval has either a half-width or the reason why there is none")
        return self

    @classmethod
    def of(cls, interval: Interval) -> Self:
        """That of a computed one."""
        return cls(half_width=interval.half_width, reason=interval.reason)


def task_label(name: str, version: str) -> str:
    """What tables call a task: name and version; of a user's own data the name alone, as its version is a hash."""
    return name if name.startswith("local/") else f"{name}@{version}"


class TaskIdentity(Part):
    """The clip table that the episodes were drawn from, and the sounds.

    Attributes:
        clips_sha256: Of the table: ids, labels, groups and splits.
        content_sha256: Of the bytes of the clips that were used, by their order in the table (`sounds_sha256` in
            `uamix_bench.storage.digests`), for a user's own data; None where name and version stand for the sounds,
            and the provenance has the digest.
    """

    name: Name
    version: Version
    clips_sha256: Sha256
    content_sha256: Sha256 | None = None
    classes: Count
    clips: Count
    clip_seconds: float = Field(gt=0)

    @classmethod
    def of(cls, task: TaskData, content_sha256: str | None, classes: int | None = None) -> Self:
        """That of a task's clips.

        Args:
            task: The task.
            content_sha256: Of the bytes of the clips that are used; None where they are not looked at.
            classes: How many, where a clip may have several, so that labels are no classes.
        """
        return cls(
            name=task.name,
            version=task.card.version,
            clips_sha256=task.clips_sha256,
            content_sha256=None if task.version_tells_sounds else content_sha256,
            classes=int(task.clips["label"].nunique()) if classes is None else classes,
            clips=len(task.clips),
            clip_seconds=task.card.clip_seconds,
        )

    @property
    def own(self) -> bool:
        """Whether it is a user's own folder or list, whose version is the hash of its clip table."""
        return self.name.startswith("local/")

    @property
    def label(self) -> str:
        """What tables call it."""
        return task_label(self.name, self.version)


class Cost(Part):
    """What the run took. Results of one sweep share one embedding pass, and each states it whole."""

    embedded_clips: Count
    embed_s: Seconds
    episodes_s: Seconds
    peak_memory_mb: Annotated[float, Field(ge=0)] | None


class Provenance(Part):
    """Where a record comes from; holds no user name, host or absolute path.

    `content_sha256` is that of the sounds that were used, whatever the task; None in a record that says nothing of
    them, as those of schema version 1 and trainings.
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


class Record(Part):
    """What is written once, by whoever ran it, and read by anyone. A kind of record subclasses it.

    Attributes:
        schema_version: Of the file's form.
        kind: Tells the kinds apart; each fixes its own.
        id: SHA-256 (hex) of the canonical JSON of `content`.
        largest_bytes: Above which a file of the kind is refused.

    Raises:
        pydantic.ValidationError: A field is wrong, or the parts disagree: what can be recomputed is.
    """

    largest_bytes: ClassVar[int] = 8 * 2**20  # 10,000 episodes over 1,000 classes take 0.1 MB

    schema_version: Literal[2] = 2
    kind: str
    id: Sha256

    @classmethod
    def create(cls, **parts: Any) -> Self:
        """Builds a record from its parts, all but `id`."""
        unsigned = cls.model_construct(id="", **parts)
        return cls(id=unsigned.expected_id(), **parts)

    def content(self) -> dict[str, Any]:
        """What the id is taken over, as plain data: by default all but the id, the cost and the provenance."""
        return self.model_dump(mode="json", exclude={"schema_version", "id", "cost", "provenance"})

    def expected_id(self) -> str:
        """The id that the content gives."""
        return files.digest(self.content())

    def place(self) -> str:
        """Where a store keeps it: folders, and how the file's name begins."""
        raise NotImplementedError

    def unit(self) -> str | None:
        """A digest of what was asked, where the outcome must then be the same; None where it need not be."""
        return None

    def check(self) -> None:
        """Recomputes what can be recomputed of the parts.

        Raises:
            ValueError: They disagree; the words say which.
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
    """A record of an outcome on sounds: what tells that two are of the same."""

    if TYPE_CHECKING:  # each kind places them in its own order
        task: TaskIdentity
        provenance: Provenance

    @property
    def sounds_recorded(self) -> bool:
        """Whether it says which sounds it is of: those of schema version 1 do not, and are never reused."""
        return self.provenance.content_sha256 is not None

    def check(self) -> None:
        """Makes sure that both digests of the sounds are one.

        Raises:
            ValueError: They are not.
        """
        stated = self.task.content_sha256
        if stated is not None and stated != self.provenance.content_sha256:
            raise ValueError("task.content_sha256 is not that of the provenance")


AnyRecord = TypeVar("AnyRecord", bound=Record)


def load(path: Path, kinds: Mapping[str, type[AnyRecord]]) -> AnyRecord:
    """Reads a record's file, from whoever it comes.

    Args:
        path: The file.
        kinds: The kinds that it may be of.

    Raises:
        BadInputError: Not such a record, not strict JSON (NaN, repeated keys, too long or deep), or its parts disagree.
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
    """Holds a stated number against the one that follows from the other parts.

    Raises:
        ValueError: They differ by more than rounding, or one of them is null.
    """
    if stated is None or expected is None:
        same = stated == expected
    else:
        same = math.isclose(stated, expected, abs_tol=_ROUNDING)
    if not same:
        raise ValueError(f"{field} is {stated}, but the parts give {expected}")


def record_text(record: Record) -> str:
    """Strict JSON with one line for each part of the record."""
    parts = record.model_dump(mode="json").items()
    lines = (f'  "{name}": {json.dumps(part, allow_nan=False, ensure_ascii=False)}' for name, part in parts)
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_json(path: Path, largest: int) -> tuple[str, Any]:
    """Reads a file of strict JSON: no NaN, no number beyond a float's range, no repeated key, UTF-8.

    Args:
        path: The file.
        largest: Bytes.

    Returns:
        Its text, and the document in it.

    Raises:
        BadInputError: It is no such file.
        MachineError: It cannot be read.
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
