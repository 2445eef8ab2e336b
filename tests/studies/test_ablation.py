"""The plan of an ablation as pure data: which arms there are, what they share, and where each is kept."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from uamix_bench.studies.ablation import Ablation, plan
from uamix_bench.tuning.fields import changed, find_field, read_values
from uamix_bench.tuning.recipe import MIXINGS, TUNE, VIEWS, Mixing
from uamix_bench.util.errors import UsageError

TINY = TUNE["tiny"]
SIZES: dict[str, st.SearchStrategy[list[Any]]] = {
    "top_k": st.lists(st.integers(1, 50), min_size=1, max_size=3),
    "alpha": st.lists(st.floats(0.1, 4.0), min_size=1, max_size=3),
    "epochs": st.lists(st.integers(1, 9), min_size=1, max_size=2),
}


@given(
    st.lists(st.sampled_from(MIXINGS), min_size=1, unique=True),
    st.dictionaries(st.sampled_from(sorted(SIZES)), st.just(None), max_size=2),
    st.integers(1, 3),
    st.data(),
)
def test_a_plan_is_the_product_without_what_trains_equally(
    mixings: list[Mixing], names: dict[str, None], seeds: int, data: st.DataObject
) -> None:
    vary = {name: data.draw(SIZES[name]) for name in names}
    arms = plan(TINY, mixings, vary, range(seeds))
    wanted = {
        changed(TINY, {"seed": seed, "mix": mix, **dict(zip(vary, values, strict=True))}).effective().sha256
        for seed in range(seeds)
        for mix, *values in itertools.product(mixings, *vary.values())
    } | {changed(TINY, {"seed": seed, "mix": "t-cutmix"}).effective().sha256 for seed in range(seeds)}
    assert sorted(arm.recipe.effective().sha256 for arm in arms) == sorted(wanted)
    assert [arm.recipe.seed for arm in arms] == sorted(arm.recipe.seed for arm in arms)
    for seed, own in itertools.groupby(arms, lambda arm: arm.recipe.seed):
        first, *others = own
        assert first.reference
        assert first.recipe == changed(TINY, {"seed": seed, "mix": "t-cutmix"})
        assert not any(arm.reference for arm in others)
        assert len({arm.label for arm in others} | {first.label}) == len(others) + 1


def test_without_a_word_tf_cutmix_stands_against_the_reference() -> None:
    assert [(arm.label, arm.reference) for arm in plan(TINY)] == [("t-cutmix", True), ("tf-cutmix", False)]
    arms = plan(TINY, vary={"topk": [1, 5, 20]})
    assert [arm.label for arm in arms] == ["t-cutmix top_k=5", "t-cutmix top_k=1", "t-cutmix top_k=20"]


def test_alpha_means_nothing_where_nothing_is_mixed() -> None:
    arms = plan(TINY, ["none", "mixup"], {"alpha": [0.5, 2.0]})
    assert [arm.label for arm in arms] == ["t-cutmix alpha=1.0", "none", "mixup alpha=0.5", "mixup alpha=2.0"]
    assert arms[1].varied == {"mix": "none", "alpha": 1.0}


def test_arms_of_one_seed_share_stage_1_unless_it_is_varied(bench_home: Path) -> None:
    def heads(vary: dict[str, list[Any]], seeds: int) -> int:
        ablation = Ablation(plan(TINY, MIXINGS, vary, range(seeds)), "audiomae-tiny", TINY.data)
        jobs = [ablation.job(arm) for arm in ablation.arms]
        assert {job.head for job in jobs} == {job.folder for job in ablation.heads()}
        assert len({job.folder for job in jobs}) == len(jobs)
        assert all(job.folder.is_relative_to(bench_home / "training") for job in jobs)
        return len(ablation.heads())

    assert heads({"alpha": [0.5, 1.0]}, 2) == 2
    assert heads({"temperature": [0.1, 0.2]}, 1) == 3  # the reference's own and two others


def test_clips_and_learning_rates_are_axes_and_all_is_a_number_of_clips() -> None:
    base = changed(TINY, {"steps": 300})
    arms = plan(base, ["none"], {"clips": [240, "all"], "lr": [1e-3]})
    assert [arm.label for arm in arms] == [
        "t-cutmix clips=all learning_rate=0.0003",
        "none clips=240 learning_rate=0.001",
        "none clips=all learning_rate=0.001",
    ]
    assert [arm.recipe.clips for arm in arms] == [None, 240, None]
    assert {arm.recipe.steps for arm in arms} == {300}
    assert not changed(TINY, {"head_steps": 0}).trains_head


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ({"alfa": [1]}, "--vary alfa: no such field of the recipe; did you mean 'alpha'?"),
        ({"views.strech": [1]}, "did you mean 'stretch'?"),
        ({"top_k.x": [1]}, "no such field"),
        ({"alpha": [-1]}, "greater than 0"),
        ({"topk": [1.5]}, "valid integer"),
        ({"queue": [1000]}, "multiple of the batch"),
        ({"mix": ["none"]}, "use --mix"),
        ({"seed": [1]}, "use --seeds"),
        ({"data": ["x"]}, "use --data"),
        ({"alpha": []}, "has no value"),
    ],
)
def test_fields_that_cannot_be_varied_are_named(vary: dict[str, list[Any]], words: str) -> None:
    with pytest.raises(UsageError) as raised:
        plan(TINY, ["none"], vary)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("topk", "top_k"),
        ("TOP-K", "top_k"),
        ("lr", "learning_rate"),
        ("tau", "temperature"),
        ("views.melmask", "views.mel_mask"),
    ],
)
def test_fields_have_short_names(given: str, name: str) -> None:
    assert find_field(TINY, given, "--vary") == name


def test_a_preset_may_be_changed_in_part() -> None:
    views = changed(TINY, {"views.stretch": 0.1, "views": "mtslvr"}).views
    assert (views.stretch, views.pitch) == (0.1, VIEWS["mtslvr"].pitch)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,5,20", [1, 5, 20]),
        ("0.5, 1", [0.5, 1]),
        ("[48,64],[80]", [[48, 64], [80]]),
        ("crop,mtslvr", ["crop", "mtslvr"]),
        ("null,1.0", [None, 1.0]),
        ("NaN,1", ["NaN", 1]),
    ],
)
def test_values_are_json_or_words(text: str, values: list[Any]) -> None:
    assert read_values(text) == values


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys; from uamix_bench.studies.ablation import Ablation, plan; "
        "from uamix_bench.tuning.recipe import TUNE; "
        "a = Ablation(plan(TUNE['tiny'], ['none']), 'audiomae-tiny', 'synthetic:train'); a.heads(); "
        "import uamix_bench.comparison.deltas; print([name for name in ('torch', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
