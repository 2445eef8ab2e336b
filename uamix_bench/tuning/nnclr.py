"""Nearest-neighbour contrastive learning: projector, predictor, queue, loss.

NNCLR (Dwibedi et al., ICCV 2021) in MAE-CT's form (Lehner et al.), with virtual labels for mixtures (uaMix-MAE, Eq. 4).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uamix_bench.tuning.distributed import BatchNorm
from uamix_bench.util.arrays import Doubles


def projector(width: int, sizes: tuple[int, int, int]) -> nn.Sequential:
    """Projector (MAE-CT): three linear layers without biases, BatchNorm after each, ReLU between.

    (B, width) -> (B, sizes[-1]).
    """
    first, second, last = sizes
    return nn.Sequential(
        *(nn.Linear(width, first, bias=False), BatchNorm(first), nn.ReLU()),
        *(nn.Linear(first, second, bias=False), BatchNorm(second), nn.ReLU()),
        *(nn.Linear(second, last, bias=False), BatchNorm(last)),
    )


def predictor(width: int, hidden: int) -> nn.Sequential:
    """Predictor: linear, BatchNorm, ReLU, linear, without biases (MAE-CT): (B, width) -> (B, width)."""
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False),
        BatchNorm(hidden),
        nn.ReLU(),
        nn.Linear(hidden, width, bias=False),
    )


@torch.no_grad()
def update_average(average: nn.Module, source: nn.Module, factor: float) -> None:
    """Moves `average` towards `source`: parameters t' = factor t + (1 - factor) s, buffers (BatchNorm's) copied."""
    for target, parameter in zip(average.parameters(), source.parameters(), strict=True):
        target.lerp_(parameter, 1 - factor)
    for copied, buffer in zip(average.buffers(), source.buffers(), strict=True):
        copied.copy_(buffer)


class Queue(nn.Module):
    """Queue of the last |Q| clean projections, first in first out, with the recording of each.

    Args:
        size: Number of entries |Q|, a multiple of the global batch.
        width: Number of features d of a projection.
    """

    entries: Tensor
    recordings: Tensor
    written: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("entries", torch.zeros(size, width))
        self.register_buffer("recordings", torch.full((size,), -1))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, projections: Tensor, recordings: Tensor) -> None:
        """Overwrites the oldest entries with (B, d) normalised `projections` of the (B,) int64 `recordings`."""
        size, batch = len(self.entries), len(projections)
        if size % batch:
            raise ValueError(f"a queue of {size} does not hold whole batches of {batch}")
        begin = int(self.written) % size
        self.entries[begin : begin + batch] = projections
        self.recordings[begin : begin + batch] = recordings
        self.written += batch

    @torch.no_grad()
    def neighbours(self, query: Tensor, recordings: Tensor, top_k: int, draw: Doubles) -> Tensor:
        """Draws, for each query, one of its `top_k` nearest entries by cosine, uniformly.

        Entries of the query's own recording and entries never written are excluded. If no entry is left, the query
        itself is returned.

        Args:
            query: (B, d) normalised projections.
            recordings: (B,) int64, the recording of each query.
            top_k: Number of nearest entries to draw from.
            draw: (B,) uniforms in [0, 1).

        Returns:
            (B, d) normalised keys.
        """
        similarity = query @ self.entries.T  # (B, |Q|)
        barred = (recordings[:, None] == self.recordings) | (self.recordings < 0)
        best = similarity.masked_fill(barred, -torch.inf).topk(min(top_k, len(self.entries)))
        eligible = best.values.isfinite().sum(dim=1)  # (B,)
        pick = (torch.from_numpy(draw).to(query.device, torch.float64) * eligible).long()
        chosen = self.entries[best.indices.gather(1, pick.clamp_max(best.indices.shape[1] - 1)[:, None])[:, 0]]
        return torch.where((eligible > 0)[:, None], chosen, query)


def contrastive_loss(predictions: Tensor, keys: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Soft cross-entropy of each prediction against all keys (uaMix-MAE, Eq. 4; with one-hot labels NNCLR's loss).

    L_i = - sum_n y_i[n] log softmax_n(p_i . k_n / temperature), in float32, or float64 where the predictions are.

    Args:
        predictions: (B, d) predictions p of the (mixed) anchors; normalised here.
        keys: (M, d) keys k; normalised here; no gradient is expected to them.
        labels: (B, M) virtual labels, rows summing to 1.
        temperature: Divisor of the cosine similarities.

    Returns:
        (B,) losses, one an anchor.
    """
    precise = torch.promote_types(predictions.dtype, torch.float32)
    similarity = F.normalize(predictions.to(precise), dim=1) @ F.normalize(keys.to(precise), dim=1).T
    return -(labels * F.log_softmax(similarity / temperature, dim=1)).sum(dim=1)


@torch.no_grad()
def effective_rank(embeddings: Tensor) -> float:
    """Effective rank: exp of the entropy of the normalised singular values of (B, d) embeddings.

    This is RankMe (Garrido et al., ICML 2023).
    """
    share = torch.linalg.svdvals(embeddings.float())
    share = share / share.sum().clamp_min(1e-12)
    return float(torch.exp(-(share * torch.log(share.clamp_min(1e-12))).sum()))
