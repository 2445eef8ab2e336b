"""Report of a reproduction: the paper's number, ours, the difference, and whether the intervals agree."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from uamix_bench.evaluation.redraw import Redraw
from uamix_bench.evaluation.replay import Replay, replay
from uamix_bench.plugins import registry
from uamix_bench.records.finetune_record import FinetuneResult
from uamix_bench.records.results import Result
from uamix_bench.reports import clusters
from uamix_bench.reports.blocks import Block, Cell, Mark, Prose, Row, Section, Table, score_cell
from uamix_bench.reports.board import board, overlap_notes
from uamix_bench.reports.fewshot import accuracy, differences, over_ways_and_shots
from uamix_bench.reports.finetune import finetuned_cell
from uamix_bench.reports.page import Page, render
from uamix_bench.reports.published import published
from uamix_bench.reports.result_card import drawer_id, drawers
from uamix_bench.scoring.protocol import PAPER
from uamix_bench.studies.paper import ARMS, Target, architecture
from uamix_bench.studies.reproduce import Reproduction, not_comparable
from uamix_bench.util.errors import BenchError
from uamix_bench.util.text import listed, with_half

_AGREE = (
    "Intervals agree where 0 lies in the 95% interval of the difference, whose half-width is the root of the sum of "
    "both squares: the two draws of episodes are independent. Both intervals cover the draw alone, so one pair in "
    "twenty would not agree even if nothing differed. What is not comparable is shown and not judged."
)
_MISSING = Cell("missing", mark="faint")


class Outcome(NamedTuple):
    """Outcome of a reproduction: a number of the paper beside ours, all in per cent.

    Attributes:
        paper: Accuracy and half-width in the paper; None if none is published.
        ours: Accuracy and half-width measured here; None if missing.
        why_not: Reason why the two are not compared; empty if they are.
        result: Our result; None if missing.
    """

    paper: tuple[float, float] | None
    ours: tuple[float, float | None] | None
    why_not: str = ""
    result: Result | None = None

    @property
    def difference(self) -> tuple[float, float] | None:
        """Difference, ours less the paper's, and the half-width of its 95% interval; None if they are not compared."""
        if self.paper is None or self.ours is None or self.ours[1] is None or self.why_not:
            return None
        return self.ours[0] - self.paper[0], math.hypot(self.ours[1], self.paper[1])

    @property
    def agrees(self) -> bool | None:
        """True if the intervals agree; None if the numbers are not compared."""
        if self.difference is None:
            return None
        distance, half_width = self.difference
        return abs(distance) <= half_width


def report(
    records: Iterable[Any],
    *,
    plans: Sequence[Reproduction],
    set_aside: Sequence[str] = (),
    data_dir: Path | None = None,
) -> Page:
    """Renders targets.

    Args:
        records: Records of the plans' jobs.
        plans: Plans of the targets, in the order in which they are shown.
        set_aside: Lines that name the failures, one each.
        data_dir: Folder of the data sets, for a t-SNE; default ``UAMIX_BENCH_HOME/data``.
    """
    found = list(records)
    results = [record for record in found if isinstance(record, Result)]
    blocks: list[Block] = [
        Section(plan.target.title, _blocks(plan, found, data_dir), id=plan.target.id) for plan in plans
    ]
    if len(plans) == 1:
        blocks = _blocks(plans[0], found, data_dir)
    if set_aside:
        blocks.append(Section("Set aside", [Prose("\n\n".join(set_aside))]))
    if results:
        blocks.append(Section("Our results", drawers(board(results))))
    source = published().sources["uamix"]
    title = plans[0].target.title if len(plans) == 1 else "The paper's tables and figures"
    return render(
        title,
        blocks,
        lead=f"{source.title}, beside what was measured here.",
        footer="Made by uamix-bench. The paper's numbers are its authors'; ours follow from the result files.",
    )


def outcomes(plan: Reproduction, results: Iterable[Result]) -> dict[tuple[str, str], Outcome]:
    """Outcomes of a table with published values, by model and task."""
    cards = {name: plugin.card for name, plugin in registry.models().items()}
    ordered = sorted(results, key=lambda one: one.protocol.cell == PAPER.cell)  # it wins, if there
    ours = {(one.model.name, one.task.name): one for one in ordered if _belongs(plan, one)}
    paper = _published(plan.target)
    found = {}
    for model in plan.target.models:
        for task in plan.target.tasks:
            result = ours.get((model, task))
            measured, why_not = None, ""
            if result is not None:
                half = result.score.ci95
                measured = (100 * result.score.accuracy, None if half is None else 100 * half)
                why_not = not_comparable(result, cards[architecture(model)], plan.settings)
            found[model, task] = Outcome(paper.get((model, task)), measured, why_not, result)
    return found


def _belongs(plan: Reproduction, result: Result) -> bool:
    cell = (result.protocol.n_way, result.protocol.k_shot)
    return cell in plan.cells and result.model.name in plan.target.models and result.task.name in plan.target.tasks


def _published(target: Target) -> dict[tuple[str, str], tuple[float, float]]:
    """Published accuracy and half-width in per cent, by our name of the model and task."""
    if not target.published:
        return {}
    by_mixing: dict[str, str] = {mixing: name for name, mixing in ARMS.items()}
    found = {}
    for row in published().table(target.published).rows:
        name = by_mixing.get(row.mixing, row.model) if row.mixing else row.model
        for task, values in row.accuracy.items():
            if len(values) == 2:
                found[name, task] = (values[0], values[1])
    return found


