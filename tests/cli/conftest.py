"""A folder of generated sounds, the command line in this process, and a small ablation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
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

TOY = {"width": 64, "depth": 2, "heads": 1, "decoder_width": 24, "decoder_depth": 1, "decoder_heads": 1}
TUNING = {"batch": 8, "queue": 16, "top_k": 3, "projector": [16, 16, 8], "predictor": 16, "frames": [16], "epochs": 2}
CELLS = ("--n", "3", "--k", "1", "--q", "3", "--episodes", "30")


@pytest.fixture(scope="session")
def encoder(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pre-trained encoder of two blocks."""
    from uamix_bench.tuning.fields import changed
    from uamix_bench.tuning.recipe import PRETRAIN
    from uamix_bench.tuning.run import pretrain
    from uamix_bench.tuning.sounds import find_data

    folder = tmp_path_factory.mktemp("encoder")
    recipe = changed(PRETRAIN["tiny"], {**TOY, "batch": 8, "frames": [64], "epochs": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UAMIX_BENCH_HOME", str(folder / "home"))
        yield pretrain(recipe, find_data(str(sounds)), folder / "out", device="cpu")


@pytest.fixture
def arguments(encoder: Path, sounds: Path, tmp_path: Path) -> list[str]:
    """A small ablation's, without the grid."""
    fields = [part for name, value in TUNING.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    places = ("--init", f"audiomae={encoder}", "--data", sounds, "--task", sounds, "--out", tmp_path / "report")
    return ["ablate", *map(str, places), *fields, *CELLS, "--device", "cpu"]


def weights(home: Path) -> dict[str, bytes]:
    """What the trainings under a home folder made, by the names of their folders."""
    return {path.parent.name: path.read_bytes() for path in (home / "training").glob("*/model.safetensors")}
