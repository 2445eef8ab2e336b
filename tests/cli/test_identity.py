"""What a result is of: other sounds, weights, code or settings under the same names never get the old number."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from uamix_bench.data.task import load_task
from uamix_bench.evaluation.fewshot import draw_episodes
from uamix_bench.records.results import Result, load_result
from uamix_bench.records.store import ResultStore

from .conftest import SMALL, Bench

MODEL = """
import json
from pathlib import Path
import torch
from uamix_bench import AudioModel
from uamix_bench.models.checkpoint import load_state, read_checkpoint
from uamix_bench.models.frontend import KaldiFbank

class Mine(AudioModel):
    sample_rate, embedding_dim = 16_000, 8

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(80, 8)

    @classmethod
    def from_checkpoint(cls, path):
        model, path = cls(), Path(path)
        if path.is_dir():
            model.metadata = json.loads((path / "settings.json").read_text())
            path = path / "w.pth"
        load_state(model, read_checkpoint(path).tensors, path=path, what="Mine")
        return model

    def frontend(self, waveforms, lengths):
        return KaldiFbank(16_000, 80)(waveforms, lengths)

    def tokens(self, spectrogram, lengths):
        mask = torch.arange(spectrogram.shape[1]) < lengths[:, None]
        bins = torch.arange(80) % int(self.metadata.get("every", 1)) == 0
        return self.encoder(spectrogram * bins), mask
"""
FIXED = """
import torch
from uamix_bench import AudioModel
from uamix_bench.models.frontend import KaldiFbank
{extra}

class Mine(AudioModel):
    sample_rate, embedding_dim = 16_000, 80

    def frontend(self, waveforms, lengths):
        return KaldiFbank(16_000, 80)(waveforms, lengths)

    def tokens(self, spectrogram, lengths):
        mask = torch.arange(spectrogram.shape[1]) < lengths[:, None]
        return spectrogram * (torch.arange(80) < {bins}), mask
"""


def noise(folder: Path, seed: int = 0) -> None:
    """Puts noise of no class into every file, by the same names and of the same size."""
    generator = np.random.default_rng(seed)
    for path in sorted(folder.rglob("*.wav")):
        frames = soundfile.info(path).frames
        soundfile.write(path, 0.1 * generator.standard_normal(frames), 16_000)


@pytest.fixture
def own(sounds: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sounds, tmp_path / "own"))


def evaluate(bench: Bench, *arguments: object) -> tuple[Result, str]:
    done = bench("fewshot", *arguments, *SMALL, "--json", "--allow-unhealthy")
    assert done.code == 0, done.err
    return Result.model_validate(done.envelope["results"][0], strict=False), done.err


def weights(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    layer = torch.nn.Linear(80, 8)
    torch.save({"model": {f"encoder.{name}": value for name, value in layer.state_dict().items()}}, path)
    return path


def test_the_digest_is_of_the_bytes_of_the_clips_drawn(bench: Bench, own: Path) -> None:
    result, _ = evaluate(bench, "-m", "logmel", "-t", own)
    data = load_task(str(own))
    drawn = data.table["path"][draw_episodes(data, result.protocol).clips]
    listed = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in sorted(drawn)]
    expected = hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()
    assert result.task.content_sha256 == result.provenance.content_sha256 == expected


def replaced(own: Path, tmp_path: Path) -> Path:
    noise(own)
    return own


def another_folder(own: Path, tmp_path: Path) -> Path:
    other = Path(shutil.copytree(own, tmp_path / "elsewhere" / own.name))
    noise(other)
    return other


def swapped(own: Path, tmp_path: Path) -> Path:
    """The folders change names: no file of either is touched, and all have the sizes and times of the other's."""
    other = another_folder(own, tmp_path)
    for path in sorted(own.rglob("*.wav")):
        times = path.stat()
        os.utime(other / path.relative_to(own), ns=(times.st_atime_ns, times.st_mtime_ns))
    own.rename(tmp_path / "before")
    other.rename(own)
    return own


def linked(own: Path, tmp_path: Path) -> Path:
    other = another_folder(own, tmp_path)
    shutil.rmtree(own)
    own.symlink_to(other)
    return own


@pytest.mark.parametrize("change", [replaced, another_folder, swapped, linked])
def test_other_sounds_under_the_same_names_are_evaluated(change: Any, bench: Bench, own: Path, tmp_path: Path) -> None:
    first, _ = evaluate(bench, "-m", "logmel", "-t", own)
    second, said = evaluate(bench, "-m", "logmel", "-t", change(own, tmp_path))
    there = tmp_path / "elsewhere" / "own" if change is another_folder else own
    truth, _ = evaluate(bench, "-m", "logmel", "-t", there, "-o", tmp_path / "fresh", "--no-cache")
    assert second.episodes.correct == truth.episodes.correct != first.episodes.correct
    assert second.id == truth.id
    assert f"sounds changed since 3w1s-{first.id[:12]}.json ({first.score.accuracy:.2%})" in said
    _, said = evaluate(bench, "-m", "logmel", "-t", there, "--overwrite", "always")
    assert "confirmed" in said
    assert "changed" not in said


