"""Comparison of two pytest-benchmark files, a base and a head: slower benchmarks, and gates. Pure functions.

The rounds of one run share its machine and its moment. So their spread says little about another run, and a significant
difference may still come from a busy machine. Therefore a gate on ``mean`` or ``median`` asks for a one-sided 95% Welch
interval that excludes its margin, if rounds are given, and files of two machines are not compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from uamix_bench.comparison.gate import Gate
from uamix_bench.comparison.ranking import SIGNIFICANCE
from uamix_bench.scoring.statistics import Z95, exceeds_p, holm
from uamix_bench.util.errors import BadInputError, UsageError
from uamix_bench.util.text import fit

_TESTED = {"mean": 1.0, "median": math.sqrt(math.pi / 2)}  # standard error, in those of the mean, of a normal sample

Verdict = Literal["faster", "slower", "no difference found", "not comparable", "missing"]
Seconds = Annotated[float, Field(ge=0, lt=1e9, allow_inf_nan=False)]


class Stats(BaseModel):
    """Figures of one benchmark, from pytest-benchmark's ``stats``; times in seconds."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="ignore")

    min: Seconds
    max: Seconds
    mean: Annotated[Seconds, Field(gt=0)]
    median: Annotated[Seconds, Field(gt=0)]
    stddev: Seconds
    iqr: Seconds
    rounds: Annotated[int, Field(ge=1, lt=2**53)]


class _Benchmark(BaseModel):
    model_config = ConfigDict(frozen=True, defer_build=True, extra="ignore")

    fullname: Annotated[str, AfterValidator(fit)]  # a parameter's id may hold anything
    stats: Stats


