"""The pace at which cached embeddings were made: summed by device, and never believed if it makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from uamix_bench.embeddings.cache import PACE
from uamix_bench.embeddings.pace import add_pace, kept_paces
from uamix_bench.records.results import Pace


def test_runs_are_summed_by_device(tmp_path: Path) -> None:
    for device, clips, seconds in (("cpu: a", 30, 1.5), ("cuda: b", 90, 0.25), ("cpu: a", 10, 0.5), ("cpu: a", 0, 9.0)):
        add_pace(tmp_path, device, clips, seconds)
    assert kept_paces(tmp_path) == (
        Pace(device="cpu: a", clips=40, seconds=2.0),
        Pace(device="cuda: b", clips=90, seconds=0.25),
    )


def test_nothing_is_kept_beside_no_embeddings(tmp_path: Path) -> None:
    add_pace(tmp_path / "absent", "cpu", 3, 1.0)
    assert not (tmp_path / "absent").exists()
    assert kept_paces(tmp_path / "absent") == ()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"cpu": 3}', '{"cpu": [3, -1]}', '{"cpu": [0, 1]}', '{"cpu": [3, 1e999]}']
)
def test_a_damaged_file_tells_no_pace_and_is_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / PACE).write_text(text)
    assert kept_paces(tmp_path) == ()
    add_pace(tmp_path, "cpu", 3, 1.0)
    assert kept_paces(tmp_path) == (Pace(device="cpu", clips=3, seconds=1.0),)
