"""Result, the record of one model x one task x one protocol, and ResultStore, a folder of them. Free of torch."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from uamix_bench import files
from uamix_bench.card import ModelIdentity, Name
from uamix_bench.episodes import Protocol
from uamix_bench.errors import BadInputError
from uamix_bench.health import Health
from uamix_bench.statistics import conventional_interval

_LARGEST_FILE = 8 * 2**20  # bytes; 10,000 episodes over 1,000 classes take 0.1 MB
_ROUNDING = 1e-9  # sums in another order, on another machine

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Seconds = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(max_length=2_000)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Skipped(_Record):
    """A clip that was set aside, and why."""

    clip: Text
    reason: Text


class Status(_Record):
    """Whether all of the task was evaluated; what is not complete is never ranked or paired."""

    complete: bool
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[Text, ...] = ()


class TaskIdentity(_Record):
    """The clip table that the episodes were drawn from."""

    name: Name
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,39}$")]
    clips_sha256: Sha256
    classes: Count
    clips: Count
    clip_seconds: float = Field(gt=0)


class Episodes(_Record):
    """The draw, and its outcome: correct queries of each episode, of n_way * n_query."""

    algorithm: Text
    digest: Sha256
    correct: tuple[Count, ...]
    classes_left_out: Count
    shared_group_share: Fraction | None


class Score(_Record):
    """Mean accuracy over episodes, and half-widths of its 95% intervals; all fractions.

    `ci95` speaks of these clips only; `ci95_clips` of new clips of these classes, `ci95_classes` of new classes too.
    One that cannot be given is null, and a note of the status says why.
    """

    accuracy: Fraction
    ci95: Annotated[float, Field(ge=0)] | None
    interval: Literal["1.96 x population std / sqrt(n)"] = "1.96 x population std / sqrt(n)"
    ci95_clips: Annotated[float, Field(ge=0)] | None = None
    ci95_classes: Annotated[float, Field(ge=0)] | None = None


class Cost(_Record):
    """What the run took. Results of one sweep share one embedding pass, and each states it whole."""

    embedded_clips: Count
    embed_s: Seconds
    episodes_s: Seconds
    peak_memory_mb: Annotated[float, Field(ge=0)] | None


class Provenance(_Record):
    """Where a result comes from; holds no user name, host or absolute path."""

    package: Text
    git_revision: Text | None
    git_dirty: bool | None
    packages: dict[str, Text]
    python: Text
    device: Text
    platform: Text
    started_at: Text
    command: Text


class Result(_Record):
    """The persisted record of a few-shot evaluation.

    Raises:
        pydantic.ValidationError: A field is wrong, or the parts disagree: mean, interval, id, lengths and sums are
            recomputed.
    """

    schema_version: Literal[1] = 1
    kind: Literal["fewshot"] = "fewshot"
    id: Sha256
    status: Status
    model: ModelIdentity
    task: TaskIdentity
    protocol: Protocol
    episodes: Episodes
    per_class: dict[str, tuple[Count, Count]]
    score: Score
    health: Health
    cost: Cost
    provenance: Provenance

    @classmethod
    def create(cls, **parts: Any) -> Result:
        """Builds a result from its parts, all but `id`."""
        unsigned = cls.model_construct(id="", **parts)
        return cls(id=unsigned.expected_id(), **parts)

    def expected_id(self) -> str:
        """SHA-256 (hex) of the canonical JSON of what was evaluated and what came out, without cost and provenance."""
        return files.digest(
            {
                "kind": self.kind,
                "model": self.model.model_dump(mode="json"),
                "task": self.task.model_dump(mode="json"),
                "protocol": self.protocol.model_dump(mode="json"),
                "episodes": self.episodes.model_dump(mode="json"),
                "per_class": {label: list(counts) for label, counts in self.per_class.items()},
                "skipped": [clip.model_dump(mode="json") for clip in self.status.skipped],
                **({} if self.status.complete else {"complete": False}),
            }
        )

    def accuracies(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """(E,) float64 accuracy of each episode."""
        return np.asarray(self.episodes.correct, np.float64) / (self.protocol.n_way * self.protocol.n_query)

    def evaluates(self, model: ModelIdentity, task: TaskIdentity, protocol: Protocol, digest: str) -> bool:
        """Whether this is the complete result of exactly this model, clip table, protocol and draw."""
        asked = (model, task, protocol, digest)
        return self.status.complete and asked == (self.model, self.task, self.protocol, self.episodes.digest)

    @model_validator(mode="after")
    def _parts_agree(self) -> Result:
        protocol, correct = self.protocol, self.episodes.correct
        if len(correct) != protocol.episodes:
            raise ValueError(f"{protocol.episodes} episodes, but {len(correct)} numbers of correct queries")
        if max(correct) > protocol.n_way * protocol.n_query:
            raise ValueError(f"{max(correct)} correct of {protocol.n_way * protocol.n_query} queries")
        hits = [hit for hit, _ in self.per_class.values()]
        totals = [total for _, total in self.per_class.values()]
        if any(hit > total or total % protocol.n_query for hit, total in zip(hits, totals, strict=True)):
            raise ValueError("per_class: more correct than asked, or not a whole number of episodes")
        if sum(hits) != sum(correct) or sum(totals) != len(correct) * protocol.n_way * protocol.n_query:
            raise ValueError("per_class does not add up to the episodes")
        if len(totals) + self.episodes.classes_left_out > self.task.classes:
            raise ValueError(
                f"{len(totals)} classes drawn of {self.task.classes} with {self.episodes.classes_left_out} left out"
            )
        if self.status.complete and self.status.skipped:
            raise ValueError("complete, yet clips were skipped")
        for interval in ("ci95", "ci95_clips", "ci95_classes"):
            reason = any(note.startswith(f"{interval}: ") for note in self.status.notes)
            if getattr(self.score, interval) is None and not reason:
                raise ValueError(f"score.{interval} is null, and no note says why")
        self._agrees("accuracy", self.score.accuracy, float(self.accuracies().mean()))
        self._agrees("ci95", self.score.ci95, conventional_interval(self.accuracies()).half_width)
        if self.id != self.expected_id():
            raise ValueError("the id is not that of the content")
        return self

    @staticmethod
    def _agrees(field: str, stated: float | None, expected: float | None) -> None:
        same = (
            stated == expected
            if stated is None or expected is None
            else math.isclose(stated, expected, abs_tol=_ROUNDING)
        )
        if not same:
            raise ValueError(f"score.{field} is {stated}, but the episodes give {expected}")


def load_result(path: Path) -> Result:
    """Reads a result file, from whoever it comes.

    Raises:
        BadInputError: Not a result, not strict JSON (NaN, repeated keys, too long or deep), or its parts disagree.
        MachineError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise files.unreadable(path, error) from error
    remedy = "restore the original file, or delete it and run the evaluation again"
    if len(content) > _LARGEST_FILE:
        raise BadInputError(path, f"is larger than {_LARGEST_FILE // 2**20} MB", "this is no result file")
    try:
        text = content.decode("utf-8")
        json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique)
        return Result.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ")
        raise BadInputError(path, f"{field}: {reason}" if field else reason, remedy) from error
    except RecursionError as error:
        raise BadInputError(path, "is nested too deeply", remedy) from error
    except ValueError as error:  # JSON, UTF-8, a number of thousands of digits
        raise BadInputError(path, f"is not strict JSON ({error})", remedy) from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is beyond the range of numbers")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        repeated = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ValueError(f"the key '{repeated[:40]}' is repeated")
    return members


