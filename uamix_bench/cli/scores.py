"""Results on stdout: scores with the best marked, their intervals, and paired differences."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from uamix_bench.cli.tables import Table, count, fits, per_cent, show
from uamix_bench.comparison.ranking import Difference, Ranking, wider
from uamix_bench.plugins.overlap import notes
from uamix_bench.records import results as records
from uamix_bench.records.record import HalfInterval
from uamix_bench.records.results import Result
from uamix_bench.scoring.statistics import wilson_interval
from uamix_bench.util.text import classes_drawn, listed, p_value, per_second, plus_minus

_WIDTH = 80  # columns that a note takes, as the tables do
_POPULATIONS = {"clips": "new clips", "classes": "new classes"}
_FEW = re.compile(r"needs [\d,]+ episodes")  # the reason that a user can do something about


def show_results(results: Sequence[Result], ranking: Ranking) -> None:
    """Prints the scores, their intervals for new data, and each model's paired difference to the first."""
    labels = model_labels(results)
    sweep = len({(result.protocol.n_way, result.protocol.k_shot) for result in results}) > 1
    _show_scores(results, ranking, labels, sweep)
    _show_intervals(results, labels, sweep)
    if to_first := ranking.to_first():
        _show_differences(to_first, len(ranking.differences), labels, sweep)


def show_plan(items: Sequence[Mapping[str, Any]]) -> None:
    """Prints the evaluations that would run."""
    table = Table("model", "task", "n>", "k>", "q>", "episodes>", "classes>", "clips to embed>", "of>")
    for item in items:
        protocol = item["protocol"]
        numbers = (protocol["n_way"], protocol["k_shot"], protocol["n_query"], protocol["episodes"])
        classes = classes_drawn(item["classes"], item["classes_left_out"])
        clips = map(count, (item["clips_drawn"], item["clips"]))
        table.add(item["model"], item["task"], *map(count, numbers), classes, *clips)
    show(table)


def _show_scores(results: Sequence[Result], ranking: Ranking, labels: Mapping[str, str], sweep: bool) -> None:
    """Prints a row for each model and task with shots as columns, a table for each number of ways.

    A table that is too wide for the terminal is continued below.
    """
    rows: dict[tuple[str, str], dict[tuple[int, int], Result]] = {}
    for result in results:
        row = rows.setdefault((labels[result.id], result.task.label), {})
        row[result.protocol.n_way, result.protocol.k_shot] = result
    print(_heading(results, sweep))
    ways = dict.fromkeys(result.protocol.n_way for result in results)
    for way in ways:
        shots = list(dict.fromkeys(result.protocol.k_shot for result in results if result.protocol.n_way == way))
        while shots:
            shown = len(shots)
            while shown > 1 and not fits(_score_table(rows, way, shots[:shown], ranking, sweep)):
                shown -= 1
            title = f"{way}-way" if len(ways) > 1 else ""
            show(_score_table(rows, way, shots[:shown], ranking, sweep), title)
            shots = shots[shown:]
    told = [result for result in results if result.overlap_mark]
    for line in notes((labels[result.id], result.task.label, result.overlap_known) for result in told):
        _note(line)
    if ranking.best - ranking.best_for_new_clips:
        _note(f"(best): best on these clips; {_why_not_new(ranking)}")
    if ranking.alike:
        _note(f"≈ cannot be told apart from the best ({_test(len(ranking.differences))})")
    for words, who in _partial(results, labels).items():
        _note(f"* {', '.join(who)} on {words}")
    for line in _health(results, labels):
        _note(line)
    if paces := _paces(rows.values()):
        _note(paces)
    if shares := _shared(results):
        _note(f"Queries that share their group with a support clip: {', '.join(shares)} (--group-disjoint)")
    for result in results:
        if not result.score.ci95:  # one episode, or all alike: 1.96 x std / sqrt(n) says nothing, or certainty
            _note(f"{labels[result.id]} on {result.task.label}: {_bounds(result)}")


def _score_table(
    rows: Mapping[tuple[str, str], Mapping[tuple[int, int], Result]],
    way: int,
    shots: Sequence[int],
    ranking: Ranking,
    sweep: bool,
) -> Table:
    held = {key: [row[way, shot] for shot in shots if (way, shot) in row] for key, row in rows.items()}
    held = {key: found for key, found in held.items() if found}
    several = len({task for _, task in held}) > 1
    facts = ("task", "classes>", "clips>") if several else ()
    marks = {shot: any(_mark(row.get((way, shot)), ranking) for row in rows.values()) for shot in shots}
    headings = {shot: f"{shot}-shot>" if sweep else "accuracy %>" for shot in shots}
    table = Table(
        "model",
        *facts[:1],
        *(part for shot in shots for part in (headings[shot], *(("",) if marks[shot] else ()))),
        *facts[1:],
        "clips/s>",
        "episodes/s>",
        dropped=("episodes/s", "clips/s"),
    )
    for (label, task), found in held.items():
        cells = []
        for shot in shots:
            result = rows[label, task].get((way, shot))
            cells += [_accuracy(result), *([_mark(result, ranking)] if marks[shot] else [])]
        table.add(
            label,
            *([task] if several else []),
            *cells,
            *(_sizes(found) if several else []),
            _clip_rate(found),
            _episode_rate(found),
        )
    return table