class Timings(BaseModel):
    """Content of a file that ``pytest --benchmark-json`` wrote."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="ignore")

    machine_info: dict[str, Any]
    benchmarks: tuple[_Benchmark, ...]

    @property
    def machine(self) -> str:
        """Processor, number of cores, system and Python, which must be equal for a comparison."""
        cpu = self.machine_info.get("cpu")
        cpu = cpu if isinstance(cpu, Mapping) else {}
        parts = (
            cpu.get("brand_raw") or self.machine_info.get("machine"),
            f"{cpu['count']} cores" if "count" in cpu else "",
            self.machine_info.get("system"),
            f"Python {self.machine_info.get('python_version')}",
        )
        return ", ".join(fit(str(part))[:200] for part in parts if part)


@dataclass(frozen=True)
class Timing:
    """Two runs of a benchmark and the verdict.

    Attributes:
        name: Full name of the benchmark.
        verdict: Verdict of Welch's test of the means, Holm-adjusted over all benchmarks.
        reason: Reason why the two are not comparable; empty if they are.
        base: Figures of the benchmark in the base.
        head: Figures of the benchmark in the head; None if it is missing.
        change: Change of the median, head relative to base.
        half_width: Half-width of the 95% interval of the relative change of the mean; None if a run has one round, or
            neither has any spread.
        p_holm: Two-sided p value of equal means, Holm-adjusted; None in the same cases.
        failed: Texts of the gates that fail on the benchmark.
    """

    name: str
    verdict: Verdict
    reason: str
    base: Stats
    head: Stats | None
    change: float | None = None
    half_width: float | None = None
    p_holm: float | None = None
    failed: tuple[str, ...] = ()


def parse(document: Any, source: object) -> Timings:
    """Reads the document of a pytest-benchmark file.

    Raises:
        BadInputError: The document is none of pytest-benchmark.
    """
    try:
        return Timings.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = f"is no file of pytest-benchmark ({'.'.join(map(str, first['loc']))}: {first['msg']})"
        raise BadInputError(source, reason, "write it with pytest --benchmark-json FILE") from error


def compare_timings(base: Timings, head: Timings, gates: Sequence[Gate] = ()) -> tuple[Timing, ...]:
    """Compares the benchmarks of two files, in the order of the base.

    Args:
        base: Benchmarks to compare with.
        head: Benchmarks to judge.
        gates: Gates on any fields of `Stats`. ``min``, ``max``, ``stddev`` and ``iqr`` have no test and fail by their
            change alone, as in pytest-benchmark.

    Raises:
        UsageError: The base is empty, or a gate is on another field.
    """
    if not base.benchmarks:
        raise UsageError("BASE", "holds no benchmark", "a comparison with nothing would always pass")
    for gate in gates:
        if gate.field not in Stats.model_fields:
            raise UsageError(f"--fail-on {gate.text}", "is no time", "give min, max, mean, median, stddev or iqr")
    there = {benchmark.fullname: benchmark.stats for benchmark in head.benchmarks}
    machines = f"machine {base.machine} in BASE, {head.machine} in HEAD" if base.machine != head.machine else ""
    both = (
        []
        if machines
        else [(one.fullname, one.stats, there[one.fullname]) for one in base.benchmarks if one.fullname in there]
    )
    tested = [(name, stats, other) for name, stats, other in both if _error(stats, other)]
    two_sided = [2 * min(_p(a, b, "mean", 0.0), _p(b, a, "mean", 0.0)) for _, a, b in tested]
    adjusted = dict(zip((name for name, *_ in tested), holm(two_sided).tolist(), strict=True))
    failing = {gate.text: _failing(gate, both) for gate in gates}

    timings = []
    for name, stats in ((one.fullname, one.stats) for one in base.benchmarks):
        other = there.get(name)
        if other is None:
            timings.append(Timing(name, "missing", "not in HEAD", stats, None))
        elif machines:
            timings.append(Timing(name, "not comparable", machines, stats, other))
        else:
            p = adjusted.get(name)
            found = p is not None and p < SIGNIFICANCE
            changed: Verdict = "slower" if other.mean > stats.mean else "faster"
            timings.append(
                Timing(
                    name,
                    changed if found else "no difference found",
                    "",
                    stats,
                    other,
                    other.median / stats.median - 1,
                    Z95 * _error(stats, other) / stats.mean if p is not None else None,
                    p,
                    tuple(text for text, names in failing.items() if name in names),
                )
            )
    return tuple(timings)


def facts(timings: Sequence[Timing]) -> list[dict[str, Any]]:
    """Benchmarks as plain data for ``--json``."""
    return [
        {
            "kind": "speed",
            **{name: value for name, value in vars(timing).items() if name not in ("base", "head")},
            "base": timing.base.model_dump(),
            "head": timing.head.model_dump() if timing.head else None,
        }
        for timing in timings
    ]


def _failing(gate: Gate, both: Sequence[tuple[str, Stats, Stats]]) -> set[str]:
    """Names of the benchmarks that got worse than a gate allows."""
    p = []
    for _, base, head in both:
        limit = gate.limit(getattr(base, gate.field))
        worse = getattr(head, gate.field) - getattr(base, gate.field) > limit
        p.append(_p(base, head, gate.field, limit) if worse and gate.field in _TESTED else float(not worse))
    return {name for (name, *_), adjusted in zip(both, holm(p).tolist(), strict=True) if adjusted < SIGNIFICANCE}


def _p(base: Stats, head: Stats, field: str, margin: float) -> float:
    """One-sided p value of a rise of `field` by at most `margin` seconds (Welch); 0 if no spread is known."""
    error = _error(base, head) * _TESTED[field]
    if not error:
        return 0.0
    variances = [stats.stddev**2 / stats.rounds for stats in (base, head)]
    shares = [
        (variance / sum(variances)) ** 2 / (stats.rounds - 1)
        for variance, stats in zip(variances, (base, head), strict=True)
    ]
    return exceeds_p(getattr(head, field) - getattr(base, field), error, margin, 1 / sum(shares))


def _error(base: Stats, head: Stats) -> float:
    """Standard error of the difference of two means; 0 if a run has one round or no spread."""
    if min(base.rounds, head.rounds) < 2:
        return 0.0
    return math.sqrt(base.stddev**2 / base.rounds + head.stddev**2 / head.rounds)
