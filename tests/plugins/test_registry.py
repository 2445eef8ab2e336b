"""The registries: strangers' packages and files, and the contract that every registered model keeps."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from uamix_bench.models.checkpoint import read_checkpoint
from uamix_bench.models.loading import load_model
from uamix_bench.models.model import AudioModel
from uamix_bench.models.vit import ViTShape
from uamix_bench.plugins import registry
from uamix_bench.plugins.card import ModelCard
from uamix_bench.util.errors import BadInputError, UsageError

CARD = 'name = "{name}"\ntitle = "Hum"\nlicence = "MIT"\nsample_rate = 16_000\nembedding_dim = 2\nparameters = 0\n'
MODULE = """
from pathlib import Path
from uamix_bench.plugins.card import ModelCard, read_card
from uamix_bench.models.model import AudioModel

class Hum(AudioModel):
    card = read_card(Path(__file__).with_suffix(".toml"), ModelCard)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs a stranger's package: one module, its card, and an entry point."""

    def installed(name: str, card: str | None = None, module: str | None = MODULE, package: str = "") -> None:
        package = package or f"stranger_{name}"
        if module is not None:
            (tmp_path / f"{package}.py").write_text(module)
        (tmp_path / f"{package}.toml").write_text(CARD.format(name=name) if card is None else card)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[uamix_bench.models]\n{name} = {package}:Hum\n")
        registry.forget()

    monkeypatch.syspath_prepend(tmp_path)
    yield installed
    registry.forget()
    for name in [name for name in sys.modules if name.startswith("stranger")]:
        del sys.modules[name]


def test_a_strangers_package_is_listed_unimported_and_loads(install: Callable[..., None]) -> None:
    install("hum")
    with warnings.catch_warnings(action="error"):
        plugins = registry.models()
    assert list(plugins) == sorted(plugins)
    assert plugins["hum"].card.title == "Hum"
    assert "stranger_hum" not in sys.modules
    assert plugins["hum"].load().card == plugins["hum"].card


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"card": "name = 1"}, "field 'name'"),
        ({"card": CARD.format(name="other")}, r"is the card of 'other'; give card and entry point one name"),
        ({"module": None}, "the module is not installed"),
    ],
)
def test_a_broken_package_is_a_warning_and_harms_no_other(
    install: Callable[..., None], arguments: dict[str, str], reason: str
) -> None:
    install("hum", **arguments)
    with pytest.warns(UserWarning, match=rf"uamix_bench.models plugin 'hum' is left out: .*{reason}"):
        plugins = registry.models()
    assert "hum" not in plugins
    assert "audiomae" in plugins


def test_a_taken_name_stays_with_its_owner(install: Callable[..., None]) -> None:
    install("audiomae")
    with pytest.warns(UserWarning, match="'audiomae' is left out: stranger_audiomae:Hum: the name is taken"):
        plugins = registry.models()
    assert plugins["audiomae"].entry_point.value.startswith("uamix_bench.")


def test_a_package_that_fails_to_import_is_named(install: Callable[..., None]) -> None:
    install("hum", module="raise RuntimeError('no such\\nluck')")
    with pytest.raises(BadInputError, match=r"stranger_hum:Hum: fails to import \(RuntimeError: no such luck\)"):
        load_model("hum")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("audiome", "did you mean 'audiomae'?"),
        ("uamix-tin", "did you mean 'uamix-tiny'?"),
        ("zzz", "known: audiomae, audiomae-tiny, "),
    ],
)
def test_an_unknown_model_suggests_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        registry.find_model(name)
    assert str(caught.value).startswith(f"--model {name}: no such model; {hint}")
    assert caught.value.exit_code == 2


def test_an_unknown_task_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no such task; did you mean 'esc50'\?"):
        registry.find_task("esc-50")


def test_names_and_ids_resolve() -> None:
    plugin, weights = registry.find_model("uamix")
    assert weights is not None
    assert (plugin.name, weights.id) == ("uamix", "uamix-tiny")
    assert registry.find_model("audiomae")[1] is None
    assert registry.find_model("audiomae-tiny")[0].name == "audiomae"


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        (None, "Hum", "no such file; give --model FILE.py:NAME"),
        ("x = 1", "Hum", "defines no 'Hum'; known: x"),
        ("Ham = 1", "Hum", "defines no 'Hum'; did you mean 'Ham'?"),
        ("1 / 0", "Hum", r"fails to import \(ZeroDivisionError: division by zero\); repair the file"),
        ("def", "Hum", r"fails to import \(SyntaxError: "),
        ("Hum = 1", "Hum", "is not a subclass of uamix_bench.AudioModel"),
    ],
)
def test_faults_of_a_users_file(tmp_path: Path, text: str | None, name: str, reason: str) -> None:
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInputError, match=reason) as caught:
        load_model(f"{path}:{name}")
    assert str(path) in str(caught.value)


