"""``uamix-bench embed``: a model's embeddings of a task's clips as a file that ``--model emb:FILE`` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from uamix_bench.cli import commands, options, selection
from uamix_bench.cli.errors import Session
from uamix_bench.util.errors import BadInputError, UsageError


@commands.command("embed")
@options.model
@options.task
@options.out(
    "File to write, .npz or .parquet: the clips' ids, their embeddings, and the digests of the sounds.",
    metavar="FILE",
    required=True,
)
@options.checkpoint
@options.model_arg
@click.option("--pooling", metavar="NAME", help="Pooling from tokens to an embedding; default the model's own.")
@options.layer
@options.trust_remote_code
@options.input_length
@options.data_dir
@options.audio_root
@options.clip_seconds
@options.segments
@options.device
@options.dtype
@options.batch_size
@options.allow_partial
@options.keep_going
@click.option("--no-cache", is_flag=True, help="Neither read nor write cached embeddings.")
@options.of_a_run
@click.pass_obj
def command(
    session: Session,
    /,
    model: tuple[str, ...],
    task: tuple[str, ...],
    output: Path,
    checkpoint: Path | None,
    model_arg: tuple[str, ...],
    data_dir: Path | None,
    audio_root: Path | None,
    clip_seconds: float | None,
    segments: Literal["first", "mean"],
    batch_size: int,
    allow_partial: bool,
    keep_going: bool,
    no_cache: bool,
    quiet: bool,
    **chosen: Any,
) -> int:
    """Write a model's embeddings of all clips of a task to a file.

    `fewshot --model emb:FILE` reads it back, as it reads embeddings that another program made: an npz or parquet file
    with `clip`, the ids of the clips, and `vector`, their embeddings.
    """
    items = session.begin("embed")
    from uamix_bench.embeddings.table import EmbeddingTable, check_suffix, write_table
    from uamix_bench.models.arguments import parsed
    from uamix_bench.util.files import check_writable

    check_suffix(output)
    models = selection.chosen_models(model, checkpoint, model_args=model_arg)
    tasks = selection.chosen_tasks(task)
    for option, given in (("--model", models), ("--task", tasks)):
        if len(given) > 1:
            raise UsageError(option, f"names {len(given)}, and a file holds the embeddings of one", "name one")
    check_writable(output.absolute().parent)

    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.data.task import load_task

    progress = TerminalProgress(quiet)
    places: dict[str, Any] = {"audio_root": audio_root, "clip_seconds": clip_seconds}
    data = load_task(tasks[0], data_dir, **places, allow_partial=allow_partial, keep_going=keep_going)
    selection.say(data.name, data.remarks)

    import warnings

    import numpy as np

    from uamix_bench.embeddings.embedding import embed
    from uamix_bench.models.model import load_model
    from uamix_bench.records.provenance import scrub

    encoder = load_model(models[0], checkpoint, arguments=parsed(model_arg), **chosen)
    assert encoder.identity is not None
    found = embed(
        encoder,
        data,
        np.arange(len(data.clips)),
        batch_size=batch_size,
        segments=segments,
        cache=not no_cache,
        keep_going=keep_going,
        progress=progress,
    )
    for line in found.warnings:
        warnings.warn(line, stacklevel=2)
    kept = np.flatnonzero(found.valid).tolist()
    if not kept:
        raise BadInputError(data.name, "has no clip that could be embedded", "repair its sounds")
    clips: list[str] = data.clips["clip"].tolist()
    about = {
        "model": encoder.identity.model_dump(mode="json"),
        "task": data.name,
        "version": data.card.version,
        "clip_seconds": data.card.clip_seconds,
        "segments": segments,
    }
    table = EmbeddingTable(
        tuple(clips[row] for row in kept),
        found.vectors[kept],
        tuple(found.digests[row].hex() for row in kept),
        about,
    )
    path = write_table(output, table)
    facts = {"file": str(path), "clips": len(kept), "embedding_dim": encoder.embedding_dim, "model": about["model"]}
    skipped = [{"clip": scrub(one.clip), "reason": scrub(one.reason)} for one in found.skipped]
    items.append({**facts, "task": data.name, "skipped": skipped})
    for one in found.skipped:
        progress.say(f"left out {one.clip}: {one.reason}")
    if not session.json:
        made = f"{len(kept):,} clips of {data.name} by {encoder.identity.shown}"
        click.echo(f"{path}: {made}, {encoder.embedding_dim:,} values each")
    return 6 if found.skipped or data.partial else 0