# --- one target


def _blocks(plan: Reproduction, records: Sequence[Any], data_dir: Path | None) -> list[Block]:
    results = [record for record in records if isinstance(record, Result) and _belongs(plan, record)]
    blocks: list[Block] = []
    if plan.miniatures:
        names = ", ".join(plan.miniatures)
        blocks.append(Prose(f"Miniatures stand in for {names}: results on them cannot be compared with the paper."))
    if plan.target.published:
        blocks += _beside(plan, results)
    elif plan.target.kind == "few-shot":
        blocks.append(Prose("The figure's values are not published as numbers: only ours are shown."))
    if plan.target.kind == "few-shot" and results:
        table = board(results)
        blocks += [*accuracy(table)] if not plan.target.published else []
        blocks += [*differences(table.settings), *over_ways_and_shots(table)]
    if plan.target.kind == "fine-tuning":
        blocks += _finetuned(plan, [record for record in records if isinstance(record, FinetuneResult)])
    if plan.target.kind == "clusters":
        blocks += _clusters(plan, results, data_dir)
    if plan.missing:
        rows = [(need.subject, listed(need.needed_by, 3), need.remedy) for need in plan.missing]
        blocks.append(Table(("missing", "needed by", "remedy"), rows, "Missing"))
    blocks.append(Prose("\n\n".join(f"Assumed: {line}" for line in plan.target.assumed)))
    return blocks


def _beside(plan: Reproduction, results: Sequence[Result]) -> Iterator[Block]:
    found = outcomes(plan, results)
    lacks = {(job.model, job.task): job.lacks for job in plan.jobs}
    judged = [one.agrees for one in found.values() if one.agrees is not None]
    measured = sum(one.ours is not None for one in found.values())
    yield Prose(
        f"{measured} of {len(found)} cells are measured here, {len(judged)} can be compared, {sum(judged)} agree."
        if measured
        else f"None of {len(found)} cells is measured here yet."
    )
    columns = ("model", "paper>", "ours>", "difference>", "intervals")
    for task in plan.target.tasks:
        rows = [(model, *_row(found[model, task], lacks.get((model, task), ()))) for model in plan.target.models]
        marks = overlap_notes(one.result for model in plan.target.models if (one := found[model, task]).result)
        yield Table(columns, rows, f"{task}: accuracy in per cent ± half-width of the 95% interval", "\n\n".join(marks))
    yield Prose(_AGREE)
    slips = published().source_of(table := published().table(plan.target.published), table.rows[0]).slips
    told = [slip for slip in slips if f"Table {plan.target.id.removeprefix('table')}" in slip]
    if told:
        yield Prose("\n\n".join(told))


def _row(outcome: Outcome, lacks: Sequence[str]) -> Row:
    paper = Cell("not given", mark="faint")
    if outcome.paper is not None:
        paper = Cell(*with_half(*outcome.paper, 1, scale=1), outcome.paper[0])
    if outcome.result is None:
        why = f"no {', no '.join(lacks)}" if lacks else "not run, or skipped"
        return paper, _MISSING, "", Cell(why, mark="faint")
    mark: Mark = "faint" if outcome.why_not else ""
    ours = score_cell(outcome.result, mark=mark, href=f"#{drawer_id(outcome.result)}")
    if outcome.difference is None:
        return paper, ours, "", Cell(f"not comparable: {outcome.why_not}" if outcome.why_not else "", mark="faint")
    distance, width = outcome.difference
    apart: Mark = "" if outcome.agrees else "better" if distance > 0 else "worse"
    said = "agree" if outcome.agrees else "ours is higher" if distance > 0 else "ours is lower"
    return paper, ours, Cell(*with_half(distance, width, 1, "+", scale=1), distance), Cell(said, mark=apart)


def _finetuned(plan: Reproduction, results: Sequence[FinetuneResult]) -> Iterator[Block]:
    known: Mapping[tuple[str, str], FinetuneResult] = {(one.model.name, one.task.name): one for one in results}
    rows: list[Row] = []
    for model in plan.target.models:
        cells = [finetuned_cell(one) if (one := known.get((model, task))) else _MISSING for task in plan.target.tasks]
        rows.append((model, *cells))
    note = "± half-width of the 95% interval for new recordings, speakers or videos, clustered by them."
    note = "\n\n".join([note, *overlap_notes(known.values())])
    yield Table(("model", *(f"{task}>" for task in plan.target.tasks)), rows, "Ours, accuracy in per cent", note)
    yield Prose("The values of the paper's Table 4 are not known here. What others published of the same kind:")
    yield published().show(published().table("fine-tuned"))


def _clusters(plan: Reproduction, results: Sequence[Result], data_dir: Path | None) -> Iterator[Block]:
    whole: dict[str, Replay] = {}
    redraw = Redraw(data_dir)
    for result in sorted(results, key=lambda one: plan.target.models.index(one.model.name)):
        try:
            whole[result.model.name] = replay(result, redraw)
        except BenchError as error:
            yield Prose(f"{error}.")
    if whole:
        yield from clusters.blocks(whole)
    missing = [model for model in plan.target.models if model not in whole]
    if missing:
        yield Prose(f"Missing: {', '.join(missing)}.")
