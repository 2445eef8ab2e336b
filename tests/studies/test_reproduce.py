"""Plans of the paper's tables and figures: plain data from cards and from what is here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uamix_bench.data.prepare import Copy
from uamix_bench.plugins import registry
from uamix_bench.plugins.card import ModelCard, TaskCard
from uamix_bench.records.store import ResultStore
from uamix_bench.scoring.protocol import PAPER
from uamix_bench.studies.paper import ARMS, TARGETS, Settings, find_targets
from uamix_bench.studies.reproduce import Here, Reproduction, Step, expected_clips, find_here, plan
from uamix_bench.util import files
from uamix_bench.util.errors import UsageError

ALL = {"mae-ast", "maskspec", "beats", "m2d", "audiomae"}


@pytest.fixture(scope="module")
def models() -> dict[str, ModelCard]:
    return {name: plugin.card for name, plugin in registry.models().items()}


@pytest.fixture(scope="module")
def tasks() -> dict[str, TaskCard]:
    return {name: plugin.card for name, plugin in registry.tasks().items()}


def here(weights: set[str] = frozenset(), states: Mapping[str, str] | None = None, **more: Any) -> Here:  # type: ignore[assignment]
    """A machine with the weights of some models, and every data set but those in another state."""
    copies = {
        task: Copy(task, (states or {}).get(task, "here"), Path("/data") / task, ("a", "b"), ())  # type: ignore[arg-type]
        for target in TARGETS.values()
        for task in target.tasks
    }
    return Here(copies, {name: Path(f"/{name}.pth") for name in weights}, **more)


Planner = Any


@pytest.fixture
def planned(models: dict[str, ModelCard], tasks: dict[str, TaskCard]) -> Planner:
    def make(target: str, found: Here, settings: Settings | None = None) -> Reproduction:
        return plan(TARGETS[target], models, tasks, found, settings)

    return make


def test_every_target_names_models_tasks_and_cells_that_exist(
    models: dict[str, ModelCard], tasks: dict[str, TaskCard]
) -> None:
    assert list(TARGETS) == ["table2", "table3", "fig3", "fig4", "fig5", "table4", "fig6"]
    for target in TARGETS.values():
        assert {name for name in target.models if name not in ARMS} <= set(models)
        assert set(target.tasks) <= set(tasks)
        assert target.assumed
    assert find_targets("all") == list(TARGETS.values())
    with pytest.raises(UsageError, match="did you mean 'table2'"):
        find_targets("tabel2")


def test_with_all_there_everything_runs_and_nothing_is_missing(planned: Planner) -> None:
    for name, target in TARGETS.items():
        made = planned(name, here({*ALL, *ARMS}))
        assert made.missing == ()
        assert [(job.model, job.task) for job in made.jobs] == [(m, t) for m in target.models for t in target.tasks]
        assert not any(job.lacks for job in made.jobs)
    assert len(planned("table2", here({*ALL, *ARMS})).jobs) == 30


def test_what_is_not_here_is_missing_once_with_the_line_that_gets_it(planned: Planner) -> None:
    made = planned("table2", here({"beats", "uamix"}, {"esc50": "absent", "nsynth": "partial"}))
    lines = {need.subject: need.remedy for need in made.missing}
    assert lines["esc50"] == "uamix-bench tasks prepare esc50"
    assert lines["nsynth"] == "uamix-bench tasks prepare nsynth (the copy here lacks a, b)"
    expected = "uamix-bench models fetch audiomae pretrained.pth, or --checkpoint audiomae=PATH"
    assert lines["weights of audiomae"] == expected
    assert set(lines) == {"esc50", "nsynth", *(f"weights of {name}" for name in ALL - {"beats"})}
    ready = {(job.model, job.task) for job in made.jobs if not job.lacks}
    assert ready == {(m, t) for m in ("beats", "uamix") for t in ("voxceleb1", "speech-commands", "fsdkaggle2018")}
    named = planned("fig6", here({"audiomae", "uamix"}, {"esc50": "absent"}, data_dir=Path("/mine")))
    assert named.missing[0].remedy == "uamix-bench tasks prepare esc50 --data-dir /mine"


def test_tuned_models_are_made_where_source_and_sounds_are_here(planned: Planner) -> None:
    made = planned("table3", here({"audiomae", "uamix-none"}, sounds="as20k.csv"))
    assert [(job.kind, job.model) for job in made.jobs[:2]] == [("tune", "uamix-mixup"), ("tune", "uamix")]
    assert made.missing == ()
    assert not any(job.lacks for job in made.jobs)
    lacking = planned("table3", here({"audiomae"}))
    (need,) = lacking.missing
    assert need.subject == "sounds to tune on"
    assert len(need.needed_by) == 15
    assert [job.lacks for job in lacking.jobs if job.kind == "tune"] == [("sounds to tune on",)] * 3
    bare = planned("fig5", here())
    assert {need.subject for need in bare.missing} == {"weights of audiomae", "sounds to tune on"}


def test_the_grid_is_two_lines_and_settings_replace_it(planned: Planner) -> None:
    assert set(planned("fig3", here()).cells) == {(5, 1), (10, 1), (20, 1), (30, 1), (5, 5), (5, 10), (5, 20)}
    assert planned("table2", here()).cells == ((5, 1),)
    assert planned("table4", here()).cells == ()
    small = Settings(ways=(3, 4), shots=(2,), protocol=PAPER.model_copy(update={"episodes": 10}))
    assert small.cells(TARGETS["fig3"]) == ((3, 2), (4, 2))
    assert Settings(ways=(3, 5), shots=(1, 2)).cells(TARGETS["fig3"]) == ((3, 1), (5, 1), (5, 2))
    assert (Settings().of_cell((9, 3)).name, small.of_cell((5, 1)).name) == ("paper", "custom")
    assert Settings().of_cell((5, 1)) == PAPER


def test_miniatures_are_named_and_estimates_leave_out_what_is_kept(planned: Planner) -> None:
    every = here({*ALL, *ARMS}, {"esc50": "miniature"})
    made = planned("table2", every)
    assert made.miniatures == ("esc50",)
    jobs = {(job.model, job.task): job for job in made.jobs}
    assert jobs["beats", "esc50"].clips == 0
    sizes = {job.clips for job in made.jobs if job.task == "voxceleb1"}
    assert sizes == {expected_clips(153_516, 600 * 5 * 16)}
    kept = here({*ALL, *ARMS}, kept=frozenset({("beats", "voxceleb1", (5, 1))}))
    (job,) = [job for job in planned("table2", kept).jobs if (job.model, job.task) == ("beats", "voxceleb1")]
    assert (job.kept, job.clips, job.flops()) == (1, 0, 0.0)


def test_expected_clips_are_those_of_a_draw() -> None:
    generator = np.random.default_rng(0)
    met = np.mean([len(np.unique(generator.integers(0, 300, 400))) for _ in range(300)])
    assert expected_clips(300, 400) == pytest.approx(met, rel=0.02)
    assert (expected_clips(10, 10_000), expected_clips(0, 5)) == (10, 0)


def test_operations_of_a_known_encoder() -> None:
    """A 10 s clip of ViT-B: 500 tokens, 2 x 86M x 500 operations, as fvcore counts without attention's products."""
    job = Step("few-shot", "m", "t", clips=1, clip_seconds=10.0, parameters=86_000_000)
    assert job.flops() == pytest.approx(86e9)
    assert math.isclose(job.flops(), 2 * 86e6 * 500)


def test_weights_are_found_where_models_fetch_leaves_them(
    bench_home: Path, tmp_path: Path, models: dict[str, ModelCard], tasks: dict[str, TaskCard]
) -> None:
    folder = files.home() / "checkpoints"
    zipped = models["m2d"].files[0].name.removesuffix(".zip")
    inside = folder / "m2d" / zipped / zipped / "checkpoint-300.pth"
    plain = folder / "beats" / "BEATs_iter3.pt"
    better = folder / "beats" / "BEATs_iter3_plus_AS2M.pt"
    for path in (inside, plain, better):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    mine = tmp_path / "mine.pth"
    found = find_here(
        [TARGETS["table2"]],
        models,
        tasks,
        data_dir=tmp_path,
        given={"audiomae": mine},
        sounds="",
        settings=Settings(),
        store=ResultStore(),
    )
    assert found.weights == {"m2d": inside, "beats": better, "audiomae": mine}
    assert {copy.state for copy in found.copies.values()} == {"absent"}
