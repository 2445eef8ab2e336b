"""What the command says of classes that a sweep leaves out and of copies, and how a cell is had alone."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from .conftest import Bench

LINE = (
    "local/own: 1 of 4 classes are left out for having fewer than 6 clips (k 3 + q 3): top has 5; --q auto leaves no "
    "class out"
)


@pytest.fixture
def own(sounds: Path, tmp_path: Path) -> Path:
    """Classes of 8 clips, and one of 5."""
    folder = Path(shutil.copytree(sounds, tmp_path / "own"))
    for number in (5, 6, 7):
        (folder / "top" / f"{number}.wav").unlink()
    return folder


@pytest.mark.parametrize("ways", ["2", "2,3"])
def test_a_sweep_says_what_it_leaves_out_and_its_cells_can_be_had_alone(
    bench: Bench, own: Path, tmp_path: Path, ways: str
) -> None:
    run = partial(bench, "fewshot", "-m", "logmel", "-t", own, "--q", 3, "--episodes", 20)
    sweep = run("--n", ways, "--k", "1,3", "--quiet", "--json")
    assert sweep.err.splitlines() == [LINE]
    found = {(r["protocol"]["n_way"], r["protocol"]["k_shot"]): r for r in sweep.envelope["results"]}
    assert {one["episodes"]["classes_left_out"] for one in found.values()} == {1}
    assert {tuple(sorted(one["per_class"])) for one in found.values()} == {("high", "low", "mid")}
    for (n, k), one in found.items():
        assert one["protocol"]["min_clips"] == (6 if k == 1 else None)
        alone = run("--n", n, "--k", k, "--min-clips", 6, "--json", "-o", tmp_path / f"{n}{k}")
        assert alone.envelope["results"][0]["id"] == one["id"]
    table = run("--n", ways, "--k", "1,3", "--quiet")
    assert table.err.splitlines() == [LINE]
    assert "classes of 6 clips or more" in table.out.splitlines()[1]
    assert table.out.startswith("local/own: 3 of 4 classes, ")
    plan = run("--n", ways, "--k", "1,3", "--dry-run")
    assert plan.out.count(" 3 of 4 ") == len(found)


def test_a_sweep_that_loses_no_class_says_nothing_and_moves_no_id(bench: Bench, own: Path, tmp_path: Path) -> None:
    run = partial(
        bench, "fewshot", "-m", "logmel", "-t", own, "--n", 2, "--q", 2, "--episodes", 20, "--quiet", "--json"
    )
    sweep = run("--k", "1,3")
    assert not sweep.err
    one, three = sweep.envelope["results"]
    assert run("--k", 1, "-o", tmp_path / "1").envelope["results"][0]["id"] == one["id"]
    assert run("--k", 3, "-o", tmp_path / "3").envelope["results"][0]["id"] == three["id"]


def test_copies_are_said_even_if_quiet_and_the_draw_stays(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sounds, tmp_path / "own"))
    run = partial(
        bench, "fewshot", "-m", "logmel", "-t", folder, "--n", 3, "--q", 3, "--episodes", 40, "--quiet", "--json"
    )
    assert not run().err
    for path in sorted(folder.glob("low/*.wav")):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    shutil.copy(folder / "low" / "0.wav", folder / "top" / "again.wav")
    done = run()
    (line,) = done.err.splitlines()
    assert line.startswith("local/own: 17 of 41 clips drawn are identical copies (low/0.wav and low/copy of 0.wav, ")
    assert "1 recording stands under several labels (low/0.wav as low and top/again.wav as top)" in line
    (result,) = done.envelope["results"]
    assert f"copies: {line.removeprefix('local/own: ')}" in result["status"]["notes"]
    again = run()  # a result that is there is not read again, and what is to be said of it is
    assert again.err == done.err
    apart = run("--group-disjoint")
    assert "; 0.0% of queries have a copy among their supports" in apart.err
    assert apart.envelope["results"][0]["episodes"]["shared_group_share"] == 0.0
