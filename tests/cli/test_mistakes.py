"""Natural mistakes: each ends in one line that says what to type instead, or simply works."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from .conftest import Bench

# Command lines, each with its exit code and what the last line says; for code 0, what stdout holds.
MISTAKES = {
    "fewshot --ways 5 --shots 1": (2, "did you mean '--way'?"),
    "fewshot --models uamix": (2, "did you mean '--model'?"),
    "fewshot --dataset sounds/": (2, "did you mean '--task'?"),
    "fewshot --tasks sounds/": (2, "did you mean '--task'?"),
    "fewshot --n-way 5 --k-shot 1": (0, "5-way 1-shot"),
    "fewshot -m uamix -m logmel -t sounds/ -n 5 -k 1": (0, "5-way 1-shot"),
    "fewshot -t missing_dir/": (3, "give a folder with one sub-folder per class, a CSV"),
    "fewshot -t missing.csv": (3, "give a folder with one sub-folder per class, a CSV"),
    "fewshot -m uamx -t sounds/": (2, "did you mean 'uamix'?"),
    "fewshot -m AudioMAE -t sounds/": (2, "did you mean 'audiomae'?"),
    "fewshot -m audiomae=nothere.pth -t sounds/": (3, "nothere.pth: no such file; give audiomae=PATH"),
    "fewshot -m pretrained.pth -t sounds/": (2, "say whose, as audiomae=pretrained.pth"),
    "fewshot -t esc-50": (2, "did you mean 'esc50'?"),
    "fewshot -t ESC50": (2, "did you mean 'esc50'?"),
    "fewshot -t esc50": (3, "run 'uamix-bench tasks prepare esc50'"),
    "fewshot -t sounds/ --n 50": (2, "use --n 12"),
    "fewshot -t sounds/ --k 30": (2, "use --q 1, or --k 16 or less"),
    "fewshot -m uamix, logmel -t sounds/ --n 3 --quiet": (2, "a list has commas and no spaces"),
    "fewshot -m uamix logmel -t sounds/": (2, "a list has commas and no spaces: -m uamix,logmel"),
    "fewshot -t sounds/ --k 1 5": (2, "a list has commas and no spaces: --k 1,5"),
    "fewshot -t sounds/ --n 5 --k 1 5": (2, "a list has commas and no spaces: --k 1,5"),
    "recommend sounds/": (2, "sounds go with --task: --task sounds/"),
    "embed --modle logmel": (2, "did you mean '--model'?"),
    "demo --modle logmel": (2, "is no option of 'uamix-bench demo'"),
    "fewshot -t sounds/ --k 1-5": (0, "1-shot    "),
    "fewshot -t sounds/ --k 0": (2, "has no text side, so that it knows no class by its name; leave 0 out of --k"),
    "fewshot -t sounds/ --classifier svm": (2, "did you mean 'logistic-regression'?"),
    "fewshot -t sounds/ --classifier linear": (2, "did you mean 'logistic-regression'?"),
    "fewshot -t sounds/ --device gpu": (2, "use auto, cpu, cuda, cuda:1 or mps"),
    "fewshot -t sounds/ --device cuda": (4, "use --device cpu"),
    "fewshot -t sounds/ --episodes 1e4": (0, "10,000 episodes"),
    "fewshot sounds/": (2, "sounds go with --task: --task sounds/"),
    "few-shot": (2, "did you mean 'fewshot'?"),
    "eval -m uamix": (2, "did you mean 'fewshot'?"),
    "run": (2, "did you mean 'fewshot'?"),
    "list": (2, "did you mean 'models ls', 'tasks ls' or 'results ls'?"),
    "model ls": (2, "did you mean 'models'?"),
    "models list": (2, "did you mean 'ls'?"),
    "tasks list": (2, "did you mean 'ls'?"),
    "report": (3, "run 'uamix-bench fewshot' first"),
    "leaderboard": (0, "Write a site from RESULTS."),
    "tune --data sounds --dry-run": (0, '"name": "tiny"'),
    "tune --data nodir/": (3, "give a folder of sounds, a CSV, a parquet file or a text list"),
    "finetune -t sounds --dry-run": (0, "local/sounds"),
    "compare a b": (3, "give two files of results, or two folders of -o"),
    "results show zzz": (2, "give four digits or more of one that 'uamix-bench results ls' lists"),
    "fewshot -t sounds/ --output results.json --n 3": (2, "give -o results; --json prints one document"),
    "fewshot -t sounds/ --format json": (2, "did you mean '--json'?"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `sounds/`, 12 classes of 22 to 40 clips, and `un/`, sounds without classes."""
    folder, random = tmp_path_factory.mktemp("mistakes"), np.random.default_rng(3)
    sizes = [22, 23, 24, 25, 26, 27, 28, 31, 31, 31, 31, 40]
    for number, size in enumerate(sizes):
        home = folder / "sounds" / f"class{number:02}"
        home.mkdir(parents=True)
        for clip in range(size):
            tone = np.sin(2 * np.pi * 200 * 1.2**number * random.uniform(0.97, 1.03) * np.arange(1_600) / 16_000)
            soundfile.write(home / f"{clip}.wav", 0.3 * tone + 0.05 * random.standard_normal(1_600), 16_000)
    (folder / "un").mkdir()
    for clip in range(4):
        soundfile.write(folder / "un" / f"{clip}.wav", 0.1 * random.standard_normal(1_600), 16_000)
    return folder


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_ends_in_a_line_that_helps(
    bench: Bench, place: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    code, words = MISTAKES[line]
    if line.endswith("cuda"):
        import torch

        if torch.cuda.is_available():
            code, words = 0, "5-way 1-shot"
    monkeypatch.chdir(place)
    where = ["-t", "sounds/"] if line.startswith("fewshot") and not code and "-t" not in line.split() else []
    done = bench(*shlex.split(line), *where)
    assert done.code == code, done.err
    if code:
        last = done.err.splitlines()[-1]
        assert last.startswith("uamix-bench: error: ")
        assert words in last
    else:
        assert words in done.out
        assert "uamix-bench: error" not in done.err
    if line.startswith("tune") and not code:  # which also says what it would take
        assert "here without decoding" in done.err
        assert "MiB for weights" in done.err


def test_every_natural_mistake_is_among_them(test_data: Path) -> None:
    listed = (test_data / "cases" / "mistakes.md").read_text().splitlines()
    assert {line.removeprefix("uamix-bench ") for line in listed if line.startswith("uamix-bench ")} <= set(MISTAKES)


def test_a_folder_without_a_slash_is_the_data_of_a_training(
    bench: Bench, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    assert "un: 4 clips of 4 recordings" in bench("tune", "--data", "un", "--dry-run").err


@pytest.mark.parametrize(
    ("given", "kept"), [("1-5", 5), ("1..3", 3), ("1,5,10", 3), ("2-2", 1), ("1-3,10", 4), ("1e1", 1)]
)
def test_lists_and_ranges_of_counts(given: str, kept: int) -> None:
    from uamix_bench.cli.values import COUNTS

    assert len(COUNTS.convert(given, None, None)) == kept


@pytest.mark.parametrize("given", ["5-1", "1-101", "1-", "-5", "1.5e0", "1--5", "1...5"])
def test_what_is_no_range_is_refused(given: str) -> None:
    import click

    from uamix_bench.cli.values import COUNTS

    with pytest.raises(click.BadParameter):
        COUNTS.convert(given, None, None)
