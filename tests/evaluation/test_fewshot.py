from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.spatial.distance import cdist

import uamix_bench
from uamix_bench.data.task import TaskData, load_task
from uamix_bench.embeddings import embedding
from uamix_bench.evaluation.fewshot import draw_episodes, fewshot, fewshot_grid, limited
from uamix_bench.models.loading import load_model
from uamix_bench.models.model import AudioModel
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.util.errors import BadInputError, UsageError

SMALL = Protocol(name="small", n_way=3, k_shot=2, n_query=3, episodes=12)


@pytest.fixture(scope="module")
def model() -> AudioModel:
    return load_model("logmel")


@pytest.fixture
def folder(tmp_path: Path, bench_home: Path) -> Path:
    """Four classes of ten noises; classes differ in colour, clips in colour, level and length: they overlap."""
    root = tmp_path / "noises"
    generator = np.random.default_rng(3)
    for label, colour in (("a", 0.3), ("b", 0.4), ("c", 0.5), ("d", 0.6)):
        (root / label).mkdir(parents=True)
        for index in range(10):
            noise = generator.standard_normal(int(generator.uniform(2_000, 5_000)))
            share, level = colour + generator.uniform(-0.2, 0.2), generator.uniform(0.05, 0.15)
            soft = np.convolve(noise, np.ones(9) / 9, mode="same")
            soundfile.write(root / label / f"{index}.wav", level * (share * noise + (1 - share) * soft), 16_000)
    return root


@pytest.fixture
def task(folder: Path) -> TaskData:
    return load_task(str(folder))


def test_what_is_to_know_of_the_weights_stands_in_the_record(task: TaskData) -> None:
    model = load_model("logmel")
    assert fewshot(model, task, SMALL, cache=False).status.notes == ()
    model.metadata["remarks"] = "the weights are an average\nand so on"
    assert fewshot(model, task, SMALL, cache=False).status.notes == ("the weights are an average", "and so on")


def test_score_is_that_of_a_plain_loop(model: AudioModel, task: TaskData) -> None:
    result = fewshot(model, task, SMALL, cache=False)
    waves = [soundfile.read(path, dtype="float32")[0] for path in task.table["path"]]
    vectors = np.stack([model.embed([wave], 16_000)[0] for wave in waves]).astype(np.float64)
    labels = task.table["label"]
    episodes = draw_episodes(task, SMALL)
    tally: dict[str, list[int]] = {}
    for index in range(SMALL.episodes):
        names = [labels[rows[0]] for rows in episodes.support[index]]
        centroids = np.stack([vectors[rows].mean(axis=0) for rows in episodes.support[index]])
        correct = 0
        for slot, rows in enumerate(episodes.query[index]):
            hits = int((cdist(vectors[rows], centroids, "sqeuclidean").argmin(axis=1) == slot).sum())
            correct += hits
            count = tally.setdefault(names[slot], [0, 0])
            count[0] += hits
            count[1] += len(rows)
        assert result.episodes.correct[index] == correct
    assert {label: list(counts) for label, counts in result.per_class.items()} == tally
    fractions = np.array(result.episodes.correct) / 9
    assert result.score.accuracy == pytest.approx(fractions.mean(), abs=1e-12)
    assert result.score.ci95 == pytest.approx(1.96 * fractions.std(ddof=0) / np.sqrt(12), abs=1e-12)
    assert 0.4 < result.score.accuracy < 0.95  # there is something to get wrong
    assert result.status.complete
    assert result.episodes.digest == episodes.digest


def test_a_grid_gives_what_each_protocol_gives_alone(model: AudioModel, folder: Path) -> None:
    (folder / "b" / "3.wav").write_bytes(b"broken")
    task = load_task(str(folder))
    protocols = [
        SMALL.model_copy(update={"n_way": n, "k_shot": k, "episodes": e})
        for n, k, e in ((2, 1, 1), (3, 2, 2), (4, 5, 9))
    ]
    grid = fewshot_grid(model, task, protocols, keep_going=True)
    assert [result.id for result in grid] == [fewshot(model, task, p, keep_going=True).id for p in protocols]
    assert {result.status.complete for result in grid} == {True, False}  # only cells that met the broken clip lost it
    partial = grid[-1]
    assert [skipped.clip for skipped in partial.status.skipped] == ["b/3.wav"]
    (folder / "b" / "3.wav").unlink()
    redrawn = task.table.take(task.table["clip"] != "b/3.wav")
    without = TaskData(task.task, task.card, task.root, redrawn)
    clean = fewshot(model, without, protocols[-1])
    assert partial.episodes == clean.episodes
    assert partial.task == clean.task
    assert partial.id != clean.id