def _sizes(results: Iterable[Result]) -> tuple[str, str]:
    """Classes and clips of results on one task; several numbers if the settings of a sweep differ."""
    results = list(results)
    classes = (classes_drawn(result.task.classes, result.episodes.classes_left_out) for result in results)
    clips = (count(result.task.clips) for result in results)
    return " or ".join(dict.fromkeys(classes)), " or ".join(dict.fromkeys(clips))


def _accuracy(result: Result | None) -> str:
    """Accuracy with its half-width, marked if clips are missing."""
    if result is None:
        return ""
    return per_cent(result.score.accuracy, result.score.ci95) + ("" if result.status.complete else "*")


def _mark(result: Result | None, ranking: Ranking) -> str:
    """Marks of a score: its rank, and whether the model was or may have been trained on data of the task."""
    if result is None:
        return ""
    rank = "≈" if result.id in ranking.alike else ""
    if result.id in ranking.best:
        rank = "best" if result.id in ranking.best_for_new_clips else "(best)"
    return f"{rank} {result.overlap_mark}".strip()


def _why_not_new(ranking: Ranking) -> str:
    """Reason why no best model is best for new clips, as far as the intervals say."""
    if all(_FEW.match(found.clips.reason) for found in ranking.differences):
        return "--episodes 10000 tests new clips"
    return "for new clips of these classes another may be better"


def _partial(results: Sequence[Result], labels: Mapping[str, str]) -> dict[str, dict[str, None]]:
    """Missing parts of results, in words, with the models that they are missing for."""
    found: dict[str, dict[str, None]] = {}
    for result in results:
        if result.status.complete:
            continue
        words = f"{result.task.label}: partial (a part of the clips), not comparable"
        if result.cell():
            clips = [one.clip for one in result.status.skipped]
            what = f"{len(clips)} broken clip{'s' * (len(clips) != 1)} left out: {listed(clips)}"
            words = f"{result.task.label}: partial ({what}), compared only with results without these clips"
        found.setdefault(words, {})[labels[result.id]] = None
    return found


def _show_intervals(results: Sequence[Result], labels: Mapping[str, str], sweep: bool) -> None:
    """Prints the three half-widths side by side, or what is needed to compute them."""
    given = [result for result in results if any(one.half_width is not None for one in _for_new(result).values())]
    if given:
        table = Table("model", "task", *(("n>", "k>") if sweep else ()), "these clips>", "new clips>", "new classes>")
        for result in given:
            times = wider(result)
            cells = [plus_minus(result.score.ci95 or 0.0)]
            for name, interval in _for_new(result).items():
                cells.append(plus_minus(interval.half_width))
                cells[-1] += f" ({times[name]:.1f}x)" if name in times else ""
            table.add(labels[result.id], result.task.label, *_cell(result, sweep), *cells)
        print()
        show(table, "95% half-widths for another draw from these clips, new clips, new classes too")
        if any(map(wider, given)):
            _note("(x) more than twice as wide as the conventional interval: claims about a model need these")
    lacking: dict[tuple[str, str], dict[str, None]] = {}  # what has no interval and why, and the tasks where
    for result in results:
        for name, interval in _for_new(result).items():
            if interval.reason:
                lacking.setdefault((name, interval.reason), {})[result.task.label] = None
    if any(_FEW.match(reason) for _, reason in lacking):
        _note("± covers only which episodes were drawn from these clips; --episodes 10000 adds intervals for new clips")
    several = len({result.task.label for result in results}) > 1
    for (name, reason), tasks in lacking.items():
        if not _FEW.match(reason):
            where = f" on {', '.join(tasks)}" if several else ""
            _note(f"no interval for {_POPULATIONS[name]}{where}: {reason}")


def _for_new(result: Result) -> dict[str, HalfInterval]:
    """Intervals that cover new clips or new classes, and not only these clips."""
    return {name: getattr(result.score.intervals, name) for name in _POPULATIONS}


def _show_differences(pairs: Sequence[Difference], family: int, labels: Mapping[str, str], sweep: bool) -> None:
    clips = any(found.clips.half_width is not None for found in pairs)
    more = ("new clips>",) if clips else ()
    table = Table("model", "task", *(("n>", "k>") if sweep else ()), "points>", *more, "p>", "detectable>")
    for found in pairs:
        table.add(
            labels[found.result.id],
            found.result.task.label,
            *_cell(found.result, sweep),
            per_cent(found.difference, found.half_width, "+"),
            *((plus_minus(found.clips.half_width),) if clips else ()),
            p_value(found.p_holm),
            "" if found.smallest is None else f"{100 * found.smallest:.2f}",
        )
    references = list(dict.fromkeys(labels[found.reference.id] for found in pairs))
    print()
    show(table, f"Difference to {' or '.join(references)} on the same episodes (95%, these clips only)")
    _note(f"p: {_test(family)}; detectable: smallest true difference that this run would find 8 times in 10")