class ResultStore:
    """A folder of immutable result files, safe for many writers at once, merged by copying files together.

    Args:
        folder: Where; default ``UAMIX_BENCH_HOME/results``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or files.home() / "results"

    def check_writable(self) -> None:
        """Makes sure that a result can be written here, before any long work.

        Raises:
            MachineError: It cannot.
        """
        files.check_writable(self.folder)

    def path(self, result: Result) -> Path:
        """Where a result stands: ``<task>@<version>/<model>/<n>w<k>s-<first 12 of id>.json``."""
        folder = self._place(result.model, result.task)
        return folder / f"{_setting(result.protocol)}-{result.id[:12]}.json"

    def write(self, result: Result) -> Path:
        """Writes a result; one that is there stays as it is, and its path is returned.

        Raises:
            BadInputError: Another result holds the name, or the file that does is damaged.
            MachineError: The folder cannot be written.
        """
        path = self.path(result)
        if not path.exists() and _create(path, _text(result).encode()):
            return path
        if load_result(path).id != result.id:
            raise BadInputError(
                path, "another result has the same first 12 digits of its id", "write to another folder with -o"
            )
        return path

    def find(
        self, model: ModelIdentity, task: TaskIdentity, protocol: Protocol, digest: str
    ) -> Iterator[tuple[Path, Result]]:
        """Finds the complete results of exactly this model, clip table, protocol and draw."""
        for path in sorted(self._place(model, task).glob(f"{_setting(protocol)}-*.json")):
            result = load_result(path)
            if result.evaluates(model, task, protocol, digest):
                yield path, result

    def __iter__(self) -> Iterator[tuple[Path, Result]]:
        for path in sorted(self.folder.rglob("*.json")):
            yield path, load_result(path)

    def _place(self, model: ModelIdentity, task: TaskIdentity) -> Path:
        return self.folder / f"{task.name}@{task.version}" / model.name


def _setting(protocol: Protocol) -> str:
    return f"{protocol.n_way}w{protocol.k_shot}s"


def _text(result: Result) -> str:
    """Strict JSON with one line for each part of the record."""
    parts = result.model_dump(mode="json").items()
    lines = (f'  "{name}": {json.dumps(part, allow_nan=False, ensure_ascii=False)}' for name, part in parts)
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _create(path: Path, content: bytes) -> bool:
    """Writes a file whole under a name that nothing holds yet; False where another process was first."""
    temporary = files.write_atomic(path.with_name(f".tmp-{uuid.uuid4().hex}"), content)
    try:
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
