"""A folder of generated sounds, and the command line in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile

from uamix_bench.cli import main

RATE = 16_000


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def envelope(self) -> dict[str, Any]:
        """stdout, which must be exactly one strict JSON document."""

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} in JSON")

        document: dict[str, Any] = json.loads(self.out, parse_constant=refuse)
        return document

    @property
    def error(self) -> str:
        """The one line that stderr must be."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("uamix-bench: error: ")
        assert "Traceback" not in self.err
        return lines[0]


Bench = Callable[..., Outcome]


@pytest.fixture
def bench(bench_home: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Runs a command line in this process, with an empty home folder."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of eight clips, a quarter of a second each: tones around four pitches."""
    folder = tmp_path_factory.mktemp("data") / "tones"
    generator = np.random.default_rng(7)
    time = np.arange(RATE // 4) / RATE
    for label, pitch in (("low", 220.0), ("mid", 440.0), ("high", 880.0), ("top", 1760.0)):
        (folder / label).mkdir(parents=True)
        for index in range(8):
            tone = 0.3 * np.sin(2 * np.pi * pitch * generator.uniform(0.8, 1.25) * time)
            soundfile.write(folder / label / f"{index}.wav", tone + 0.05 * generator.standard_normal(len(time)), RATE)
    return folder


SMALL = ("--n", "3", "--k", "1", "--q", "4", "--episodes", "40")
