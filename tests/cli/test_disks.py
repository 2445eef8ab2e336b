"""Commands that write, on a full disk and on one that may only be read: said at once, nothing half, then done."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from uamix_bench.records.store import ResultStore

from .conftest import SMALL, Bench

# What is written below {out}; each is short work, for what is long begins by asking whether it may write.
WRITERS = {
    "fewshot": ("fewshot", "-m", "logmel", "-t", "{sounds}", *SMALL, "-o", "{out}/results"),
    "finetune": ("finetune", "--task", "{sounds}", "--freeze", "all", "--folds", "2", "-o", "{out}/results"),
    "compare": ("compare", "{results}", "{results}", "--html", "{out}/page.html"),
    "results export": ("results", "export", "{results}", "--format", "csv", "-o", "{out}/table.csv"),
    "report": ("report", "{results}", "-o", "{out}/report"),
    "leaderboard build": ("leaderboard", "build", "{results}", "--out", "{out}/site"),
    "models convert": ("models", "convert", "uamix={weights}", "-o", "{out}/m.safetensors", "--dtype", "float16"),
    "tasks miniature": (
        "tasks",
        "miniature",
        "esc50",
        "{out}/m",
        "--classes=2",
        "--clips-per-class=2",
        "--seconds=0.1",
    ),
    "pretrain": ("pretrain", "--data", "{sounds}", "--out", "{out}/training"),
    "tune": ("tune", "--data", "{sounds}", "--out", "{out}/training"),
    "reproduce": ("reproduce", "table2", "-o", "{out}/page"),
}


@pytest.fixture
def inputs(bench: Bench, sounds: Path, tmp_path: Path) -> dict[str, str]:
    """A result to read, and weights that fit on no small disk."""
    from uamix_bench.plugins import registry

    assert bench("fewshot", "-m", "logmel", "-t", sounds, *SMALL, "-o", tmp_path / "results").code == 0
    plugin, weights = registry.bundled_weights()["uamix-tiny"]
    return {"sounds": str(sounds), "results": str(tmp_path / "results"), "weights": str(plugin.folder / weights.file)}


def command(name: str, inputs: dict[str, str], out: Path) -> list[str]:
    return [part.format(**inputs, out=out) for part in WRITERS[name]]


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_may_only_be_read_is_named(
    name: str, bench: Bench, inputs: dict[str, str], read_only: Path, bench_home: Path
) -> None:
    done = bench(*command(name, inputs, read_only))
    assert done.code == 4, done.err
    assert "Read-only file system" in done.error
    assert str(read_only) in done.error
    assert not any(read_only.iterdir())
    assert not (bench_home / "frames").exists()  # nor was anything decoded first


@pytest.mark.parametrize("name", ["fewshot", "finetune", "compare", "report", "leaderboard build", "models convert"])
def test_a_full_disk_is_named_and_leaves_nothing_half(
    name: str, bench: Bench, inputs: dict[str, str], small_disk: Path
) -> None:
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):  # noqa: PT012
        while True:
            file.write(b"\0" * 4096)
    done = bench(*command(name, inputs, small_disk))
    assert done.code == 4, done.err
    assert "no space left on the disk" in done.error
    assert [path for path in small_disk.rglob("*") if path.is_file()] == [filler]
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True)
    again = bench(*command(name, inputs, small_disk))
    assert again.code == 0, again.err
    assert not list(small_disk.rglob(".tmp-*"))


def test_a_disk_that_fills_up_keeps_the_results_before(bench: Bench, sounds: Path, small_disk: Path) -> None:
    sweep = ("fewshot", "-m", "logmel", "-t", sounds, "--n", "2,3", "--k", "1,2,3", "--q", "4", "-o", small_disk)
    subprocess.run(["mount", "-o", "remount,size=20k", small_disk], check=True)
    done = bench(*sweep, "--episodes", "40")
    assert done.code == 4, done.err
    assert "no space left on the disk" in done.err.splitlines()[-1]
    kept = dict(ResultStore(small_disk))  # each is read and checked
    assert 0 < len(kept) < 6
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    again = bench(*sweep, "--episodes", "40")
    assert again.code == 0
    assert again.err.count("reused ") == len(kept)
    assert len(dict(ResultStore(small_disk))) == 6
