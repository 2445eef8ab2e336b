"""``uamix-bench embed``: a model's embeddings of a task's clips as a file that ``--model emb:FILE`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from uamix_bench.cli import commands, inputs, options, selection
from uamix_bench.cli.errors import Session
from uamix_bench.util.errors import BadInputError


@commands.command("embed")
@inputs.models(
    options.checkpoint,
    options.model_arg,
    options.pooling,
    options.layer,
    options.trust_remote_code,
    options.input_length,
    options.device,
    options.dtype,
)
@inputs.places(options.task, options.allow_partial, options.keep_going)
@options.out(
    "File to write, .npz or .parquet: the clips' ids, their embeddings, and the digests of the sounds.",
    metavar="FILE",
    required=True,
)
@options.segments
@options.batch_size
@options.no_cache
@options.of_a_run
@click.pass_obj
def command(
    session: Session,
    /,
    models: inputs.Models,
    places: inputs.Places,
    output: Path,
    segments: Literal["first", "mean"],
    batch_size: int,
    no_cache: bool,
    quiet: bool,
) -> int:
    """Write a model's embeddings of all clips of a task to a file.

    `fewshot --model emb:FILE` reads it back, as it reads embeddings that another program made: an npz or parquet file
    with `clip`, the ids of the clips, and `vector`, their embeddings.
    """
    items = session.begin("embed")
    from uamix_bench.embeddings.table import EmbeddingTable, check_suffix, write_table
    from uamix_bench.util.files import check_writable

    check_suffix(output)
    names, what = models.chosen(), "a file of embeddings"
    selection.one("--model", names, what)
    task = selection.one("--task", places.chosen(), what)
    check_writable(output.absolute().parent)

    from uamix_bench.cli.progress import TerminalProgress

    progress = TerminalProgress(quiet)
    data = places.load(task)
    selection.say(data.name, data.remarks)

    import warnings

    import numpy as np

    from uamix_bench.embeddings.embedding import embed
    from uamix_bench.models.loading import load_model
    from uamix_bench.records.provenance import scrub

    encoder = models.loaders(names, load_model)[0]()
    assert encoder.identity is not None
    found = embed(
        encoder,
        data,
        np.arange(len(data.table)),
        batch_size=batch_size,
        segments=segments,
        cache=not no_cache,
        keep_going=places.keep_going,
        progress=progress,
    )
    for line in found.warnings:
        warnings.warn(line, stacklevel=2)
    kept = np.flatnonzero(found.valid).tolist()
    if not kept:
        raise BadInputError(data.name, "has no clip that could be embedded", "repair its sounds")
    clips = tuple(data.table["clip"][kept])
    digests = tuple(found.digests[row].hex() for row in kept)
    about = {"model": encoder.identity.model_dump(mode="json"), "task": data.name, "version": data.card.version}
    about |= {"clip_seconds": data.card.clip_seconds, "segments": segments}
    path = write_table(output, EmbeddingTable(clips, found.vectors[kept], digests, about))
    facts = {"file": str(path), "clips": len(kept), "embedding_dim": encoder.embedding_dim, "model": about["model"]}
    skipped = [{"clip": scrub(one.clip), "reason": scrub(one.reason)} for one in found.skipped]
    items.append({**facts, "task": data.name, "skipped": skipped})
    for one in found.skipped:
        progress.say(f"left out {one.clip}: {one.reason}")
    if not session.json:
        made = f"{len(kept):,} clips of {data.name} by {encoder.identity.shown}"
        click.echo(f"{path}: {made}, {encoder.embedding_dim:,} values each")
    return 6 if found.skipped or data.partial else 0
