"""--dtype bf16 is offered, recorded, named in the table, and not paired with float32."""

from __future__ import annotations

from pathlib import Path

import pytest

from uamix_bench.cli.scores import show_results
from uamix_bench.comparison.ranking import rank
from uamix_bench.records.results import Result

from .conftest import SMALL, Bench


def test_bf16_is_never_silent(bench: Bench, sounds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = []
    for dtype in ("float32", "bf16"):
        given = ("fewshot", "--model", "random,logmel", "--task", sounds, *SMALL, "--dtype", dtype)
        assert ("random bf16" in bench(*given).out) == (dtype == "bf16")
        results += [Result.model_validate(result) for result in bench(*given, "--json").envelope["results"]]
    assert [result.model.dtype for result in results] == ["float32", "float32", "bf16", "bf16"]
    assert len({result.id for result in results}) == 4
    assert len({result.episodes.digest for result in results}) == 1

    show_results([results[0], results[2]], rank([results[0], results[2]]))
    assert "Difference" not in capsys.readouterr().out
    show_results(results[2:], rank(results[2:]))
    assert "Difference to random bf16" in capsys.readouterr().out