def test_a_users_file_loads(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(CARD.format(name="mine"))
    (tmp_path / "mine.py").write_text(MODULE)
    assert registry.from_file(f"{tmp_path / 'mine.py'}:Hum", "--model").card.name == "mine"


# --- the contract of a registered model

PLUGINS = {name: plugin for name, plugin in registry.models().items() if not plugin.card.reference}
RUNNABLE = [name for name, plugin in PLUGINS.items() if not plugin.card.needs_weights] + list(
    registry.bundled_weights()
)
# Builds each model at the size of its card from the names in its adapter's module.
FULL_SIZE: dict[str, Callable[[Any], AudioModel]] = {
    "audiomae": lambda module: module.AudioMAE(ViTShape()),
    "uamix": lambda module: module.UaMixMAE(ViTShape()),
    "m2d": lambda module: module.M2D(module.Sizes(608, 16, 16, "16k")),
    "maskspec": lambda module: module.MaskSpec(),
    "beats": lambda module: module.BEATs(
        module.Config(input_patch_size=16, deep_norm=True, relative_position_embedding=True, gru_rel_pos=True)
    ),
    "mae-ast": lambda module: module.MAEAST(
        module.Config(
            ast_kernel_size_time=16,
            ast_kernel_size_chan=16,
            ast_kernel_stride_time=16,
            ast_kernel_stride_chan=16,
            enc_sine_pos=True,
        )
    ),
}


@pytest.mark.parametrize("name", PLUGINS)
def test_a_card_says_what_a_reader_needs(name: str) -> None:
    card: ModelCard = PLUGINS[name].card
    if card.needs_weights:
        assert card.paper
        assert card.citation
        assert card.pretrained_on
        assert card.files
    assert all(file.url or file.page for file in card.files)
    for file in card.files:  # uaMix-MAE's authors publish none, and statistics are no weights
        holds_weights = name != "uamix" and not file.name.endswith(".npy")
        assert (file.evidence is not None) == holds_weights, file.name
    if found := re.match(r"(\d+)M", card.parameters_published):
        differs = card.parameters is not None and abs(card.parameters / 1e6 - int(found[1])) > 0.5
        assert not differs or re.search(r"\(.+\)|:", card.parameters_published), "and why it differs"
    assert card.parameters_published or not card.needs_weights
    assert len({entry.id for entry in card.weights} | set(PLUGINS)) == len(card.weights) + len(PLUGINS)


@pytest.mark.parametrize("name", PLUGINS)
def test_a_card_agrees_with_the_module(name: str) -> None:
    adapter, card = PLUGINS[name].load(), PLUGINS[name].card
    assert issubclass(adapter, AudioModel)
    assert adapter.card == card
    if card.needs_weights:
        with torch.device("meta"):
            model = FULL_SIZE[name](sys.modules[adapter.__module__])
    else:
        model = adapter.untrained()
    assert sum(parameter.numel() for parameter in model.parameters()) == card.parameters
    assert (model.embedding_dim, model.sample_rate) == (card.embedding_dim, card.sample_rate)
    assert model.pooling == model.poolings[0]
    assert len(set(model.poolings)) == len(model.poolings)
    walked = [id(parameter) for layer in model.layers() for parameter in layer.parameters()]
    assert len(set(walked)) == len(walked)
    assert set(walked) <= {id(parameter) for parameter in model.parameters()}
    columns = [model.token_columns(samples) for samples in range(1, 12 * model.sample_rate, 777)]
    assert columns == sorted(columns)
    assert columns[0] >= 0


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_model_embeds(name: str) -> None:
    model = load_model(name)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    rng = np.random.default_rng(0)
    clips = [(0.1 * rng.standard_normal(length)).astype(np.float32) for length in (160, 16_000, 30_000, 16_000)]
    for pooling in model.poolings:
        model.pooling = pooling
        rows = model.embed(clips, model.sample_rate)
        assert (rows.shape, rows.dtype) == ((4, model.embedding_dim), np.float32)
        assert np.isfinite(rows).all()
        assert np.array_equal(rows, model.embed(clips, model.sample_rate))
        alone = np.concatenate([model.embed([clip], model.sample_rate) for clip in clips])
        assert np.abs(rows - alone).max() <= 1e-5 * np.abs(alone).max()
        assert np.abs(rows[1] - rows[3]).max() > 1e-3  # two noises of one length are not one
        assert model.embed([], model.sample_rate).shape == (0, model.embedding_dim)


@pytest.mark.parametrize("name", registry.bundled_weights())
def test_bundled_weights_say_how_they_were_made(name: str) -> None:
    plugin, weights = registry.bundled_weights()[name]
    path = plugin.folder / weights.file
    assert path.stat().st_size <= 6_000_000
    metadata = read_checkpoint(path).metadata
    assert {"kind", "recipe", "recipe_sha256", "train_seed", "git_revision", "history", "data"} <= metadata.keys()
    identity = load_model(name).identity
    assert identity is not None
    assert (identity.name, identity.licence) == (name, weights.licence)
    assert identity.pretrained_on == weights.pretrained_on
    assert identity.recipe_sha256 == metadata["recipe_sha256"]


# --- reports


def test_a_strangers_report_is_found_and_ours_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger_report.py").write_text("def sketch(records, **options):\n    return (records, options)\n")
    info = tmp_path / "stranger_report-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger_report\nVersion: 1.0\n")
    points = "[uamix_bench.reports]\nsketch = stranger_report:sketch\nbroken = stranger_report:nothing\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    assert list(registry.reports()) == sorted(registry.reports())
    assert registry.find_report("sketch")([], width=1) == ([], {"width": 1})
    with pytest.raises(BadInputError, match="stranger_report:nothing: fails to import"):
        registry.find_report("broken")
    with pytest.raises(UsageError, match=r"skech: no such report; did you mean 'sketch'\?"):
        registry.find_report("skech")
