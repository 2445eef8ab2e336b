"""Encoding of batches: one after the other over all threads or, if the encoder is small, one on each core at once.

Threads that share the products of a small batch wait for each other after each of them: with two threads, a batch of
0.2, 4 and 26 GFLOP took 1.8, 1.1 and 1.1 times the CPU time of one thread, and two batches at once no more than that.
So the embeddings are those of one thread, bit for bit, whatever the number of cores.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable

import numpy as np
import torch

from uamix_bench.models.model import AudioModel
from uamix_bench.models.sources import is_own
from uamix_bench.models.vit import AudioViT
from uamix_bench.util.arrays import Floats
from uamix_bench.util.errors import BadInputError, own_code
from uamix_bench.util.threads import computing_with, cores, in_threads

Batch = list[tuple[int, Floats]]  # clips' numbers and waveforms

_SMALL = 1e11  # operations of a batch, about a second of a core: what the last batch, or an interrupt, waits for
_MOST = 16  # batches at once, which bounds their memory


def encode(
    model: AudioModel, batches: Iterable[Batch], batch_size: int, clip_seconds: float
) -> Generator[tuple[Batch, Floats], None, None]:
    """Yields each batch with its embeddings, (b, D) float32, in order.

    Args:
        model: Model that embeds.
        batches: Batches of clips. A few more than run at once are asked for ahead.
        batch_size: Number of clips in a batch, at most.
        clip_seconds: Length of a clip in seconds, at most.

    Raises:
        BadInputError: Embeddings have a shape that differs from the model's stated one.
        OwnCodeError: A user's own method raises an error.
    """

    def work(batch: Batch) -> tuple[Batch, Floats]:
        with own_code("embed", type(model)):
            vectors = np.asarray(model.embed([wave for _, wave in batch], model.sample_rate), np.float32)
        if vectors.shape != (len(batch), model.embedding_dim):
            due = f"has shape {vectors.shape} where {(len(batch), model.embedding_dim)} is due"
            raise BadInputError(f"embed of {model.card.name}", due, "correct its pool() or embedding_dim")
        return batch, vectors

    threads = _at_once(model, batch_size, clip_seconds)
    if threads == 1:
        yield from map(work, batches)
        return
    with computing_with(1):
        yield from in_threads(work, batches, threads=threads, ahead=threads, slow=lambda batch: None)


def _at_once(model: AudioModel, batch_size: int, clip_seconds: float) -> int:
    """Number of batches at once: torch's threads if the encoder is small, the project's own, and on a processor."""
    encoder = getattr(model, "encoder", None)
    if not (is_own(type(model)) and isinstance(encoder, AudioViT) and model.device.type == "cpu"):
        return 1
    shape = encoder.shape
    frames = shape.patch_frames * model.token_columns(round(clip_seconds * model.sample_rate))
    operations = batch_size * (shape.stem_operations(frames) + shape.depth * shape.block_operations(frames))
    return min(torch.get_num_threads(), cores(), _MOST) if operations <= _SMALL else 1
