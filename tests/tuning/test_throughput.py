"""The faster precision of a processor, by what its system says of it, and the recipes that name it ``auto``."""

from __future__ import annotations

from pathlib import Path

import pytest

from uamix_bench.cli.training import change
from uamix_bench.tuning import throughput
from uamix_bench.tuning.recipe import PRETRAIN, TUNE
from uamix_bench.util.errors import UsageError


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512f avx512_bf16 avx512_vnni", "bfloat16"),
        ("fpu avx512f amx_bf16 amx_tile", "bfloat16"),
        ("fpu avx2 avx512f avx512_vnni", "float32"),  # which only emulates it
        (None, "float32"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_multiplies_it(
    flags: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "_CPU_FACTS", tmp_path / "cpuinfo")
    if flags:
        (tmp_path / "cpuinfo").write_text(f"model name\t: a processor\nflags\t\t: {flags}\n")
    for recipe in (TUNE["tiny"], TUNE["paper"], PRETRAIN["tiny"]):
        asked = change(recipe, {}, ("precision=auto",), "cpu")
        assert asked == recipe.model_copy(update={"precision": expected})
        assert asked.sha256 == change(recipe, {}, (f"precision={expected}",), "cpu").sha256


def test_auto_without_a_device_is_no_precision() -> None:
    with pytest.raises(UsageError, match="precision: Input should be 'float32' or 'bfloat16'"):
        change(TUNE["tiny"], {}, ("precision=auto",))
