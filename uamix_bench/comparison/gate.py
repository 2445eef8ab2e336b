"""Gates: which drop a comparison is to fail on, in pytest-benchmark's grammar ``FIELD:NUMBER%``, with ``pp`` added."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from uamix_bench.util.errors import UsageError

# The time fields of pytest-benchmark's `--benchmark-compare-fail` (its `utils.parse_compare_fail`), and our own.
TIMES = ("min", "max", "mean", "median", "stddev", "iqr")
FIELDS = ("accuracy", *TIMES)
_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_GRAMMAR = re.compile(rf"(?P<field>[a-z0-9_-]+):(?P<number>{_NUMBER})(?P<unit>%|pp)?")


class Gate(NamedTuple):
    """A margin that a field may not get worse by.

    Attributes:
        field: One of `FIELDS`.
        margin: A fraction for ``accuracy``, seconds for the others; a share of the base's value where `relative`.
        relative: Whether it was given in per cent.
        text: As it was given.
    """

    field: str
    margin: float
    relative: bool
    text: str

    def limit(self, base: float) -> float:
        """The margin in the field's own unit, for a base of that value."""
        return self.margin * base if self.relative else self.margin


def parse_gates(texts: Iterable[str]) -> tuple[Gate, ...]:
    """Parses the values of --fail-on: ``accuracy:1pp``, ``accuracy:2%``, ``min:10%``, ``mean:0.001`` (seconds).

    Raises:
        UsageError: One is not such, or a field is named twice.
    """
    gates: dict[str, Gate] = {}
    for text in texts:
        found = _GRAMMAR.fullmatch(text.strip())
        example = "give FIELD:NUMBER%, such as accuracy:1pp, accuracy:2% or min:10%"
        if found is None:
            raise UsageError(f"--fail-on {text}", "is not understood", example)
        field, unit = found["field"], found["unit"]
        if field not in FIELDS:
            raise UsageError(f"--fail-on {text}", f"no field '{field}'", f"known: {', '.join(FIELDS)}")
        if unit == "pp" and field != "accuracy":
            raise UsageError(f"--fail-on {text}", "percentage points are for accuracy", f"give {field}:NUMBER%")
        if field in gates:
            raise UsageError(f"--fail-on {text}", f"'{field}' is given twice", "give one margin a field")
        number = float(found["number"])
        margin = number / 100 if unit else number
        if not margin < (1 if field == "accuracy" else 1e6):
            raise UsageError(f"--fail-on {text}", "no drop can exceed it", example)
        gates[field] = Gate(field, margin, unit == "%", text.strip())
    return tuple(gates.values())
