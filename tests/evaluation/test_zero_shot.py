"""Zero-shot evaluation: held to plain transformers on the queries that one support a class would have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from pydantic import ValidationError

from uamix_bench import fewshot, load_model, load_task
from uamix_bench.data.clip_table import sort_clips
from uamix_bench.evaluation.fewshot import fewshot_grid
from uamix_bench.evaluation.plan import draw_episodes
from uamix_bench.records.results import Result
from uamix_bench.scoring.classifiers import class_names
from uamix_bench.scoring.episodes import draw_sorted
from uamix_bench.scoring.protocol import PAPER, TEMPLATE, ZERO_SHOT, Protocol
from uamix_bench.scoring.sweep import sweep
from uamix_bench.util.errors import BadInputError, UsageError

from ..baselines import huggingface as small

LABELS = ("rain", "a_dog", "siren", "low_hum")
RATE = 48_000  # the extractor's
CELL = ZERO_SHOT.model_copy(update={"n_way": 3, "n_query": 4, "episodes": 50})


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, generator = tmp_path_factory.mktemp("zero") / "own", np.random.default_rng(3)
    for pitch, label in enumerate(LABELS, 1):
        (folder / label).mkdir(parents=True)
        for clip in range(6):
            wave = np.sin(np.arange(RATE // 4) * 0.01 * pitch * generator.uniform(0.5, 2))
            soundfile.write(folder / label / f"{clip}.wav", 0.5 * wave + 0.1 * generator.normal(size=len(wave)), RATE)
    return folder


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers", reason="transformers is not installed (the extra hf)")
    return small.folder("clap", tmp_path_factory.mktemp("models"))


def features(found: Any) -> np.ndarray:
    """Unit vectors of what ClapModel gives, float64."""
    vectors = getattr(found, "pooler_output", found).detach().numpy().astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_predictions_are_those_of_plain_transformers(sounds: Path, clap: Path) -> None:
    import transformers

    result = fewshot(load_model(f"hf:{clap}"), load_task(str(sounds)), CELL, cache=False)
    task = load_task(str(sounds))
    episodes = draw_episodes(task, CELL)
    whole = transformers.ClapModel.from_pretrained(clap)
    extractor = transformers.ClapFeatureExtractor.from_pretrained(clap)
    tokenizer = transformers.AutoTokenizer.from_pretrained(clap)
    audio = []
    with torch.inference_mode():
        for path in task.table["path"]:
            wave = soundfile.read(path, dtype="float32")[0]
            audio.append(features(whole.get_audio_features(**extractor(wave, sampling_rate=RATE, return_tensors="pt"))))
        texts = [f"This is a sound of {label.replace('_', ' ')}." for label in episodes.class_names]
        names = features(whole.get_text_features(**tokenizer(texts, padding=True, return_tensors="pt")))
    cosines = np.concatenate(audio) @ names.T  # (n, C)
    offered = np.stack(
        [cosines[query][..., slots] for query, slots in zip(episodes.query, episodes.classes, strict=True)]
    )
    ordered = np.sort(offered, axis=-1)
    assert (ordered[..., -1] - ordered[..., -2]).min() > 1e-6  # so that rounding decides nothing
    right = (offered.argmax(axis=-1) == np.arange(3)[:, None]).sum(axis=(1, 2))
    assert result.episodes.correct == tuple(right.tolist())
    assert 0 < sum(right) < right.size * 12
    assert result.names == {label: label.replace("_", " ") for label in LABELS}
    assert Result.model_validate_json(result.model_dump_json(), strict=True) == result


def test_template_and_names_make_other_results(sounds: Path, clap: Path) -> None:
    model, task = load_model(f"hf:{clap}"), load_task(str(sounds))
    other = CELL.model_copy(update={"template": "the noise of {}"})
    plain, templated, few = fewshot_grid(model, task, [CELL, other, CELL_ONE])
    (named,) = fewshot_grid(model, task.named({"rain": "heavy rain"}), [CELL])
    results = (plain, templated, named, few)
    assert len({result.id for result in results}) == len({result.cell() for result in results}) == 4
    assert len({result.unit() for result in results}) == 4
    assert plain.episodes.digest == templated.episodes.digest == named.episodes.digest
    assert named.names["rain"] == "heavy rain"
    assert (few.names, few.task.names_sha256) == ({}, None)
    assert "names_sha256" not in few.task.model_dump()
    assert "template" not in few.protocol.model_dump()
    forged = plain.model_dump(mode="json") | {"names": {**plain.names, "rain": "snow"}}
    with pytest.raises(ValidationError, match="names_sha256 is not that of the class names"):
        Result.model_validate(forged | {"id": plain.id})


CELL_ONE = PAPER.model_copy(update={"n_way": 3, "n_query": 4, "episodes": 50})


def test_models_without_a_text_side_say_so(sounds: Path, clap: Path) -> None:
    task = load_task(str(sounds))
    with pytest.raises(UsageError, match="logmel at --k 0: has no text side"):
        fewshot(load_model("logmel"), task, CELL)
    with pytest.raises(UsageError, match="reads texts under --pooling projection alone"):
        fewshot(load_model(f"hf:{clap}", pooling="mean"), task, CELL)
    (clap / "tokenizer.json").rename(clap / "aside")
    try:
        with pytest.raises(BadInputError, match=r"has no tokenizer\.json"):
            load_model(f"hf:{clap}").embed_texts(["rain"])
    finally:
        (clap / "aside").rename(clap / "tokenizer.json")
    with pytest.raises(BadInputError, match="have one name, 'rain'"):
        fewshot(load_model(f"hf:{clap}"), task.named({"siren": "rain"}), CELL)


def test_a_text_is_embedded_the_same_beside_any_others(clap: Path) -> None:
    model = load_model(f"hf:{clap}")
    texts = ["rain", "a dog", "siren", "hum.", "This is a sound of rain."]
    together = model.embed_texts(texts)
    alone = np.concatenate([model.embed_texts([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("disjoint", [False, True])
def test_queries_and_classes_are_those_of_one_support(disjoint: bool) -> None:
    clips = [f"{label}/{clip}" for label in range(8) for clip in range(20)]
    table = sort_clips(clips, [clip[0] for clip in clips], [f"{clip[0]}-{int(clip[2:]) // 2}" for clip in clips])
    changes = {"n_query": 5, "episodes": 30, "group_disjoint": disjoint}
    none, one = (
        draw_sorted(base.model_copy(update=changes), table, task="t", version="1") for base in (ZERO_SHOT, PAPER)
    )
    np.testing.assert_array_equal(none.query, one.query)
    np.testing.assert_array_equal(none.classes, one.classes)
    assert none.support.shape == (30, 5, 0)
    assert none.shared_group_share == 0.0
    if not disjoint:  # of any number of shots: queries come first
        five = draw_sorted(PAPER.model_copy(update={**changes, "k_shot": 5}), table, task="t", version="1")
        np.testing.assert_array_equal(none.query, five.query)


def test_a_sweep_with_zero_shots_keeps_one_set_of_classes() -> None:
    sizes = [16, 17, 18, 22, 30]
    clips = [f"{label}/{clip:02}" for label, size in enumerate(sizes) for clip in range(size)]
    table = sort_clips(clips, [clip[0] for clip in clips])
    knn = PAPER.model_copy(update={"n_way": 2, "k_shot": 5, "classifier": "knn"})
    cells = sweep([ZERO_SHOT.model_copy(update={"n_way": 2}), knn], table)
    assert [cell.min_clips for cell in cells] == [20, None]
    drawn = [draw_sorted(cell, table, task="t", version="1") for cell in cells]
    assert drawn[0].class_names == drawn[1].class_names
    assert sweep(cells, table) == cells
    (alone,) = sweep([ZERO_SHOT], table)
    assert alone == ZERO_SHOT  # all classes that one support can use


def test_the_largest_cosine_wins() -> None:
    generator = np.random.default_rng(0)
    clips, texts = generator.normal(size=(40, 6)).astype(np.float32), generator.normal(size=(7, 6)).astype(np.float32)
    classes = np.stack([generator.permutation(7)[:3] for _ in range(20)])
    query = generator.integers(0, 40, (20, 3, 5))
    unit = [rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True) for rows in (clips, texts)]
    expected = [(unit[0][rows] @ unit[1][slots].T).argmax(axis=-1) for rows, slots in zip(query, classes, strict=True)]
    score = class_names(clips, 100 * texts, classes, query)  # of any length
    np.testing.assert_array_equal(score.chosen, expected)
    np.testing.assert_array_equal(score.correct, (score.chosen == np.arange(3)[:, None]).sum(axis=(1, 2)))


@pytest.mark.parametrize(
    "fields",
    [
        {"k_shot": 0},
        {"k_shot": 0, "classifier": "class-names"},
        {"k_shot": 1, "classifier": "class-names", "template": TEMPLATE},
        {"k_shot": 1, "template": TEMPLATE},
        {"k_shot": 0, "classifier": "class-names", "template": "no place"},
        {"k_shot": 0, "classifier": "class-names", "template": "{} and {}"},
    ],
)
def test_protocols_that_contradict_themselves_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Protocol(**fields)