def test_another_audio_root_is_evaluated(bench: Bench, own: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(own, tmp_path / "other"))
    noise(other)
    rows = [f"{path.relative_to(own)},{path.parent.name}" for path in sorted(own.rglob("*.wav"))]
    table = tmp_path / "list.csv"
    table.write_text("path,label\n" + "\n".join(rows))
    first, _ = evaluate(bench, "-m", "logmel", "-t", table, "--audio-root", own)
    second, _ = evaluate(bench, "-m", "logmel", "-t", table, "--audio-root", other)
    truth, _ = evaluate(bench, "-m", "logmel", "-t", table, "--audio-root", other, "-o", tmp_path / "fresh")
    assert (second.task.clips_sha256, second.id) == (first.task.clips_sha256, truth.id)
    assert second.id != first.id


def test_what_only_looks_changed_is_reused(bench: Bench, own: Path, tmp_path: Path) -> None:
    (tmp_path / "my_model.py").write_text(FIXED.format(extra="", bins=80))
    arguments = ("-m", f"{tmp_path / 'my_model.py'}:Mine", "-t", own)
    first, _ = evaluate(bench, *arguments)
    for path in [*own.rglob("*.wav"), tmp_path / "my_model.py"]:
        os.utime(path)
    (tmp_path / "unrelated.py").write_text("x = 1")
    again, said = evaluate(bench, *arguments)
    assert "reused" in said
    assert again == first
    moved = Path(shutil.copytree(own, tmp_path / "moved" / "own"))
    again, said = evaluate(bench, *arguments[:2], "-t", moved)
    assert "reused" in said


SETTING = "int((Path(__file__).parent / 'bins.txt').read_text())"


@pytest.mark.parametrize("where", ["module", "helper", "settings"])
def test_edited_code_is_evaluated(where: str, bench: Bench, own: Path, tmp_path: Path) -> None:
    path = tmp_path / "my_model.py"

    def write(bins: int) -> None:
        if where == "module":
            path.write_text(FIXED.format(extra="", bins=bins))
        elif where == "settings":
            path.write_text(FIXED.format(extra="from pathlib import Path", bins=SETTING))
            (tmp_path / "bins.txt").write_text(str(bins))
        else:
            path.write_text(FIXED.format(extra="import bins_of_mine", bins="bins_of_mine.BINS"))
            (tmp_path / "bins_of_mine.py").write_text(f"BINS = {bins}\n")

    write(80)
    arguments = ("-m", f"{path}:Mine", "-t", own)
    first, _ = evaluate(bench, *arguments)
    write(1)
    second, said = evaluate(bench, *arguments)
    truth, _ = evaluate(bench, *arguments, "-o", tmp_path / "fresh", "--no-cache")
    assert second.id == truth.id != first.id
    assert second.episodes.correct != first.episodes.correct
    assert f"code changed since 3w1s-{first.id[:12]}.json" in said
    done = bench("compare", path_of(first), path_of(second))
    assert f"code {(first.model.source_sha256 or '')[:12]} in BASE" in done.out


def path_of(result: Result) -> Path:
    return next(path for path, record in ResultStore() if record.id == result.id)


def test_other_weights_and_settings_of_an_own_class_are_evaluated(bench: Bench, own: Path, tmp_path: Path) -> None:
    (tmp_path / "my_model.py").write_text(MODEL)
    model = f"{tmp_path / 'my_model.py'}:Mine"
    weights(tmp_path / "a.pth", 0)
    weights(tmp_path / "b.pth", 1)
    named = ("-t", own, "--name", "mine")
    a, _ = evaluate(bench, "-m", f"{model}={tmp_path / 'a.pth'}", *named)
    assert a.model.weights_sha256 == hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()
    b, said = evaluate(bench, "-m", f"{model}={tmp_path / 'b.pth'}", *named)
    truth, _ = evaluate(bench, "-m", f"{model}={tmp_path / 'b.pth'}", *named, "-o", tmp_path / "fresh", "--no-cache")
    assert b.id == truth.id != a.id
    assert "weights changed since" in said

    folder = tmp_path / "m"
    folder.mkdir()
    shutil.copy(tmp_path / "a.pth", folder / "w.pth")
    (folder / "settings.json").write_text('{"every": "1"}')
    first, _ = evaluate(bench, "-m", f"{model}={folder}", "-t", own, "-o", tmp_path / "folder")
    assert first.episodes.correct == a.episodes.correct
    (folder / "settings.json").write_text('{"every": "9"}')
    second, said = evaluate(bench, "-m", f"{model}={folder}", "-t", own, "-o", tmp_path / "folder")
    truth, _ = evaluate(bench, "-m", f"{model}={folder}", "-t", own, "-o", tmp_path / "fresh", "--no-cache")
    assert second.id == truth.id
    assert second.episodes.correct == truth.episodes.correct != first.episodes.correct
    assert "weights, metadata changed since" in said


