"""Recommendation on stdout: the learning curves, then the answer in plain words."""

from __future__ import annotations

from collections.abc import Iterator

from uamix_bench.cli.scores import model_labels
from uamix_bench.cli.tables import Table, count, show, show_card
from uamix_bench.records.record import HalfInterval
from uamix_bench.studies.recommend import CHEAPER, Candidate, Plans, Recommendation
from uamix_bench.util.text import listed, per_second, plus_minus

_UNKNOWN = "cannot be known from these"


def show_recommendation(found: Recommendation, plans: Plans, use: str) -> None:
    """Prints the learning curves of all models on the reporting half, the answer, and the command that uses it."""
    labels = model_labels([next(iter(one.reporting.values())) for one in found.candidates])
    names = {id(one): labels[next(iter(one.reporting.values())).id] for one in found.candidates}
    _show_curves(found, names)
    print()
    show_card({**_answer(found, names, plans), "Use": use})


def _show_curves(found: Recommendation, names: dict[int, str]) -> None:
    result = found.reported
    protocol, classes = result.protocol, len(result.per_class)
    shots = list(found.chosen.reporting)
    table = Table("model", "", *(f"{number}>" for number in shots), "clips/s>", "parameters>", dropped=("parameters",))
    for one in found.candidates:
        mark = "trained on it" if one.trained_on_task else "≈" if one in found.alike else ""
        mark = "take" if one is found.chosen else mark
        curve = (f"{100 * one.reporting[number].score.accuracy:.1f}" for number in shots)
        table.add(names[id(one)], mark, *curve, _speed(one), count(one.model.parameters))
    ways = f"{protocol.n_way} of {classes} classes at a time" if protocol.n_way < classes else f"{classes} classes"
    title = f"{result.task.label}: accuracy %, {ways}, by examples a class"
    show(table, title)


def _answer(found: Recommendation, names: dict[int, str], plans: Plans) -> dict[str, str]:
    result, chosen = found.reported, found.chosen
    classes, ways = len(result.per_class), result.protocol.n_way
    model = f"{names[id(chosen)]}: {100 * result.score.accuracy:.1f}% correct with {_examples(found.examples)} a class"
    model += f", {ways} classes at a time (--n all: all {classes})" if ways < classes else ""
    sizes = [count(len(plan.task.table)) for plan in plans]
    return {
        "Model": model + (", which means little: it was trained on data of the task" if chosen.trained_on_task else ""),
        "Alike": _alike(found, names) if len(found.candidates) > 1 else "",
        "But": _contradiction(found, names),
        "Fewer": _with_fewer(found, names),
        "Examples": _curve(found),
        "Cost": ", ".join(_cost(chosen)),
        "New clips": _interval(result.score.intervals.clips),
        "New classes": _interval(result.score.intervals.classes),
        "Chosen on": f"{sizes[0]} clips; the figures are of the other {sizes[1]} (seed {result.protocol.seed})",
    }


def _alike(found: Recommendation, names: dict[int, str]) -> str:
    """Models that cannot be told apart from the best, and the population that this covers."""
    where = f"on {found.covers}, at {_examples(found.compared_at)} a class"
    unknown = f"; for new clips it {_UNKNOWN} ({found.why_not_new})" if found.why_not_new else ""
    others = [names[id(one)] for one in found.alike if one is not found.chosen]
    if not others:
        return f"none: it is the best {where}{unknown}"
    scale = "as fast" if found.by_speed else "as small (not all were timed on one device)"
    if found.chosen is found.candidates[0]:
        return f"{listed(others)} cannot be told apart from it {where}; none is {CHEAPER:g} times {scale}{unknown}"
    told, best = [names[id(found.chosen)], *others[1:]], names[id(found.candidates[0])]
    cheap = f"{names[id(found.chosen)]} is {CHEAPER:g} times {scale} or more"
    return f"{listed(told)} cannot be told apart from the best, {best}, {where}; {cheap}{unknown}"


def _contradiction(found: Recommendation, names: dict[int, str]) -> str:
    """Model that is ahead of the chosen one on the half that it was not chosen on; empty without one."""
    if found.contradiction is None:
        return ""
    rival, test = found.contradiction
    ahead = f"{100 * test.difference:.1f} ± {100 * test.half_width:.1f} points ahead"
    where = f"on the other half, at {_examples(found.compared_at)} a class"
    return f"{names[id(rival)]} is {ahead} {where}: these clips do not settle which is better"


def _with_fewer(found: Recommendation, names: dict[int, str]) -> str:
    """Models that are ahead at fewer examples than those at which models are compared; empty without any."""
    fair = [one for one in found.candidates if not one.trained_on_task] or found.candidates
    led: dict[int, list[int]] = {}
    for number in (number for number in found.chosen.choosing if number < found.compared_at):
        leader = max(fair, key=lambda one: one.choosing[number].score.accuracy)
        led.setdefault(id(leader), []).append(number)
    others = [f"{names[one]} at {listed(map(str, numbers))}" for one, numbers in led.items() if one != id(found.chosen)]
    return f"ahead is {'; '.join(others)} a class; --k sets the numbers that models are compared at" if others else ""


def _curve(found: Recommendation) -> str:
    steps = {here: (there, f"{100 * gained:+.1f}") for here, there, gained in found.chosen.steps()}
    if found.levels_off:
        here, (there, gained) = found.examples, steps[found.examples]
        limit = f"{100 * found.gain:g} point{'s' * (found.gain != 0.01)}"
        return f"{here} a class: from {here} to {there} it gains {gained}, less than {limit}"
    if not steps:
        return f"unknown: the models were compared with {_examples(found.examples)} a class only"
    here, (there, gained) = list(steps.items())[-1]
    return f"more than {there} a class, the most that was tried: from {here} to {there} it still gains {gained} points"


def _cost(one: Candidate) -> Iterator[str]:
    if one.speed is None:
        yield "speed unknown"
    else:
        yield f"{_speed(one)} clips/s ({one.speed.device}{', an earlier run' * one.speed.earlier})"
    if one.memory_mb is not None:
        yield f"at most {one.memory_mb:,.0f} MB of memory"
    yield f"{count(one.model.parameters)} parameters"


def _speed(one: Candidate) -> str:
    return "" if one.speed is None else per_second(one.speed.clips_per_s)


def _interval(half: HalfInterval) -> str:
    if half.half_width is None:
        return f"{_UNKNOWN} ({half.reason})"
    return f"{plus_minus(half.half_width, 1)} points (95%)"


def _examples(number: int) -> str:
    return f"{number} example{'s' * (number > 1)}"
