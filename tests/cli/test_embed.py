"""``embed`` and ``emb:FILE``: an export read back is the model's own scores; what is missing or other is said."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from uamix_bench.embeddings.table import EmbeddingTable, read_table, write_table
from uamix_bench.records.repeat import repeat_command
from uamix_bench.records.results import load_result

from .conftest import RATE, SMALL, Bench

OUTCOME = ("episodes", "per_class", "score", "health", "task", "protocol")


@pytest.fixture
def own(sounds: Path, tmp_path: Path) -> Path:
    """The sounds, one of them silent."""
    folder = Path(shutil.copytree(sounds, tmp_path / "tones"))
    soundfile.write(folder / "low" / "0.wav", np.zeros(RATE // 4), RATE)
    return folder


def exported(bench: Bench, task: Path, path: Path, *more: object) -> Path:
    done = bench("embed", "-m", "logmel", "-t", task, "-o", path, *more)
    assert done.code == 0, done.err
    return path


def scored(bench: Bench, model: str, task: Path, *more: object) -> list[dict[str, Any]]:
    done = bench("fewshot", "-m", model, "-t", task, *SMALL, *more, "--json")
    assert done.code in (0, 6), done.err
    results: list[dict[str, Any]] = done.envelope["results"]
    return results


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_an_export_read_back_gives_the_identical_scores(bench: Bench, own: Path, tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra parquet)")
    path = exported(bench, own, tmp_path / f"mine{suffix}")
    given, logmel = scored(bench, f"emb:{path},logmel", own)
    assert [given[part] for part in OUTCOME] == [logmel[part] for part in OUTCOME]
    assert given["health"]["silent"] == 1
    assert given["model"]["given"] is True
    assert (given["model"]["name"], given["model"]["pooling"]) == ("mine", "given")
    assert given["model"]["pretrained_on"] == ["none"]
    assert "given" not in logmel["model"]
    assert given["id"] != logmel["id"]


def test_a_table_and_a_leaderboard_mark_it_and_it_is_had_again(bench: Bench, own: Path, tmp_path: Path) -> None:
    path = exported(bench, own, tmp_path / "mine.npz")
    command = ["fewshot", "-m", f"emb:{path}", "-t", own, *SMALL, "-o", tmp_path / "results"]
    assert "mine (given)" in bench(*command).out
    (file,) = (tmp_path / "results").rglob("mine/*.json")
    result = load_result(file)
    words = shlex.split(repeat_command(result).replace("\\\n", ""))
    filled = {"emb:FILE": f"emb:{path}", "FOLDER_OR_CSV": str(own)}
    again = bench(*(filled.get(word, word) for word in words[1:]), "-o", tmp_path / "again", "--json")
    assert [one["id"] for one in again.envelope["results"]] == [result.id]
    assert bench("results", "verify", tmp_path / "results").code == 0
    assert bench("leaderboard", "build", tmp_path / "results", "--out", tmp_path / "site").code == 0
    assert "mine (given)" in (tmp_path / "site" / "index.html").read_text()


def test_missing_clips_end_in_3_with_counts_or_are_set_aside(bench: Bench, own: Path, tmp_path: Path) -> None:
    table = read_table(exported(bench, own, tmp_path / "whole.npz"))
    kept = [clip != "top/3.wav" for clip in table.clips]
    part = EmbeddingTable(tuple(np.array(table.clips)[kept]), table.vectors[kept])
    path = write_table(tmp_path / "part.npz", part)
    done = bench("fewshot", "-m", f"emb:{path}", "-t", own, *SMALL)
    assert done.code == 3
    assert "part.npz: lacks 1 of 32 clips of local/tones (top/3.wav)" in done.error
    done = bench("fewshot", "-m", f"emb:{path}", "-t", own, *SMALL, "--keep-going", "--json")
    assert done.code == 6
    (result,) = done.envelope["results"]
    assert result["status"]["skipped"] == [{"clip": "top/3.wav", "reason": "has no embedding in the file"}]


def test_unknown_clips_are_counted_and_said(bench: Bench, own: Path, tmp_path: Path) -> None:
    table = read_table(exported(bench, own, tmp_path / "whole.npz"))
    clips = (*table.clips, "elsewhere/1.wav", "elsewhere/2.wav")
    write_table(tmp_path / "more.npz", EmbeddingTable(clips, np.concatenate([table.vectors, table.vectors[:2]])))
    done = bench("fewshot", "-m", f"emb:{tmp_path / 'more.npz'}", "-t", own, *SMALL, "--quiet")
    assert done.code == 0
    assert "more.npz: 2 of its 34 clips are not among the 32 of local/tones" in done.err


def test_other_sounds_or_another_crop_are_refused(bench: Bench, own: Path, tmp_path: Path) -> None:
    path = exported(bench, own, tmp_path / "mine.npz", "--clip-seconds", "0.2")
    refused = bench("fewshot", "-m", f"emb:{path}", "-t", own, *SMALL)
    assert refused.code == 3
    assert "was made with --clip-seconds 0.2, not 10" in refused.error
    command = ["fewshot", "-m", f"emb:{path}", "-t", own, *SMALL, "--clip-seconds", "0.2"]
    assert bench(*command, "--segments", "mean").code == 3
    assert bench(*command).code == 0
    soundfile.write(own / "mid" / "1.wav", np.ones(RATE // 4) / 3, RATE)
    changed = bench(*command)
    assert changed.code == 3
    assert "was made of other sounds than 1 of those here (mid/1.wav)" in changed.err


def test_another_file_is_another_result_and_its_health_is_checked(bench: Bench, own: Path, tmp_path: Path) -> None:
    table = read_table(exported(bench, own, tmp_path / "mine.npz"))
    (first,) = scored(bench, f"emb:{tmp_path / 'mine.npz'}", own)
    write_table(tmp_path / "mine.npz", EmbeddingTable(table.clips, table.vectors[:, ::-1].copy()))
    (second,) = scored(bench, f"emb:{tmp_path / 'mine.npz'}", own)
    assert first["model"]["weights_sha256"] != second["model"]["weights_sha256"]
    assert first["id"] != second["id"]
    vectors = np.full_like(table.vectors, np.nan)
    write_table(tmp_path / "nan.npz", EmbeddingTable(table.clips, vectors))
    assert bench("fewshot", "-m", f"emb:{tmp_path / 'nan.npz'}", "-t", own, *SMALL).code == 3


def test_a_linear_probe_takes_them_and_a_tuning_does_not(bench: Bench, own: Path, tmp_path: Path) -> None:
    path = exported(bench, own, tmp_path / "mine.npz")
    probe = bench("finetune", "-t", own, "--freeze", "all", "--folds", "2", "-m", f"emb:{path}", "--json")
    (result,) = probe.envelope["results"]
    assert result["model"]["given"] is True
    assert result["score"]["value"] > 0.5  # of four classes, tones of four pitches
    assert bench("finetune", "-t", own, "-m", f"emb:{path}").code == 2


def test_wrong_uses_are_one_line(bench: Bench, own: Path, tmp_path: Path) -> None:
    path = exported(bench, own, tmp_path / "mine.npz")
    for code, command in {
        2: ["models", "check", f"emb:{path}"],
        3: ["fewshot", "-m", f"emb:{tmp_path / 'none.npz'}", "-t", own, *SMALL],
    }.items():
        assert bench(*command).code == code
    fewshot = ["fewshot", "-t", own, *SMALL, "-m", f"emb:{path}"]
    for more in (["--input", "official"], ["--dtype", "bf16"], ["--pooling", "mean"], ["-M", "a=1"]):
        assert bench(*fewshot, *more).code == 2, more
    assert bench(*fewshot, "--trust-remote-code").code == 2
    assert bench("embed", "-m", "logmel,random", "-t", own, "-o", tmp_path / "e.npz").code == 2
    assert bench("embed", "-m", "logmel", "-t", own, "-o", tmp_path / "e.csv").code == 2
    assert bench("embed", "-m", "logmel", "-t", own).code == 2
