"""``uamix-bench tune``: uaMix-MAE's contrastive tuning."""

from __future__ import annotations

from typing import Any

import click

from uamix_bench.cli import commands, options, training
from uamix_bench.cli.errors import Session


@commands.command("tune")
@click.option(
    "--init",
    default="audiomae-tiny",
    show_default=True,
    metavar="MODEL",
    help="Pretrained encoder: audiomae=PATH (or the path alone), audiomae-tiny, FILE.py:CLASS[=PATH].",
)
@click.option("--mix", type=options.MIXINGS, help="Unsupervised mixing; default the recipe's.")
@training.common
@click.pass_obj
def command(session: Session, /, init: str, **how: Any) -> None:
    """Tune a pretrained AudioMAE encoder with nearest-neighbour contrast on unsupervised mixtures.

    Stage 1 trains the head on the frozen encoder, stage 2 the upper half and the head on mixtures. `tune --recipe tiny
    --mix t-cutmix` makes the bundled uamix-tiny; `--recipe paper --init pretrained.pth --data AUDIO` is the paper's
    scale. If a run is killed, repeat the command to resume it. Several processes, on one or more machines with a
    shared --out, train as one: `torchrun --nproc-per-node 2 -m uamix_bench tune ...`.
    """
    from uamix_bench.tuning.recipe import TUNE, TuneRecipe

    training.carry_out(session, TUNE, TuneRecipe, init, **how)
