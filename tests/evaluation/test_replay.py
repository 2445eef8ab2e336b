"""Results again on cached embeddings: the confusions against a plain loop, and what cannot be had said in one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from scipy.spatial.distance import cdist

from uamix_bench.data.task import load_task
from uamix_bench.evaluation.fewshot import draw_episodes, fewshot
from uamix_bench.evaluation.redraw import Redraw
from uamix_bench.evaluation.replay import replay
from uamix_bench.models.loading import load_model
from uamix_bench.records.results import Result
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.tasks.miniature import make
from uamix_bench.util import files
from uamix_bench.util.errors import BadInputError

SMALL = Protocol(name="small", n_way=3, k_shot=2, n_query=2, episodes=50)


@pytest.fixture
def mini(tmp_path: Path, bench_home: Path) -> Path:
    """A miniature of ESC-50 under data/, of five classes."""
    return make("esc50", tmp_path / "data" / "esc50", classes=5, clips_per_class=6, seconds=0.1).parent


@pytest.fixture
def result(mini: Path) -> Result:
    return fewshot(load_model("logmel"), load_task("esc50", mini), SMALL)


def changed(result: Result, **fields: Any) -> Result:
    """The same result with other episodes, and the id that is then right."""
    parts = {name: value for name, value in result if name not in ("schema_version", "kind", "id")}
    return Result.create(**parts | {"episodes": result.episodes.model_copy(update=fields)})


def test_confusions_are_those_of_a_plain_loop(mini: Path, result: Result) -> None:
    found = replay(result, Redraw(mini))
    data = found.data
    counts, of = found.confusion()
    model, episodes = load_model("logmel"), draw_episodes(data, SMALL)
    waves = [soundfile.read(path, dtype="float32")[0] for path in data.table["path"]]
    vectors = np.stack([model.embed([wave], 44_100)[0] for wave in waves]).astype(np.float64)
    expected, met = np.zeros((5, 5), int), np.zeros((5, 5), int)
    for classes, support, query in zip(episodes.classes, episodes.support, episodes.query, strict=True):
        centroids = vectors[support].mean(axis=1)
        for true, rows in zip(classes, query, strict=True):
            met[true, classes] += len(rows)
            for given in classes[cdist(vectors[rows], centroids).argmin(axis=1)]:
                expected[true, given] += 1
    assert counts.tolist() == expected.tolist()
    assert of.tolist() == met.tolist()
    assert {label: tuple(pair) for label, pair in result.per_class.items()} == {
        label: (counts[at, at], counts[at].sum()) for at, label in enumerate(found.episodes.class_names)
    }


def test_any_clip_that_is_kept_is_found(mini: Path, result: Result) -> None:
    found = replay(result, Redraw(mini))
    data = found.data
    kept, vectors = found.embeddings(np.array([3, 0]))
    wave = soundfile.read(data.table["path"][3], dtype="float32")[0]
    assert kept.tolist() == [True, True]
    assert np.allclose(vectors[0], load_model("logmel").embed([wave], 44_100)[0], atol=1e-5)
    Path(data.table["path"][0]).unlink()
    assert found.embeddings(np.array([3, 0]))[0].tolist() == [True, False]


def test_a_result_of_some_classes_and_another_length_is_found(mini: Path) -> None:
    data = load_task("esc50", mini, clip_seconds=0.05).only(["dog", "cow", "pig"])
    result = fewshot(load_model("logmel"), data, SMALL)
    assert replay(result, Redraw(mini)).data.clips_sha256 == data.clips_sha256


def test_what_cannot_be_had_is_said_in_one_line(mini: Path, result: Result, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="logmel on esc50: esc50: no ESC-50-master"):
        replay(result, Redraw(tmp_path / "nowhere"))
    make("esc50", tmp_path / "other" / "esc50", classes=4, clips_per_class=6, seconds=0.1)
    with pytest.raises(BadInputError, match="the clip table of esc50 here is another"):
        replay(result, Redraw(tmp_path / "other"))
    with pytest.raises(BadInputError, match="its episodes are not those that the protocol draws"):
        replay(changed(result, digest="0" * 64), Redraw(mini))
    assert result.episodes.correct[::-1] != result.episodes.correct
    with pytest.raises(BadInputError, match="its embeddings give another outcome"):
        replay(changed(result, correct=result.episodes.correct[::-1]), Redraw(mini))
    shutil.rmtree(files.home() / "embeddings")
    with pytest.raises(BadInputError, match="its embeddings are not in the cache; 'uamix-bench fewshot"):
        replay(result, Redraw(mini))


def test_episodes_of_equal_tables_under_two_names_are_drawn_apart(mini: Path, tmp_path: Path) -> None:
    """The name of a task is part of the key of its draw, and the digest of its clip table is not of the name."""
    sounds = sorted(mini.rglob("*.wav"))
    rows = "\n".join(f"{path.name},{path.stem.rpartition('-')[2]}" for path in sounds)
    lists = [tmp_path / name / f"{name}.csv" for name in ("one", "two")]
    for path in lists:
        path.parent.mkdir()
        path.write_text(f"path,label\n{rows}\n")
        for sound in sounds:
            shutil.copy(sound, path.parent)
    tasks = [load_task(str(path)) for path in lists]
    assert tasks[0].clips_sha256 == tasks[1].clips_sha256
    results = [fewshot(load_model("logmel"), task, SMALL) for task in tasks]
    redraw = Redraw(own=map(str, lists))
    for result in results:
        drawn = redraw(result)
        assert not isinstance(drawn, str)
        assert drawn.digest == result.episodes.digest
