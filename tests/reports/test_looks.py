"""Looks of models: one colour a model on every page, and colours that everybody can tell apart."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest

from uamix_bench.reports.drawing import DASHES, SERIES, look_of
from uamix_bench.reports.looks import looks
from uamix_bench.reports.page import TEMPLATES

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])  # sRGB, D65
PAGE = dict(re.findall(r"--([\w-]+): light-dark\(([^)]*)\)", (TEMPLATES / "page.css").read_text(encoding="utf-8")))


def linear(colour: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """CIE 1976 L*a*b* of linear RGB."""
    x, y, z = np.cbrt(TO_XYZ @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("vision", VISION)
def test_any_two_colours_are_told_apart(theme: int, vision: str) -> None:
    colours = [PAGE[f"series-{number}"].split(", ")[theme] for number in range(1, 1 + len(SERIES))]
    seen = {colour: lab(np.asarray(VISION[vision]) @ linear(colour)) for colour in colours}
    for one, other in combinations(colours, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 20, (one, other)  # some eight just noticeable differences
    paper = TO_XYZ[1] @ linear(PAGE["paper"].split(", ")[theme]) + 0.05
    for colour in colours:  # WCAG 2.2, 1.4.11
        mine = TO_XYZ[1] @ linear(colour) + 0.05
        assert max(mine, paper) / min(mine, paper) >= 3, colour


def test_a_model_keeps_its_look_among_others() -> None:
    names = ["uamix", "audiomae", "beats", "m2d", "logmel", "random"]
    every = looks(names)
    assert looks(reversed(names)) == every
    kept = [name for name in names if looks([name])[name] == every[name]]
    alone = [looks([name])[name] for name in names]
    assert len(kept) >= len(set(alone))  # one of those that want a colour has it


def test_no_two_of_many_models_look_alike() -> None:
    names = [f"model {number}" for number in range(len(SERIES) * len(DASHES))]
    found = [look_of(number) for number in looks(names).values()]
    assert len({(look.color, look.dashes) for look in found}) == len(names)
    few = looks(names[: len(SERIES)]).values()
    assert (
        len({look_of(number).color for number in few}) == len({look_of(number).marker for number in few}) == len(SERIES)
    )
