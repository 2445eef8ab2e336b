"""Newest of several records of one evaluation, and of several versions of the data under one name. Free of torch.

A user's own folder keeps its name when its clips or their sounds change. Only records of its newest version are
comparable. So tables, pages and exports show these, and name the records left out in a line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

from uamix_bench.records.finetune_record import FinetuneResult
from uamix_bench.records.results import Result
from uamix_bench.util import files

AnyRecord = TypeVar("AnyRecord", Result, FinetuneResult)


class Newest(NamedTuple, Generic[AnyRecord]):
    """Records that may be shown together.

    Attributes:
        records: Records that are kept, in the order of their start.
        superseded: Number of records that a later record of the same model and evaluation replaces.
        earlier: Lines for the reader, one for each data set of which records of an earlier version are left out.
    """

    records: list[AnyRecord]
    superseded: int
    earlier: tuple[str, ...]


def newest(records: Iterable[AnyRecord]) -> Newest[AnyRecord]:
    """Keeps the latest record of each evaluation, and the records of the newest version of a user's own data.

    The version of own data is its clip table's and, within one table, that of the sounds. The digest of sounds covers
    the drawn clips, so it is compared within one setting. A record of another setting is left out too if it is older
    than a record of sounds that have changed since. A record without a digest of its sounds counts as the oldest.

    Args:
        records: Few-shot results or fine-tunings of any models and tasks; each id counts once.
    """
    unique = {record.id: record for record in sorted(records, key=_age)}
    ordered = sorted(unique.values(), key=_age)
    asked = {one.id: _question(one) for one in ordered}
    tables = {one.task.name: one.task.version for one in ordered if one.task.own}
    of_tables = [one for one in ordered if one.task.version == tables.get(one.task.name, one.task.version)]
    latest = {(one.model, asked[one.id]): one.id for one in of_tables}
    answers = [one for one in of_tables if latest[one.model, asked[one.id]] == one.id]
    current = {one.id for one in answers}

    sounds = {asked[one.id]: one.task.content_sha256 for one in of_tables}
    told = [one for one in of_tables if one.sounds_recorded or one.id in current]
    old = [one for one in told if one.task.content_sha256 != sounds[asked[one.id]]]
    replaced = {asked[one.id] for one in old}
    until = {_table(one): one.provenance.started_at for one in old if one.sounds_recorded}  # the last, in their order
    outdated = {one.id for one in old} | {
        one.id
        for one in answers
        if asked[one.id] not in replaced and one.provenance.started_at <= until.get(_table(one), "")
    }
    kept = [one for one in answers if one.id not in outdated]
    shown = {one.id for one in of_tables}
    gone = Counter(one.task.label for one in ordered if one.id not in shown or one.id in outdated)
    lines = tuple(
        f"{label}: {number} record{'s' * (number != 1)} of an earlier version of the data (or of other data of that "
        "name) left out; give their files alone to see them"
        for label, number in gone.items()
    )
    return Newest(kept, len(ordered) - len(kept) - gone.total(), lines)


def _age(record: Result | FinetuneResult) -> tuple[bool, str, str]:
    return record.sounds_recorded, record.provenance.started_at, record.id


def _table(record: Result | FinetuneResult) -> tuple[str, str]:
    return record.task.name, record.task.version


def _question(record: Result | FinetuneResult) -> str:
    """Digest of the requested evaluation: task, setting and draw, without model and sounds."""
    if isinstance(record, Result):
        setting, drawn = record.protocol.model_dump(mode="json"), [record.episodes.algorithm, record.episodes.digest]
    else:
        setting = record.setting.model_dump(mode="json")
        drawn = [f"{run.fold}, {run.seed}, {run.test_sha256}" for run in record.runs]
    table = record.task.model_dump(mode="json", exclude={"content_sha256"})
    status = record.status.model_dump(mode="json", include={"complete", "limited", "partial"})
    return files.digest([table, setting, drawn, status, [one.clip for one in record.status.skipped]])