def test_broken_clips_found_one_after_another_all_go(model: AudioModel, folder: Path) -> None:
    for name in ("a/0.wav", "a/1.wav", "c/5.wav", "d/9.wav"):
        (folder / name).write_bytes(b"")
    task = load_task(str(folder))
    result = fewshot(model, task, SMALL.model_copy(update={"episodes": 3}), keep_going=True)
    skipped = {clip.clip for clip in result.status.skipped}
    assert skipped
    assert skipped <= {"a/0.wav", "a/1.wav", "c/5.wav", "d/9.wav"}
    assert result.task.clips == 40 - len(skipped)
    assert all(str(folder) not in clip.reason for clip in result.status.skipped)
    with pytest.raises(BadInputError):
        fewshot(model, task, SMALL)


def test_too_many_broken_clips_end_the_run(model: AudioModel, folder: Path) -> None:
    for index in range(6):
        (folder / "a" / f"{index}.wav").write_bytes(b"")
        (folder / "b" / f"{index}.wav").write_bytes(b"")
    with pytest.raises(UsageError, match="2 of 4"):
        fewshot(model, load_task(str(folder)), SMALL, keep_going=True)


def test_only_drawn_clips_are_embedded_and_each_once(
    model: AudioModel, task: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    real = embedding.embed

    def spy(*arguments: object, **options: object) -> embedding.Embeddings:
        asked.append(arguments[2])  # type: ignore[arg-type]
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(embedding, "embed", spy)
    few = SMALL.model_copy(update={"episodes": 1})
    more = few.model_copy(update={"k_shot": 3})
    first, second = fewshot_grid(model, task, [few, more])
    union = np.union1d(draw_episodes(task, few).clips, draw_episodes(task, more).clips)
    assert [rows.tolist() for rows in asked] == [union.tolist()]
    assert first.cost.embedded_clips == second.cost.embedded_clips == len(union) < 40
    again = fewshot(model, task, few)
    assert (again.cost.embedded_clips, again.id) == (0, first.id)
    (pace,) = again.cost.earlier
    assert (pace.clips, pace.device) == (len(union), first.provenance.device)
    assert 0 < pace.seconds <= first.cost.embed_s
    assert first.cost.earlier == second.cost.earlier == ()
    assert fewshot(model, task, few, cache=False).cost.embedded_clips == len(draw_episodes(task, few).clips)


def test_labels_are_the_classes_and_groups_are_kept_apart(model: AudioModel, folder: Path, tmp_path: Path) -> None:
    rows = [
        f"{path.relative_to(folder)},{path.parent.name},{int(path.stem) // 2}" for path in sorted(folder.rglob("*.wav"))
    ]
    (folder / "list.csv").write_text("path,label,group\n" + "\n".join(rows) + "\n")
    task = load_task(str(folder / "list.csv"))
    mixed = fewshot(model, task, SMALL)
    apart = fewshot(model, task, SMALL.model_copy(update={"group_disjoint": True}))
    assert mixed.episodes.shared_group_share is not None
    assert mixed.episodes.shared_group_share > 0
    assert apart.episodes.shared_group_share == 0
    assert fewshot(model, load_task(str(folder)), SMALL).episodes.shared_group_share is None


def test_limit_takes_the_first_clips_of_each_class(model: AudioModel, task: TaskData) -> None:
    result = fewshot(model, task, SMALL, limit=5)
    assert not result.status.complete
    assert result.status.limited
    assert limited(task, 5).table["clip"].tolist() == [f"{label}/{index}.wav" for label in "abcd" for index in range(5)]
    assert result.task.clips == 20


def test_intervals_for_new_clips_and_classes_appear_with_enough_episodes(model: AudioModel, task: TaskData) -> None:
    many = fewshot(model, task, Protocol(n_way=2, k_shot=1, n_query=2, episodes=10_000))
    assert many.score.ci95 is not None
    assert many.score.ci95_clips is not None
    assert many.score.ci95_clips > many.score.ci95
    assert many.score.ci95_classes is None  # four classes are too few to leave out one
    assert "4 classes are too few" in many.score.intervals.classes.reason


def test_the_public_name_stays_callable_once_the_module_is_imported(model: AudioModel, task: TaskData) -> None:
    for public in (uamix_bench.fewshot, uamix_bench.fewshot):
        assert public(model, task, SMALL).id == fewshot(model, task, SMALL).id


def test_the_pipeline_is_checked_before_torch_is_imported() -> None:
    code = "import sys, uamix_bench.evaluation.fewshot; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
