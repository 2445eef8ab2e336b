"""``uamix-bench demo`` in small: every step runs, in the given folder alone, and ends in a report with sounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from uamix_bench.cli import demo

from .conftest import Bench


@pytest.mark.over_3s
def test_the_way_from_sounds_to_a_report(
    bench: Bench, bench_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_CLASSES", 3)
    monkeypatch.setattr(demo, "_CLIPS", 8)
    monkeypatch.setattr(demo, "_MODELS", "logmel,random")
    done = bench("demo", "-o", tmp_path / "demo", "--device", "cpu", "--json")
    assert done.code == 0, done.err
    steps = [item["command"][1] for item in done.envelope["items"]]
    assert steps == ["tasks", "recommend", "fit", "predict", "report"]
    page = Path(done.envelope["report"]).read_text(encoding="utf-8")
    assert "<audio" in page
    assert ".wav</title>" in page  # a point of the t-SNE names its clip
    assert not bench_home.exists()
    plain = bench("report", tmp_path / "demo" / "results", "-o", tmp_path / "plain")
    assert plain.code == 0
    assert "<audio" not in (tmp_path / "plain" / "fewshot.html").read_text(encoding="utf-8")
