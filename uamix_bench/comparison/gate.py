"""Gates on drops for comparisons, in pytest-benchmark's grammar ``FIELD:NUMBER%``, with ``pp`` added."""

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
    """A limit on the loss in a field, beyond which a comparison fails.

    Attributes:
        field: Name of the field, one of `FIELDS`.
        margin: Allowed loss: a fraction for ``accuracy``, seconds for the others; a share of the base's value if
            `relative`.
        relative: True if the margin was given in per cent.
        text: Text of the option as given.
    """

    field: str
    margin: float
    relative: bool
    text: str

    def limit(self, base: float) -> float:
        """Margin in the field's own unit, for a base value."""
        return self.margin * base if self.relative else self.margin


def parse_gates(texts: Iterable[str]) -> tuple[Gate, ...]:
    """Parses the values of --fail-on: ``accuracy:1pp``, ``accuracy:2%``, ``min:10%``, ``mean:0.001`` (seconds).

    Raises:
        UsageError: A value is not of this form, or a field is named twice.
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
