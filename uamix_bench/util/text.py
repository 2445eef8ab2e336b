"""Text for people: escapes of control characters from outside, and the formats of figures and lists."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

# Controls, what XML cannot hold, and what is not seen but changes how its neighbours are read (marks and overrides of
# direction, zero-width spaces). The joiners U+200C and U+200D, which Persian and Hindi spell with, may stay.
UNFIT_PATTERN = (
    r"[\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff]"
)
UNFIT = re.compile(rf"{UNFIT_PATTERN}|[\ud800-\udfff]")  # surrogates stand for bytes of a name that are not UTF-8
LONGEST = 2_000  # characters


def visible(text: str) -> str:
    """The text with unprintable characters escaped, as in ``\\x1b``."""
    return UNFIT.sub(lambda found: ascii(found[0])[1:-1], text)


def fit(text: str) -> str:
    """Makes a text fit for a record: unprintable characters are escaped, and the end is cut if it is too long."""
    return visible(text)[:LONGEST]


def p_value(p: float) -> str:
    """A p value to three digits, without the leading zero."""
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def classes_drawn(classes: int, left_out: int) -> str:
    """Number of classes that episodes draw from: ``12``, or ``9 of 12`` if some have too few clips."""
    return f"{classes - left_out:,} of {classes:,}" if left_out else f"{classes:,}"


def with_half(
    value: float, half_width: float | None, decimals: int = 2, sign: str = "", scale: float = 100.0
) -> tuple[str, str]:
    """A number and its interval's half-width with the same decimals: ``70.87`` and ``± 0.90``.

    Args:
        value: The number.
        half_width: Half-width of the interval; None and infinite ones give an empty text.
        decimals: Digits behind the point.
        sign: ``+`` if the number is a difference.
        scale: Factor of both numbers; 100 turns fractions into per cent.
    """
    return f"{scale * value:{sign}.{decimals}f}", plus_minus(half_width, decimals, scale)


def plus_minus(half_width: float | None, decimals: int = 2, scale: float = 100.0) -> str:
    """A half-width alone, as in ``± 0.90``; empty if it is None or not finite."""
    return "" if half_width is None or not math.isfinite(half_width) else f"± {scale * half_width:.{decimals}f}"


def millions(count: int | None) -> str:
    """A number of parameters, as in ``85.6M``; empty if unknown."""
    return "" if count is None else f"{count / 1e6:.1f}M" if count else "0"


def per_second(rate: float) -> str:
    """A rate as a whole number, or with one decimal below ten."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def listed(names: Iterable[str], most: int = 8, between: str = ", ") -> str:
    """The first names and the number of the others: ``a, b and 3 more``, or ``a; b; and 3 more``."""
    every = list(names)
    others = len(every) - most
    return between.join(every[:most]) + (f"{between.strip(', ')} and {others} more" if others > 0 else "")
