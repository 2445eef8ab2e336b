"""Names that results get from files and folders of weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from uamix_bench.models.own_weights import label


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("BEATs_iter3_plus_AS2M.pt", "BEATs_iter3_plus_AS2M"),
        ("runs/pretrained.pth", "pretrained"),
        ("runs/tuned-a/model.safetensors", "tuned-a"),
        ("m2d_vit_base-80x608p16x16-221006-mr7/checkpoint-300.pth", "m2d_vit_base-80x608p16x16-221006-mr7"),
        ("runs/a/pytorch_model.bin", "a"),
        ("runs/b/epoch=12-step=400.ckpt", "b"),
        ("runs/modelling.pt", "modelling"),
        ("runs/_é, é.pt", "model-x"),
        ("runs/.hidden/best.pt", "hidden"),
        ("runs/n" + 90 * "o" + ".pt", "n" + 79 * "o"),
    ],
)
def test_a_file_gives_its_name_or_that_of_its_folder(path: str, name: str) -> None:
    assert label(Path(path), "model-x") == name


def test_a_folder_gives_its_name(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    assert label(tmp_path / "best", "model-x") == "best"
