"""What must be said about own data: on the screen, quiet or not, and in the record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from .conftest import Bench

FEWSHOT = ("fewshot", "--model", "logmel", "--n", 2, "--q", 2, "--episodes", 10)


def sounds(root: Path, names: list[str]) -> Path:
    for index, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, 0.1 * np.sin(np.arange(1_600) * (0.1 + 0.01 * index)), 16_000)
    return root


def test_what_the_screen_says_the_record_says_too(bench: Bench, tmp_path: Path) -> None:
    root = sounds(
        tmp_path / "own", [f"fold{f}/{label}/{f}{i}.wav" for f in (1, 2) for label in ("A", "a") for i in "12"]
    )
    command = (*FEWSHOT, "--task", root, "--group-disjoint", "--json", "--quiet", "-o", tmp_path / "results")
    done = bench(*command)
    assert done.code == 0, done.err
    notes = done.envelope["results"][0]["status"]["notes"]
    recorded = [text for code, _, text in (note.partition(": ") for note in notes) if not code.startswith("ci95")]
    assert [line.removeprefix("local/own: ") for line in done.err.splitlines()] == recorded
    assert [note.partition(":")[0] for note in notes if not note.startswith("ci95")] == ["splits", "labels", "groups"]
    assert bench(*command).err == done.err  # a result that is reused is no less in need of it


def test_nothing_is_said_where_there_is_nothing_to_say(bench: Bench, tmp_path: Path) -> None:
    root = sounds(tmp_path / "own", [f"{label}/{index}.wav" for label in "ab" for index in range(3)])
    (tmp_path / "list.csv").write_text(
        "".join(
            [
                "path,label,group\n",
                *(f"own/{label}/{index}.wav,{label},{index}\n" for label in "ab" for index in range(3)),
            ]
        )
    )
    for options in (("--task", root), ("--task", tmp_path / "list.csv", "--group-disjoint", "--q", 1)):
        done = bench(*FEWSHOT, *options, "--quiet", "-o", tmp_path / "results")
        assert (done.code, done.err) == (0, "")


def test_formats_that_are_not_read_end_in_3_or_are_set_aside_with_6(bench: Bench, tmp_path: Path) -> None:
    root = sounds(tmp_path / "own", [f"{label}/{index}.wav" for label in "ab" for index in range(3)])
    (root / "b" / "more.m4a").touch()
    (root / "c").mkdir()
    (root / "c" / "only.wma").touch()
    line = "2 sounds are not read (1 .m4a, 1 .wma), and no clip of c is left"
    done = bench(*FEWSHOT, "--task", root, "-o", tmp_path / "results")
    assert done.code == 3
    assert line in done.err
    assert len(done.err.splitlines()) == 1
    done = bench(*FEWSHOT, "--task", root, "-o", tmp_path / "results", "--keep-going", "--quiet")
    assert done.code == 6
    assert done.err == f"local/own: {line}\n"
    done = bench(
        "finetune", "--model", "logmel", "--freeze", "all", "--task", root, "--folds", 2, "-o", tmp_path / "results"
    )
    assert done.code == 3
    assert line in done.err
    arguments = ("--task", root, "--folds", 2, "-o", tmp_path / "results", "--keep-going", "--json")
    done = bench("finetune", "--model", "logmel", "--freeze", "all", *arguments)
    assert done.code == 6, done.err
    status = done.envelope["results"][0]["status"]
    assert [one["clip"] for one in status["skipped"]] == ["b/more.m4a", "c/only.wma"]
    assert f"unread: {line}" in status["notes"]


def test_what_explains_that_there_are_no_episodes_is_said_before(bench: Bench, tmp_path: Path) -> None:
    names = [f"part{part}/{label}/{index}.wav" for part in (1, 2) for label in "abc" for index in range(3)]
    root = sounds(tmp_path / "own", names)
    done = bench("fewshot", "--task", root, "--n", 3)
    assert done.code == 2
    remark, error = done.err.splitlines()
    assert "every class folder holds folders of the same names, which are not used (a, b, c)" in remark
    assert "and 0 of 2 have that many" in error
