"""``uamix-bench cache``: list, check and prune the caches, which only save work."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from uamix_bench.cli import commands, options
from uamix_bench.cli.errors import Session
from uamix_bench.cli.values import CommaList
from uamix_bench.util.errors import BadInputError, UsageError, nearest
from uamix_bench.util.text import visible

if TYPE_CHECKING:
    from uamix_bench.embeddings.housekeeping import Holding

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_AGE = re.compile(rf"([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?)([{''.join(_UNITS_S)}])")
_MODELS = options.listed(
    "-m",
    "--model",
    "models",
    kind=CommaList(metavar="GLOB[,...]"),
    words="Names or keys of models, as 'cache ls' shows them. Comma-separated, repeatable.",
)


@commands.group("cache")
def command() -> None:
    """List, check or prune what is kept only to save work.

    That is embeddings, digests of files, and training frames.
    UAMIX_BENCH_CACHE_SIZE=10GB prunes by itself, whenever embeddings are added.
    """


@command.command("path")
@options.json_output
@click.pass_obj
def path(session: Session) -> None:
    """Print the folder it is in."""
    items = session.begin("cache path")
    from uamix_bench.util.files import home

    items.append({"path": str(home())})
    if not session.json:
        print(home())


@command.command("ls")
@_MODELS
@options.json_output
@click.pass_obj
def ls(session: Session, models: tuple[str, ...]) -> None:
    """List what is there, the largest first.

    For each key of a model: entries, bytes and last use (to the hour).
    """
    items = session.begin("cache ls")
    held = [(holding, holding.count()) for holding in _chosen(models)]
    for holding, entries in held:
        about = None if holding.model is None else {**asdict(holding.model), "fingerprint": holding.model.fingerprint}
        facts = {"kind": holding.kind, "key": holding.key, "name": holding.name, "model": about}
        items.append({**facts, "entries": entries, "bytes": holding.size, "last_used": _iso(holding.used)})
    if session.json:
        return
    from rich.filesize import decimal

    from uamix_bench.cli.tables import Table, count, show
    from uamix_bench.util.files import home

    table = Table("name", "how", "key", "entries>", "size>", "last used")
    for holding, entries in held:
        model = holding.model
        how = f"{model.input}, {model.pooling}, {model.dtype}" if model else ""
        used = _iso(holding.used)[:16].replace("T", " ")
        table.add(visible(holding.name), visible(how), holding.key, count(entries), decimal(holding.size), used)
    show(table)
    total = sum(holding.size for holding, _ in held)
    click.echo(f"{decimal(total)} in {home()}", err=True)


@command.command("verify")
@_MODELS
@options.quiet
@options.json_output
@click.pass_obj
def verify(session: Session, models: tuple[str, ...], quiet: bool) -> None:
    """Read all embeddings and digests and compare every checksum.

    Exit code 3 where one is bad, and all are named. Nothing is changed: a run that meets a bad entry computes it again.
    Training frames are checked whenever they are opened.
    """
    items = session.begin("cache verify")
    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.embeddings import housekeeping

    chosen = _chosen(models)
    for bad, reason in housekeeping.verify(chosen, TerminalProgress(quiet)):
        items.append({"path": str(bad), "reason": reason})
        if not session.json:
            print(visible(f"{bad}: {reason}"))
    shards = sum(len(holding.pieces) for holding in chosen if holding.kind != "frames")
    session.facts["shards"] = shards
    if items:
        remedy = "the next run that meets them leaves the damage out and computes it again"
        raise BadInputError(f"{len(items)} of {shards} shards", "not what was written", remedy)
    if not session.json:
        print(f"{shards} shard{'s' * (shards != 1)} verified")


@command.command("prune")
@click.option(
    "--max-size", metavar="SIZE", help="Size to keep, such as 10GB; the least recently used entries are removed first."
)
@click.option(
    "--older-than", metavar="AGE", help="Age since the last use beyond which entries are removed, such as 30d or 12h."
)
@_MODELS
@click.option("--dry-run", is_flag=True, help="Show the entries that would be removed; remove nothing.")
@options.json_output
@click.pass_obj
def prune(
    session: Session, max_size: str | None, older_than: str | None, models: tuple[str, ...], dry_run: bool
) -> None:
    """Remove the least recently used, or all of chosen models.

    With --model alone all of those go. A later run computes it again.
    What goes at once is a shard (up to 64 MB of embeddings) or all frames of a training set.
    """
    items = session.begin("cache prune")
    from uamix_bench.embeddings import housekeeping

    if max_size is None and older_than is None and not models:
        raise UsageError("cache prune", "does not say what to remove", "give --max-size, --older-than or --model")
    max_bytes = None if max_size is None else housekeeping.parse_size(max_size, "--max-size")
    unused_s = None if older_than is None else _seconds(older_than)
    chosen = _chosen(models)
    removed = housekeeping.prune(chosen, max_bytes=max_bytes, unused_s=unused_s, dry_run=dry_run)
    items += [{"path": str(piece.path), "bytes": piece.size, "last_used": _iso(piece.used)} for piece in removed]
    freed = sum(piece.size for piece in removed)
    left = sum(holding.size for holding in chosen) - freed
    session.facts.update({"removed_bytes": freed, "left_bytes": left, "dry_run": dry_run})
    if session.json:
        return
    from rich.filesize import decimal

    if dry_run:
        for piece in removed:
            print(visible(f"{piece.path}: {decimal(piece.size)}, last used {_iso(piece.used)[:16].replace('T', ' ')}"))
    verb = "would remove" if dry_run else "removed"
    print(f"{verb} {decimal(freed)}; {decimal(left)} {'of them ' * bool(models)}left")


def _chosen(globs: tuple[str, ...]) -> list[Holding]:
    """Caches whose name or key matches one of `globs`; all caches without any."""
    from fnmatch import fnmatchcase

    from uamix_bench.embeddings.housekeeping import holdings

    held = holdings()
    for glob in globs:
        if not any(fnmatchcase(name, glob) for holding in held for name in (holding.name, holding.key)):
            names = sorted({holding.name for holding in held})
            raise UsageError(f"--model {glob}", "the cache holds no entry of it", nearest(glob, names) if names else "")
    fits = [any(fnmatchcase(name, glob) for glob in globs for name in (one.name, one.key)) for one in held]
    return [one for one, fit in zip(held, fits, strict=True) if fit or not globs]


def _seconds(age: str) -> float:
    found = _AGE.fullmatch(age.strip())
    if not found:
        raise UsageError("--older-than", f"'{age}' is not an age", "give a number with s, m, h, d or w, such as 30d")
    return float(found[1]) * _UNITS_S[found[2]]


def _iso(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, UTC).isoformat(timespec="seconds")
