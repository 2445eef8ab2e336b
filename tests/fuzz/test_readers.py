"""Mutants of every kind of file from outside: a documented error, or what holds. No crash, no hang, no 2 GiB."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from .readers import READERS
from .sandbox import Sandbox, Told

EXAMPLES = 25  # in the checks; with --slow more
MANY = 2_500


class Bed:
    """A reader in its sandbox, and the seeds of its mutants."""

    def __init__(self, name: str, folder: Path) -> None:
        self.reader = READERS[name]
        folder.mkdir()
        self.seeds = self.reader.corpus(folder)
        self.sandbox = Sandbox(lambda content: self.reader.read(content, folder), folder)

    def survives(self, content: bytes) -> Told:
        told = self.sandbox.ask(content)
        assert told.code in (0, 2, 3), told
        return told


@pytest.fixture(scope="module", params=READERS)
def bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    made = Bed(request.param, tmp_path_factory.mktemp("fuzz") / "bed")
    yield made
    made.sandbox.close()


@st.composite
def mutants(draw: st.DrawFn, bed: Bed) -> bytes:
    """A seed with a few of its bytes changed, removed, repeated or joined by tokens, cut, or spliced with another."""
    content = bytearray(draw(st.sampled_from(bed.seeds)))
    places = st.one_of(st.integers(0, min(len(content), 400)), st.integers(0, len(content)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(places)
        length = draw(st.one_of(st.integers(0, 8), st.integers(0, 2_000)))
        how = draw(st.sampled_from(["byte", "byte", "token", "over", "delete", "repeat", "splice", "cut"]))
        if how == "byte":
            content[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif how == "token":
            content[at:at] = draw(st.sampled_from(bed.reader.tokens))
        elif how == "over":
            token = draw(st.sampled_from(bed.reader.tokens))
            content[at : at + len(token)] = token
        elif how == "delete":
            del content[at : at + length]
        elif how == "repeat":
            content[at:at] = content[at : at + length] * draw(st.integers(1, 20))
        elif how == "splice":
            other = draw(st.sampled_from(bed.seeds))
            content[at:] = other[draw(st.integers(0, len(other))) :]
        else:
            del content[at:]
    return bytes(content)


@cache
def configured(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
    )


def test_seeds_are_read(bed: Bed) -> None:
    """The mutants begin at what is right: without that they would all fall at the first check."""
    assert [bed.survives(seed).code for seed in bed.seeds].count(0) == len(bed.seeds)


def test_mutants_are_refused_or_right(bed: Bed) -> None:
    @configured(EXAMPLES)
    @given(mutants(bed))
    def survive(content: bytes) -> None:
        bed.survives(content)

    survive()


@pytest.mark.slow
def test_many_mutants_are_refused_or_right(bed: Bed) -> None:
    @configured(MANY)
    @given(mutants(bed))
    def survive(content: bytes) -> None:
        bed.survives(content)

    survive()
