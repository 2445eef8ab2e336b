"""Models that are known without being loaded, beside the same models loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.baselines import official
from uamix_bench.data.task import load_task
from uamix_bench.embeddings import known as known_models
from uamix_bench.embeddings.embedding import embed
from uamix_bench.embeddings.known import KnownModel, recall_model
from uamix_bench.embeddings.model_key import model_key
from uamix_bench.models.loading import load_model
from uamix_bench.plugins.registry import bundled_weights, models
from uamix_bench.util.errors import BadInputError, BenchError

UNTRAINED = [name for name, plugin in models().items() if not plugin.card.needs_weights]
OURS = [*official.FORMATS, *bundled_weights(), *UNTRAINED]


def named(name: str, folder: Path) -> str:
    return f"{name}={official.checkpoint(name, folder)}" if name in official.FORMATS else name


def test_every_card_is_among_the_names() -> None:
    cards = {name for name, plugin in models().items() if not plugin.card.reference}
    assert cards == {*official.FORMATS, *UNTRAINED, "uamix"}
    assert models()["uamix"].card.default_weights in OURS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("bench_home")
@pytest.mark.parametrize("name", OURS)
def test_a_known_model_says_what_the_loaded_one_says(name: str, tmp_path: Path) -> None:
    given = named(name, tmp_path)
    for settings in ({}, {"input": "official", "dtype": "bf16", "label": "mine", "pretrained_on": ("more",)}):
        first = recall_model(given, **settings)  # type: ignore[arg-type]
        known = recall_model(given, **settings)  # type: ignore[arg-type]
        loaded = load_model(given, **settings)  # type: ignore[arg-type]
        assert not isinstance(first, KnownModel)
        assert isinstance(known, KnownModel)
        assert known.identity == loaded.identity == first.identity
        assert known.key == model_key(loaded)
        assert known.remarks == loaded.remarks
        assert known.embedding_dim == loaded.embedding_dim


@pytest.mark.usefixtures("bench_home")
@pytest.mark.parametrize(
    "other",
    [{"pooling": "cls"}, {"input": "official"}, {"dtype": "bf16"}, {"label": "mine"}, {"pretrained_on": ("a",)}],
    ids=str,
)
def test_another_setting_is_another_model(other: dict[str, Any]) -> None:
    recall_model("audiomae-tiny")
    assert not isinstance(recall_model("audiomae-tiny", **other), KnownModel)


@pytest.mark.usefixtures("bench_home")
def test_other_weights_or_another_place_are_loaded(tmp_path: Path) -> None:
    path = official.checkpoint("audiomae", tmp_path)
    recall_model("audiomae", path)
    assert isinstance(recall_model(f"audiomae={path}"), KnownModel)
    moved = tmp_path / "moved.pth"
    path.rename(moved)
    assert not isinstance(recall_model("audiomae", moved), KnownModel)  # a name may tell sizes
    official.FORMATS["audiomae"][1](official.Size(64, 1, 2), moved)
    assert not isinstance(recall_model("audiomae", moved), KnownModel)


@pytest.mark.usefixtures("bench_home")
def test_code_that_changed_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    recall_model("logmel")
    monkeypatch.setattr("uamix_bench.embeddings.known._code_sha256", lambda: "0" * 64)
    assert not isinstance(recall_model("logmel"), KnownModel)


def test_a_damaged_memory_is_none(bench_home: Path) -> None:
    recall_model("logmel")
    (file,) = (bench_home / "models").iterdir()
    whole = file.read_bytes()
    for at in range(0, len(whole), 7):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        known = recall_model("logmel")
        if isinstance(known, KnownModel):  # white space
            assert known.identity == load_model("logmel").identity
        file.write_bytes(whole)


@pytest.mark.usefixtures("bench_home")
def test_a_class_of_one_s_own_is_never_known(tmp_path: Path) -> None:
    code = tmp_path / "own.py"
    code.write_text(
        "import torch\nfrom uamix_bench import AudioModel\n"
        "class Own(AudioModel):\n    sample_rate, embedding_dim = 16_000, 2\n"
        "    @classmethod\n    def untrained(cls):\n        return cls()\n"
    )
    for _ in range(2):
        assert not isinstance(recall_model(f"{code}:Own"), KnownModel)


@pytest.mark.usefixtures("bench_home")
def test_weights_whose_name_is_not_utf_8_are_refused_for_that(tmp_path: Path) -> None:
    path = official.checkpoint("audiomae", tmp_path).rename(tmp_path / os.fsdecode(b"\xff.pth"))
    with pytest.raises(BadInputError, match="has a name that is not UTF-8; rename it"):
        recall_model("audiomae", path)


def test_numbers_beside_the_code_count_as_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_models, "_ROOT", tmp_path)
    digests = set()
    for content in ("[1]", "[2]"):
        (tmp_path / "numbers.json").write_text(content)
        digests.add(known_models._code_sha256.__wrapped__())
    assert len(digests) == 2


@pytest.mark.parametrize("faulty", ["audiomae", "logmel=x.pth", "audiomae=missing.pth", "no-such", "logmel=", "uamix="])
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("bench_home")
def test_faults_are_those_of_loading(faulty: str) -> None:
    for name in ("logmel", "uamix"):
        recall_model(name)
    with pytest.raises(BenchError) as loaded:
        load_model(faulty)
    with pytest.raises(type(loaded.value)) as recalled:
        recall_model(faulty)
    assert str(recalled.value) == str(loaded.value)


@pytest.mark.filterwarnings("ignore")
def test_clips_that_are_not_cached_are_embedded_by_the_loaded_model(bench_home: Path) -> None:
    data = load_task("synthetic")
    rows = np.arange(6)
    recall_model("logmel")
    known = recall_model("logmel")
    assert isinstance(known, KnownModel)
    first = embed(known, data, rows[:3])
    again = embed(known, data, rows)
    plain = embed(load_model("logmel"), data, rows, cache=False)
    assert (first.embedded_clips, again.embedded_clips) == (3, 3)
    assert np.array_equal(again.vectors, plain.vectors)
    assert again.devices == plain.devices  # of both, this machine's


def test_embeddings_made_elsewhere_keep_the_name_of_their_device(bench_home: Path) -> None:
    data, rows = load_task("synthetic"), np.arange(3)
    model = load_model("logmel")
    embed(model, data, rows)
    (file,) = (bench_home / "embeddings").glob("*/devices.json")
    file.write_text(json.dumps({"devices": ["cuda: Far Away"]}))
    assert embed(model, data, rows).devices == ("cuda: Far Away",)
    here = embed(model, data, rows, cache=False).devices
    assert embed(model, data, np.arange(4)).devices == tuple(sorted({"cuda: Far Away", *here}))
    file.unlink()
    assert embed(model, data, rows).devices == ("not recorded",)


@pytest.mark.usefixtures("bench_home")
def test_a_memory_of_another_model_is_refused_before_it_embeds() -> None:
    recall_model("logmel")
    known = recall_model("logmel")
    assert isinstance(known, KnownModel)
    known.identity = known.identity.model_copy(update={"parameters": 7})
    with pytest.raises(BadInputError, match="tells of another model than is loaded; remove it"):
        known.load()
