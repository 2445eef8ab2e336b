"""``uamix-bench pretrain``: masked-autoencoder pre-training."""

from __future__ import annotations

from typing import Any

import click

from uamix_bench.cli import commands, training
from uamix_bench.cli.errors import Session


@commands.command("pretrain")
@click.option("--init", metavar="MODEL", help="Encoder to start from, as for tune; default random weights.")
@training.common
@click.pass_obj
def command(session: Session, /, init: str | None, **how: Any) -> None:
    """Pre-train an AudioMAE encoder on unlabelled sounds.

    `pretrain --recipe tiny` makes the bundled audiomae-tiny. With --init an encoder's masked training goes on, beside
    a new decoder: on the sounds of one's own field, say. A run that was stopped or killed continues when the same
    command is given again.
    """
    from uamix_bench.tuning.recipe import PRETRAIN, PretrainRecipe

    training.carry_out(session, PRETRAIN, PretrainRecipe, init, **how)
