"""``uamix-bench ablate``: a grid of recipes, tuned, evaluated on the same episodes, and compared with the paper's."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uamix_bench.cli import options, selection, training
from uamix_bench.cli.errors import Session
from uamix_bench.errors import UsageError

if TYPE_CHECKING:
    from uamix_bench.ablation import Ablation
    from uamix_bench.deltas import Delta
    from uamix_bench.episodes import Protocol
    from uamix_bench.task import TaskData
    from uamix_bench.training_records import AblationRecord
    from uamix_bench.tuning.forecast import Forecast

_COUNT = click.IntRange(1, 2**31 - 1)
_COUNTS = options.CommaList(_COUNT, "N[,N...]")
_MIXINGS = click.Choice(["none", "mixup", "t-cutmix", "tf-cutmix"])


@click.command("ablate")
@click.option(
    "--mix",
    multiple=True,
    type=options.CommaList(_MIXINGS, "MIX[,...]"),
    callback=options.merged,
    help="none, mixup, t-cutmix, tf-cutmix; default tf-cutmix, or t-cutmix alone where --vary is given.",
)
@click.option(
    "--vary",
    multiple=True,
    metavar="FIELD=V[,V...]",
    help="Vary a field of the recipe, as in topk=1,5,20; repeated, every combination.",
)
@click.option("--seeds", type=click.IntRange(1, 1_000), default=1, show_default=True, help="Trainings of each, seeds 0..")
@click.option("--recipe", default="tiny", show_default=True, help="Name of a recipe, or a JSON file of one.")
@click.option("--init", default="audiomae-tiny", show_default=True, metavar="MODEL", help="Pretrained encoder; as tune.")
@click.option("--data", metavar="DATA", help="Sounds to tune on, as in tune; default the recipe's.")
@click.option("--set", "changes", multiple=True, metavar="FIELD=VALUE", help="Change a field of the recipe for all.")
@click.option(
    "-t",
    "--task",
    multiple=True,
    type=options.CommaList(metavar="NAME[,...]"),
    callback=options.merged,
    default=["synthetic"],
    show_default=True,
    help="Tasks to evaluate on: names, globs, all, a folder, a CSV.",
)
@click.option("--n", "--way", type=_COUNTS, default="5", show_default=True, help="Classes of an episode.")
@click.option("--k", "--shot", type=_COUNTS, default="1", show_default=True, help="Supports of each class.")
@click.option("--q", "--query", type=_COUNT, help="Queries of each class; default 15, the paper's.")
@click.option("--episodes", type=_COUNT, help="How many; default 600, the paper's.")
@click.option("--data-dir", metavar="DIR", callback=options.to_path, help="Folder of the data sets.")
@click.option("--audio-root", metavar="DIR", callback=options.to_path, help="What a CSV's paths are relative to.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Trainings at once; default 2 on a processor, 1 with a GPU.")
@click.option("--batch-size", type=_COUNT, default=16, show_default=True, help="Of the evaluation.")
@click.option("--keep-going", is_flag=True, help="Set arms that fail aside; exit code 6.")
@click.option("--out", metavar="DIR", callback=options.to_path, default="uamix-report", show_default=True)
@click.option("--dry-run", is_flag=True, help="List the arms and how long they will take, and stop.")
@options.device
@options.config
@options.quiet
@options.json_output
@click.pass_obj
def command(
    session: Session,
    /,
    mix: tuple[Any, ...],
    vary: tuple[str, ...],
    seeds: int,
    recipe: str,
    init: str,
    data: str | None,
    changes: tuple[str, ...],
    task: tuple[str, ...],
    n: tuple[int, ...],
    k: tuple[int, ...],
    q: int | None,
    episodes: int | None,
    data_dir: Path | None,
    audio_root: Path | None,
    jobs: int | None,
    batch_size: int,
    keep_going: bool,
    out: Path,
    dry_run: bool,
    device: str,
    quiet: bool,
) -> int:
    """Tune variants of a recipe from the same weights and compare them on the same episodes.

    Without options: tf-cutmix against the paper's t-cutmix, from audiomae-tiny with the tiny recipe, on the bundled
    synthetic sounds. The table shows every arm's difference to the recipe's own setting with t-cutmix; report.html,
    report.md and ablation.json, which holds every episode, go to --out. Every arm is kept under the digest of its
    recipe: what is there is reused, and the same command continues what was stopped or killed.
    """
    items = session.begin("ablate")
    from uamix_bench import ablation as library
    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.files import check_writable, home
    from uamix_bench.own_data import is_path
    from uamix_bench.provenance import scrub
    from uamix_bench.tuning.recipe import TUNE, TuneRecipe

    base = training.change(training.find(TUNE, recipe, TuneRecipe), {"data": data}, changes)
    arms = library.plan(base, mix, _varied(vary), range(seeds) if seeds > 1 else (base.seed,))
    protocols = [_protocol(ways, shots, q, episodes) for ways in n for shots in k]
    workers = jobs or (1 if _may_have_gpu(device) else 2)
    workers = max(1, min(workers, len(arms)))
    ablation = library.Ablation(
        [arm for arm in arms],
        init,
        base.data,
        data_dir,
        audio_root,
        device,
        workers,
        max(1, _cores() // workers),
    )
    return 0