def _test(family: int) -> str:
    return "paired t" + (f", Holm over all {family} pairs" if family > 1 else "")


def _note(text: str) -> None:
    print(textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False))


def _heading(results: Sequence[Result], sweep: bool) -> str:
    """The setting that all results share, after the task if there is one."""
    if len(tasks := dict.fromkeys(result.task.label for result in results)) > 1:
        return _setting(results, sweep)
    classes, clips = _sizes(results)
    return f"{next(iter(tasks))}: {classes} classes, {clips} clips\n{_setting(results, sweep)}"


def _setting(results: Sequence[Result], sweep: bool) -> str:
    protocols = [result.protocol for result in results]
    first = next((one for one in protocols if one.k_shot), protocols[0])
    words = "" if sweep else f"{first.cell}, "
    queries = _several({result.protocol.n_query for result in results})
    words += f"{queries} {'query' if queries == '1' else 'queries'} a class, "
    words += f"{first.episodes:,} episode{'s' * (first.episodes > 1)}, {first.scored_by}"
    words += f", seed {first.seed}" if first.seed else ""
    words += ", group-disjoint" if first.group_disjoint else ""
    fewest = {result.protocol.min_clips for result in results} - {None}
    words += f", classes of {_several(filter(None, fewest))} clips or more" if fewest else ""
    words += ", mean of all segments" if first.segments == "mean" else ""
    by_name = dict.fromkeys(one.scored_by for one in protocols if not one.k_shot)
    words += f"; k 0: {' or '.join(by_name)}" if first.k_shot and by_name else ""
    return words + ("" if first.name in ("paper", "custom") else f", {first.name}")


def _several(numbers: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(numbers)))


def _shared(results: Sequence[Result]) -> list[str]:
    """Tasks whose episodes share groups between queries and supports, with the share of such queries."""
    shares: dict[str, list[float]] = {}
    for result in results:
        if result.episodes.shared_group_share:
            shares.setdefault(result.task.label, []).append(100 * result.episodes.shared_group_share)
    ends = {task: dict.fromkeys(f"{share:.1f}" for share in (min(found), max(found))) for task, found in shares.items()}
    return [f"{task} {' to '.join(numbers)}%" for task, numbers in ends.items()]


def _health(results: Sequence[Result], labels: Mapping[str, str]) -> Iterator[str]:
    """Notes of the health checks, once for all models of a task if they are identical."""
    models: dict[str, dict[str, None]] = {}
    told: dict[tuple[str, str], dict[str, None]] = {}
    for result in results:
        models.setdefault(result.task.label, {})[labels[result.id]] = None
        for note in result.health.notes:
            told.setdefault((result.task.label, note), {})[labels[result.id]] = None
    for (task, note), who in told.items():
        yield f"{task}: {note}" if len(who) == len(models[task]) > 1 else f"{', '.join(who)} on {task}: {note}"


def _bounds(result: Result) -> str:
    """Wilson's bounds, for results whose conventional interval is missing or has no width."""
    episodes = result.protocol.episodes
    trials = episodes if episodes > 1 else result.protocol.n_way * result.protocol.n_query
    low, high = wilson_interval(round(result.score.accuracy * trials), trials)
    return f"{100 * low:.1f} to {100 * high:.1f} by Wilson's 95% bounds for {trials:,} trials"


def model_labels(results: Sequence[Result]) -> dict[str, str]:
    """Label of each result's model, with its precision."""
    labels = records.model_labels(result.model for result in results)
    return {
        result.id: labels[result.model]
        + (f" {dtype}" if (dtype := result.model.dtype) != "float32" and dtype not in labels[result.model] else "")
        for result in results
    }


def _cell(result: Result, sweep: bool) -> tuple[str, ...]:
    return (str(result.protocol.n_way), str(result.protocol.k_shot)) if sweep else ()


def _clip_rate(results: Sequence[Result]) -> str:
    """Clips embedded per second by the run that embedded most; in parentheses if these are earlier runs."""
    speed = records.embedding_speed(results)
    if speed is None:
        return "cached"
    rate = per_second(speed.clips_per_s)
    return f"({rate})" if speed.earlier else rate


def _episode_rate(results: Sequence[Result]) -> str:
    seconds = sum(result.cost.episodes_s for result in results)
    return per_second(sum(result.protocol.episodes for result in results) / max(seconds, 1e-9))


def _paces(rows: Iterable[Mapping[tuple[int, int], Result]]) -> str:
    """Note on rates of earlier runs, with their devices; empty if none is shown."""
    speeds = [speed for row in rows if (speed := records.embedding_speed(row.values()))]
    devices = dict.fromkeys(speed.device for speed in speeds if speed.earlier)
    if not devices:
        return ""
    return f"(clips/s): embeddings from the cache; rate of the earlier runs that made them, on {' or '.join(devices)}"
