"""A checkpoint that is given to another model: which of the five it belongs to is said, whoever wrote the file."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from uamix_bench import load_model
from uamix_bench.models.convert import convert
from uamix_bench.util.errors import BadInputError

from .official import FORMATS, checkpoint, vit_state


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Of each model, its official file and the one that `models convert` makes of it."""
    folder = tmp_path_factory.mktemp("formats")
    found = {}
    for name in FORMATS:
        official = checkpoint(name, folder)
        own = folder / f"{name}.safetensors"
        convert(load_model(name, official, device="cpu"), own)
        found[name] = [official, own]
    return found


@pytest.mark.parametrize(("asked", "given"), list(permutations(FORMATS, 2)))
def test_the_other_model_is_named(files: dict[str, list[Path]], asked: str, given: str) -> None:
    for path in files[given]:
        with pytest.raises(BadInputError, match=rf"is a checkpoint of {given}, not of .*; give it as {given}=PATH"):
            load_model(asked, path, device="cpu")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "encoder.", "module._orig_mod.model."])
@pytest.mark.parametrize("name", FORMATS)
def test_what_wrappers_put_before_the_keys_changes_nothing(
    files: dict[str, list[Path]], name: str, prefix: str, tmp_path: Path
) -> None:
    """Also of our own files, and beside tensors of others."""
    path = files[name][0]
    content = torch.load(path, weights_only=False)
    content["model"] = {f"{prefix}{key}": value for key, value in content["model"].items()}
    content["model"]["head.weight"] = torch.ones(3)
    wrapped = tmp_path / path.parent.name / path.name  # M2D's folder says its sizes
    wrapped.parent.mkdir()
    torch.save(content, wrapped)
    own = torch.load(wrapped, weights_only=False)
    own["model"] = {f"{prefix}{key}": value for key, value in load_file(files[name][1]).items()}
    torch.save(own, wrapped.with_name("own.pth"))
    expected = load_model(name, path, device="cpu").state_dict()
    for file in (wrapped, wrapped.with_name("own.pth")):
        found = load_model(name, file, device="cpu").state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items())
    if name != "m2d":
        with pytest.raises(BadInputError, match=rf"is a checkpoint of {name}, not of M2D"):
            load_model("m2d", wrapped, device="cpu")


@pytest.mark.parametrize("name", FORMATS)
def test_a_prefix_that_no_wrapper_writes_is_named(files: dict[str, list[Path]], name: str, tmp_path: Path) -> None:
    content = torch.load(files[name][0], weights_only=False)
    content["model"] = {f"online.{key}": value for key, value in content["model"].items()}
    path = tmp_path / files[name][0].parent.name / "m.pth"
    path.parent.mkdir()
    torch.save(content, path)
    with pytest.raises(BadInputError, match=r"its keys begin with 'online\.', which no known wrapper puts there; save"):
        load_model(name, path, device="cpu")


def m2d(patch: tuple[int, int], positions: int, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + key: value for key, value in vit_state(64, 1, patch, positions).items()}


@pytest.mark.parametrize(
    "tensors",
    [
        m2d((16, 16), 5 * 38),
        m2d((16, 16), 5 * 62, "module.ar.runtime.backbone."),
        m2d((16, 4), 5 * 50, "backbone."),
        m2d((80, 2), 304),
    ],
    ids=["80x608p16x16", "80x1001p16x16-finetuned", "80x200p16x4", "80x608p80x2"],
)
def test_every_size_of_m2d_is_known(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": tensors}, tmp_path / "renamed.pth")
    for name in FORMATS.keys() - {"m2d"}:
        with pytest.raises(BadInputError, match="is a checkpoint of m2d, not of"):
            load_model(name, tmp_path / "renamed.pth", device="cpu")


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight": torch.ones(2)},
        {**m2d((16, 16), 196), "patch_embed.proj.weight": torch.ones(64, 3, 16, 16)},
        m2d((16, 16), 8 * 101),
        {**m2d((16, 16), 190), "patch_embed.proj.weight": torch.ones(64, 1, 0, 16)},
    ],
    ids=["no transformer", "of images", "101 columns", "no patch"],
)
def test_what_is_of_none_is_not_given_a_name(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "other.pth")
    for name in FORMATS:
        with pytest.raises(BadInputError) as caught:
            load_model(name, tmp_path / "other.pth", device="cpu")
        assert "is a checkpoint of" not in str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_other_weights_under_a_prefix_are_said(files: dict[str, list[Path]], name: str, tmp_path: Path) -> None:
    official = files[name][0]
    content = torch.load(official, weights_only=False)
    average = {f"ema.{key}": value + 1 for key, value in content["model"].items()}
    path = tmp_path / official.parent.name / "m.pth"  # M2D's folder says its sizes
    path.parent.mkdir()
    torch.save({**content, "model": {**content["model"], **average}}, path)
    with pytest.warns(UserWarning, match=r"are those without a prefix; under 'ema.' are others") as caught:
        model = load_model(name, path, device="cpu")
    assert len(caught) == 1
    assert "under 'ema.' are others" in model.remarks[0]
    expected = load_model(name, official, device="cpu").state_dict()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in expected.items())
