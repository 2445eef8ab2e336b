"""Fitted classifiers: an episode's equals its record, a folder gives it back, and a changed encoder is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from uamix_bench import Protocol, fewshot, fit, fit_episode, load_classifier, load_model, load_task
from uamix_bench.baselines.logmel import LogMelStatistics
from uamix_bench.data.task import TaskData
from uamix_bench.models.model import AudioModel
from uamix_bench.records.classifier_file import NONE_OF_THESE
from uamix_bench.scoring.classifiers import CLASSIFIERS
from uamix_bench.util.errors import BadInputError, UsageError

RATE = 16_000


def tones(folder: Path, sizes: dict[str, int], spread: float, seed: int = 7) -> Path:
    """Noisy tones of a quarter of a second, a pitch for each class."""
    random = np.random.default_rng(seed)
    time = np.arange(RATE // 4) / RATE
    for number, (label, size) in enumerate(sizes.items()):
        (folder / label).mkdir(parents=True)
        for clip in range(size):
            tone = 0.3 * np.sin(2 * np.pi * 220 * 2**number * random.uniform(1 - spread, 1 + spread) * time)
            soundfile.write(folder / label / f"{clip}.wav", tone + 0.1 * random.standard_normal(len(time)), RATE)
    return folder


@pytest.fixture(scope="module")
def confused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of eight clips that are often taken for one another."""
    sizes = dict.fromkeys(("low", "mid", "high", "top"), 8)
    return tones(tmp_path_factory.mktemp("data") / "confused", sizes, spread=0.6)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of 20 to 26 clips."""
    sizes = {"low": 20, "mid": 22, "high": 24, "top": 26}
    return tones(tmp_path_factory.mktemp("data") / "many", sizes, spread=0.2)


@pytest.fixture
def model(bench_home: Path) -> AudioModel:
    return load_model("logmel", device="cpu")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_an_episode_is_predicted_as_its_record_counts_it(name: str, confused: Path, model: AudioModel) -> None:
    task = load_task(f"{confused}/")
    cell = Protocol(n_way=3, k_shot=2, n_query=5, episodes=20, classifier=name, neighbors=3 if name == "knn" else 1)
    record = fewshot(model, task, cell)
    assert 0.3 < record.score.accuracy < 0.95  # so that queries of both kinds are met
    for index in (0, 7, 19):
        made = fit_episode(model, task, cell, index)
        episode = made.facts.episode
        assert episode is not None
        assert episode.digest == record.episodes.digest
        right = 0
        for label, clips in zip(made.classes, episode.query, strict=True):
            found = made.predict([confused / clip for clip in clips], windows=False)
            assert len(found.rows) == 5
            right += sum(row.label == label for row in found.rows)
        assert right == record.episodes.correct[index]
        assert made.facts.calibration is None


def test_an_episode_that_does_not_exist_is_refused(confused: Path, model: AudioModel) -> None:
    with pytest.raises(UsageError, match="is none of 20 episodes"):
        fit_episode(model, load_task(f"{confused}/"), Protocol(n_way=3, k_shot=1, n_query=2, episodes=20), 20)


@pytest.mark.parametrize("name", ["simpleshot", "knn"])
def test_a_folder_gives_back_the_classifier(name: str, many: Path, model: AudioModel, tmp_path: Path) -> None:
    made = fit(model, load_task(f"{many}/"), classifier=name)
    folder = made.save(tmp_path / "clf")
    assert sorted(path.name for path in folder.iterdir()) == ["classifier.json", "classifier.safetensors"]
    text = (folder / "classifier.json").read_text()
    assert str(many) not in text
    assert json.loads(text)["model"]["name"] == "logmel"
    again = load_classifier(folder)
    assert again.facts == made.facts
    assert again.predict([many]) == made.predict([many])


def test_from_twenty_clips_of_each_class_scores_are_probabilities(many: Path, model: AudioModel) -> None:
    task = load_task(f"{many}/")
    made = fit(model, task)
    assert made.facts.calibration is not None
    assert made.facts.classes == {"high": 24, "low": 20, "mid": 22, "top": 26}
    assert all(0.25 <= row.score <= 1 for row in made.predict([many]).rows)
    few = fit(model, task, k=19)
    assert few.facts.calibration is None
    assert "one class has 19" in few.facts.uncalibrated
    assert set(few.facts.classes.values()) == {19}
    assert all(row.label == row.nearest for row in few.predict([many]).rows)


def test_fewer_clips_are_a_part_of_more(many: Path, model: AudioModel) -> None:
    """By the means of one classifier, which the clips determine."""
    task = load_task(f"{many}/")
    again, other = fit(model, task, k=5), fit(model, task, k=5, seed=1)
    assert again.facts.weights_sha256 == fit(model, task, k=5).facts.weights_sha256
    assert again.facts.weights_sha256 != other.facts.weights_sha256
    with pytest.raises(UsageError, match="--k 21: is more than the 20 clips of a class"):
        fit(model, task, k=21)


def test_long_recordings_are_labelled_window_by_window(many: Path, model: AudioModel, tmp_path: Path) -> None:
    task = load_task(f"{many}/", clip_seconds=0.25)
    made = fit(model, task)
    paths = sorted(many.rglob("*.wav"))[::15]
    joined = np.concatenate([soundfile.read(path)[0] for path in paths])
    soundfile.write(tmp_path / "long.wav", joined, RATE)
    alone = [made.predict([path]).rows[0] for path in paths]
    rows = made.predict([tmp_path / "long.wav"]).rows
    assert [(row.start_s, row.end_s) for row in rows] == [(0.25 * at, 0.25 * at + 0.25) for at in range(len(paths))]
    assert [row.nearest for row in rows] == [row.nearest for row in alone]
    assert [row.score for row in rows] == pytest.approx([row.score for row in alone], abs=1e-3)
    (first,) = made.predict([tmp_path / "long.wav"], windows=False).rows
    assert first._replace(score=0.0) == rows[0]._replace(score=0.0)
    assert first.score == pytest.approx(rows[0].score, abs=1e-6)


def test_what_is_like_no_class_is_none_of_these(many: Path, model: AudioModel, tmp_path: Path) -> None:
    made = fit(model, load_task(f"{many}/"))
    calibration = made.facts.calibration
    assert calibration is not None
    rows = made.predict([many]).rows
    unlike = sum(row.label == NONE_OF_THESE for row in rows) / len(rows)
    assert unlike <= 2 * calibration.known_lost + 0.05
    assert calibration.known_lost < 0.1
    random = np.random.default_rng(0)
    for place in range(10):
        soundfile.write(tmp_path / f"{place}.wav", 0.05 * random.standard_normal(RATE // 4), RATE)
    assert {row.label for row in made.predict([tmp_path]).rows} == {NONE_OF_THESE}


def test_other_weights_code_or_front_end_are_refused(
    many: Path, model: AudioModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task: TaskData = load_task(f"{many}/")
    folder = fit(model, task).save(tmp_path / "clf")
    with pytest.raises(BadInputError, match="its encoder is another now"):
        load_classifier(folder, load_model("random", device="cpu"))
    with pytest.raises(BadInputError, match="input official"):
        load_classifier(folder, load_model("logmel", device="cpu", input="official"))
    before = LogMelStatistics.frontend

    def louder(self: Any, waveforms: Any, lengths: Any) -> Any:
        return before(self, 2 * waveforms, lengths)

    monkeypatch.setattr(LogMelStatistics, "frontend", louder)  # under the same version
    with pytest.raises(BadInputError, match="embeds the same sound otherwise now"):
        load_classifier(folder)


def test_damaged_folders_are_one_line(many: Path, model: AudioModel, tmp_path: Path) -> None:
    folder = fit(model, load_task(f"{many}/"), k=2).save(tmp_path / "clf")
    weights, facts = folder / "classifier.safetensors", folder / "classifier.json"
    content, text = weights.read_bytes(), facts.read_text()
    weights.write_bytes(content[:-4] + b"\0\0\0\1")
    with pytest.raises(BadInputError, match=r"is not the file that classifier\.json was written with"):
        load_classifier(folder)
    weights.write_bytes(content)
    facts.write_text(text.replace('"kind": "classifier"', '"kind": "other"').replace('"kind":"classifier"', '"kind":1'))
    with pytest.raises(BadInputError, match="kind"):
        load_classifier(folder)
    facts.unlink()
    with pytest.raises(BadInputError, match=r"holds no classifier\.json"):
        load_classifier(folder)
