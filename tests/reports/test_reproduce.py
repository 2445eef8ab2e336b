"""The paper beside ours: differences by hand, what is not comparable not judged, what is missing said plainly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from uamix_bench.data.prepare import Copy
from uamix_bench.plugins import registry
from uamix_bench.records.results import Result
from uamix_bench.reports.reproduce import Outcome, outcomes, report
from uamix_bench.scoring.protocol import PAPER, Protocol
from uamix_bench.studies.paper import ARMS, TARGETS, Settings
from uamix_bench.studies.reproduce import Here, Reproduction, plan

from .records import result

VIT_B = 85_254_144


@pytest.fixture(autouse=True)
def _empty_home(bench_home: Path) -> None:
    """No data set is here."""


def planned(
    target: str,
    state: str = "here",
    weights: tuple[str, ...] = ("audiomae", "beats", *ARMS),
    settings: Settings | None = None,
) -> Reproduction:
    models = {name: plugin.card for name, plugin in registry.models().items()}
    tasks = {name: plugin.card for name, plugin in registry.tasks().items()}
    wanted = TARGETS[target]
    copies: Any = {task: Copy(task, state, Path(), (), ()) for task in wanted.tasks}  # type: ignore[arg-type]
    return plan(wanted, models, tasks, Here(copies, {name: Path(name) for name in weights}), settings)


def made(model: str, rate: float, **changes: Any) -> Result:
    return result(model, rate, **{"protocol": PAPER, "parameters": VIT_B, "task": "esc50"} | changes)


def test_the_difference_and_its_interval_are_those_by_hand() -> None:
    one = made("audiomae", 0.6)
    found = outcomes(planned("table2"), [one])["audiomae", "esc50"]
    ours, half = 100 * one.score.accuracy, 100 * (one.score.ci95 or 0)
    assert found.paper == (61.1, 0.9)
    assert found.difference == pytest.approx((ours - 61.1, math.hypot(half, 0.9)))
    assert found.agrees is (abs(ours - 61.1) <= math.hypot(half, 0.9))


@pytest.mark.parametrize(("ours", "agrees"), [((62.0, 0.9), True), ((62.3, 0.9), True), ((62.4, 0.9), False)])
def test_intervals_agree_within_the_root_of_the_sum_of_squares(ours: tuple[float, float], agrees: bool) -> None:
    assert Outcome((61.1, 0.9), ours).agrees is agrees  # 0.9 x sqrt(2) = 1.27


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": "1-miniature"}, "a miniature"),
        ({"complete": False}, "a part of the data"),
        ({"protocol": Protocol(name="custom", episodes=50)}, "50 episodes"),
        ({"protocol": Protocol(name="custom", seed=3)}, "seed 3"),
        ({"protocol": PAPER.model_copy(update={"n_way": 10})}, "10-way 1-shot"),
        ({"parameters": 2_719_104}, "a model of 2.7M parameters, not 85M"),
    ],
)
def test_what_is_not_comparable_is_shown_and_not_judged(changes: dict[str, Any], why: str) -> None:
    version = changes.pop("version", "1")
    one = made("audiomae", 0.6, **changes)
    parts = {name: value for name, value in one if name not in ("schema_version", "kind", "id")}
    one = Result.create(**parts | {"task": one.task.model_copy(update={"version": version})})
    made_with = planned("table2", settings=Settings(ways=(5, 10)))
    found = outcomes(made_with, [one])["audiomae", "esc50"]
    assert (found.why_not, found.difference, found.agrees) == (why, None, None)
    page = report([one], plans=[made_with])
    assert f"not comparable: {why}" in page.markdown
    assert "1 of 30 cells are measured here, 0 can be compared, 0 agree." in page.markdown


def test_of_several_settings_the_paper_s_is_compared() -> None:
    results = [made("audiomae", 0.6, protocol=PAPER.model_copy(update={"n_way": ways})) for ways in (5, 10)]
    found = outcomes(planned("table2", settings=Settings(ways=(5, 10))), results)["audiomae", "esc50"]
    assert found.ours is not None
    assert found.ours[0] == pytest.approx(100 * results[0].score.accuracy)
    assert found.agrees is not None


def test_the_page_shows_paper_ours_difference_and_what_is_missing() -> None:
    results = [made("audiomae", 0.6), made("uamix", 0.9)]
    page = report(results, plans=[planned("table2", weights=("audiomae", "uamix"))])
    rows = {line.split(" | ")[0].strip("| "): line for line in page.markdown.splitlines() if line.startswith("| ")}
    assert "66.3 ± 0.9" in page.markdown
    assert "ours is higher" in page.markdown
    assert "| beats | 48.6 ± 0.8 | missing |  | no weights of beats |" in page.markdown
    assert "not given" in page.markdown  # MaskSpec on VoxCeleb1
    assert rows["weights of m2d"].endswith("or --checkpoint m2d=PATH |")
    assert "Assumed: 600 episodes" in page.markdown
    assert "2 of 30 cells are measured here, 2 can be compared" in page.markdown


def test_a_model_that_may_know_the_task_is_marked() -> None:
    one = made("audiomae", 0.6)
    parts = {name: value for name, value in one if name not in ("schema_version", "kind", "id")}
    trained = one.model.model_copy(update={"pretrained_on": ("ESC-50",)})
    page = report([Result.create(**parts | {"model": trained})], plans=[planned("table2")]).markdown
    (row,) = [line for line in page.splitlines() if line.startswith("| audiomae |") and "†" in line]
    assert f"{100 * one.score.accuracy:.1f} ± {100 * (one.score.ci95 or 0):.1f} † |" in row
    assert "† The model was trained on data of this task" in page.partition("## Our results")[0]


def test_mixings_are_told_by_the_names_of_their_models() -> None:
    found = outcomes(planned("table3"), [made("uamix-none", 0.487)])
    assert {model: found[model, "esc50"].paper for model in ("uamix-none", "uamix-mixup", "uamix")} == {
        "uamix-none": (48.7, 0.8),
        "uamix-mixup": (62.6, 0.9),
        "uamix": (66.3, 0.9),
    }
    assert found["uamix", "fsdkaggle2018"].paper == (43.6, 1.8)
    page = report([], plans=[planned("table3")])
    assert "None of 15 cells is measured here yet." in page.markdown
    assert "Table 3 gives the uaMix-MAE row on Kaggle18" in page.markdown


def test_figures_draw_ours_alone_and_several_targets_share_a_page() -> None:
    cells = [made("audiomae", 0.5, protocol=PAPER.model_copy(update={"n_way": n, "k_shot": k})) for n, k in CELLS]
    cells += [made("uamix", 0.7, protocol=one.protocol) for one in cells]
    page = report(cells, plans=[planned("fig3"), planned("fig5"), planned("table4"), planned("fig6")])
    assert page.markdown.count("Accuracy over shots, 5-way") == 2  # of fig3, and of fig5 with uamix alone
    assert "values are not published as numbers" in page.markdown
    assert page.html.count("<h1") == 1
    assert "MAE-AST, patch" in page.markdown  # published fine-tunings beside the missing Table 4
    assert "Missing: audiomae, uamix." in page.markdown


CELLS = ((5, 1), (10, 1), (5, 5))


def test_what_was_set_aside_is_told() -> None:
    page = report([], plans=[planned("fig4", "miniature")], set_aside=["<script> | x"])
    assert "Set aside" in page.markdown
    assert "<script> |" not in page.html
    assert "Miniatures stand in for esc50" in page.markdown
