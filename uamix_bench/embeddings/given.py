"""Embeddings that were made elsewhere, for the clips of a task: their sounds are read, to know what they are of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from uamix_bench.data.sound import sounds
from uamix_bench.data.task import TaskData
from uamix_bench.embeddings.decoding import decode
from uamix_bench.models.model import AudioModel, GivenRows
from uamix_bench.plugins.card import Segments
from uamix_bench.storage.digests import FileDigests
from uamix_bench.util.arrays import Floats, Ints, Mask
from uamix_bench.util.errors import BadInputError, BenchError
from uamix_bench.util.progress import Progress
from uamix_bench.util.text import listed


class LookedUp(NamedTuple):
    """Embeddings of n clips from a file.

    Attributes:
        done: Mask of the clips with an embedding and readable sound, (n,) bool.
        rows: Embeddings and swings as the cache has them, (n, D + 1) float32; zero for the others.
        failures: Error of each clip that is broken or missing, by its place.
        warnings: Facts to be said, one line each.
    """

    done: Mask
    rows: Floats
    failures: dict[int, BenchError]
    warnings: tuple[str, ...]


def look_up(
    model: AudioModel,
    data: TaskData,
    rows: Ints,
    segments: Segments,
    digested: FileDigests,
    *,
    keep_going: bool,
    progress: Progress,
) -> LookedUp | None:
    """Looks up the embeddings of clips, and decodes the clips to tell silent and broken ones.

    Args:
        model: A model of any kind.
        data: Data of the task.
        rows: Rows of the task's clip table, (n,) int64.
        segments: Crop rule of the evaluation.
        digested: Digests of the n sound files.
        keep_going: True sets missing clips aside; otherwise they are an error.
        progress: Progress display.

    Returns:
        The embeddings; None if the model hears clips itself.

    Raises:
        BadInputError: Clips are missing, their sounds have changed, or the embeddings are of another crop.
    """
    ids: list[str] = data.table["clip"].tolist()
    given = model.of_clips(ids, data.card.clip_seconds, segments)
    if given is None:
        return None
    file = model.source.name.partition(":")[2] if model.source else model.card.name
    asked = [ids[row] for row in rows.tolist()]
    found = given.found[rows]
    missing = list(dict.fromkeys(clip for clip, there in zip(asked, found.tolist(), strict=True) if not there))
    if missing and not keep_going:
        reason = f"lacks {len(missing):,} of {len(set(asked)):,} clips of {data.name} ({listed(missing, 3)})"
        raise BadInputError(file, reason, "embed them too, or leave them out with --keep-going")
    _same_sounds(file, given, asked, digested)
    failures: dict[int, BenchError] = {
        place: BadInputError(asked[place], "has no embedding in the file") for place in np.flatnonzero(~found).tolist()
    }
    failures |= digested.failed
    heard = [place for place in range(len(asked)) if place not in failures]
    swings, broken = _swings(model, data, rows[heard], segments, progress)
    failures |= {heard[place]: error for place, error in broken.items()}
    table = np.zeros((len(asked), model.embedding_dim + 1), np.float32)
    table[:, :-1], table[heard, -1] = given.vectors[rows], swings
    done = np.ones(len(asked), np.bool_)
    done[list(failures)] = False
    table[~done] = 0
    return LookedUp(done, table, failures, tuple(_unknown(file, given, data)))


def _unknown(file: str, given: GivenRows, data: TaskData) -> list[str]:
    """Says how many clips of the file the task does not have."""
    total = given.unknown + int(given.found.sum())
    of = f"the {len(data.table):,} of {data.name}"
    return [f"{file}: {given.unknown:,} of its {total:,} clips are not among {of}"] if given.unknown else []


def _same_sounds(file: str, given: GivenRows, asked: Sequence[str], digested: FileDigests) -> None:
    """Refuses embeddings of other sounds than those that are here under the same ids."""
    known = zip(asked, digested.digests, strict=True)
    changed = [clip for clip, digest in known if given.digests.get(clip, digest.hex()) != digest.hex() and any(digest)]
    if changed:
        reason = f"was made of other sounds than {len(changed):,} of those here ({listed(changed, 3)})"
        raise BadInputError(file, reason, "make the embeddings of these clips anew")


def _swings(
    model: AudioModel, data: TaskData, rows: Ints, segments: Segments, progress: Progress
) -> tuple[list[float], dict[int, BenchError]]:
    """Half the range of each clip's samples, and the errors of broken clips by their places."""
    clip_sounds = sounds(data.table.take(rows))
    swings = [0.0] * len(clip_sounds)
    broken: dict[int, BenchError] = {}
    with progress.bar("listening", len(clip_sounds)) as advance:
        for place, heard in enumerate(
            decode(clip_sounds, model.sample_rate, data.card.clip_seconds, segments, progress)
        ):
            for wave in heard:
                if isinstance(wave, BenchError):
                    broken[place] = wave
                    break
                swings[place] = max(swings[place], float(np.ptp(wave)) / 2)
            advance(1, "")
    return swings, broken