def test_results_on_different_sounds_are_not_compared(bench: Bench, own: Path, tmp_path: Path) -> None:
    first, _ = evaluate(bench, "-m", "logmel", "-t", own, "-o", tmp_path / "base")
    noise(own)
    second, _ = evaluate(bench, "-m", "logmel", "-t", own, "-o", tmp_path / "head")
    done = bench("compare", tmp_path / "base", tmp_path / "head")
    assert done.code == 2
    digests = [(result.task.content_sha256 or "")[:12] for result in (first, second)]
    assert f"sounds {digests[0]} in BASE, {digests[1]} in HEAD" in done.err
    shutil.copytree(tmp_path / "base", tmp_path / "head", dirs_exist_ok=True)
    assert bench("compare", tmp_path / "base", tmp_path / "head").code == 0  # the one that is of the same sounds
    done = bench("results", "verify", tmp_path / "base", "--task", own)
    assert done.code == 3
    assert f"the sounds have the digest {digests[0]}, but those here {digests[1]}" in done.out
    done = bench("leaderboard", "build", tmp_path / "head", "-o", tmp_path / "site")
    assert done.err.startswith("local/own: 1 record of an earlier version of the data")
    page = (tmp_path / "site" / "index.md").read_text()
    shown = [f"{100 * result.score.accuracy:.1f} ±" in page for result in (first, second)]
    assert (shown, first.score.accuracy == second.score.accuracy) == ([False, True], False)


def test_a_probe_does_not_take_anothers_sounds_or_code(bench: Bench, own: Path, tmp_path: Path) -> None:
    (tmp_path / "my_model.py").write_text(FIXED.format(extra="", bins=80))
    arguments = (
        "finetune",
        "-m",
        f"{tmp_path / 'my_model.py'}:Mine",
        "-t",
        own,
        "--freeze",
        "all",
        "--folds",
        "2",
        "--json",
    )
    first = bench(*arguments).envelope["results"][0]
    (tmp_path / "my_model.py").write_text(FIXED.format(extra="", bins=1))
    edited = bench(*arguments).envelope["results"][0]
    assert edited["model"]["source_sha256"] != first["model"]["source_sha256"]
    assert edited["runs"] != first["runs"]
    listed = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(own.rglob("*.wav"))]
    text = json.dumps(listed, separators=(",", ":"))
    assert first["task"]["content_sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_sounds_of_own_data_are_verified_where_the_provenance_alone_tells_them(
    bench: Bench, own: Path, tmp_path: Path
) -> None:
    result, _ = evaluate(bench, "-m", "logmel", "-t", own)
    parts = {name: getattr(result, name) for name in Result.model_fields if name != "id"}
    parts["task"] = result.task.model_copy(update={"content_sha256": None})
    parts["provenance"] = result.provenance.model_copy(update={"content_sha256": "0" * 64})
    ResultStore(tmp_path / "signed").write(Result.create(**parts))
    done = bench("results", "verify", tmp_path / "signed", "-t", own)
    assert done.code == 3
    assert "the sounds have the digest 000000000000" in done.out


def test_an_old_result_is_never_reused(bench: Bench, own: Path, tmp_path: Path) -> None:
    """As schema version 1 left it: without a word on the sounds."""
    result, _ = evaluate(bench, "-m", "logmel", "-t", own)
    (path,) = ResultStore().folder.rglob("*.json")
    path.unlink()
    parts: dict[str, Any] = {
        name: getattr(result, name) for name in Result.model_fields if name not in ("id", "schema_version", "kind")
    }
    parts["task"] = result.task.model_copy(update={"content_sha256": None})
    parts["provenance"] = result.provenance.model_copy(update={"content_sha256": None})
    old = ResultStore().write(Result.create(**parts))
    again, said = evaluate(bench, "-m", "logmel", "-t", own)
    assert "reused" not in said
    assert f"evaluating again: {old.name} ({result.score.accuracy:.2%}) does not record its sounds" in said
    assert load_result(old).id != again.id == result.id
