"""Loss, queue and moving average: the golden values of method.md 4.4 and the invariants beside them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from uamix_bench.tuning.mixing import partners, virtual_labels
from uamix_bench.tuning.nnclr import (
    Queue,
    contrastive_loss,
    effective_rank,
    predictor,
    projector,
    update_average,
)

A = torch.tensor([[1.0, 0], [1, 1], [0, 1], [-1, 2]])
P = torch.tensor([[2.0, 1], [1, 2], [-1, 1], [-1, 0]])
QUEUE = F.normalize(torch.tensor([[1, 0.2], [0.1, 1], [-1, 0.3], [0.5, -1]]), dim=1)
TAU = 0.5
FLIPPED = virtual_labels(partners(4, "flip"), np.full(4, 0.75))


def random_batch(seed: int, batch: int = 6, width: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    anchors, keys = torch.randn(2, batch, width, generator=generator, dtype=torch.float64)
    lam = torch.rand(batch, generator=generator, dtype=torch.float64).numpy()
    return anchors, keys, virtual_labels(partners(batch), lam)


def test_plain_golden_values() -> None:
    losses = contrastive_loss(A, P, torch.eye(4), TAU)
    assert losses.tolist() == pytest.approx([0.386690, 0.782266, 1.191566, 1.703389], abs=1e-6)
    assert losses.mean().item() == pytest.approx(1.0159778, abs=1e-6)


def test_mixed_golden_values() -> None:
    losses = contrastive_loss(A, P, FLIPPED, TAU)
    assert losses.tolist() == pytest.approx([1.333904, 1.256608, 1.097906, 1.926995], abs=1e-6)
    assert losses.mean().item() == pytest.approx(1.4038532, abs=1e-6)


def test_golden_neighbours() -> None:
    queue = Queue(4, 2)
    queue.push(QUEUE, torch.arange(4))
    keys = queue.neighbours(F.normalize(P, dim=1), torch.arange(10, 14), 1, np.zeros(4))
    assert torch.equal(keys, QUEUE[[0, 1, 2, 2]])
    assert contrastive_loss(A, keys, torch.eye(4), TAU).mean().item() == pytest.approx(1.0550951, abs=1e-6)
    assert contrastive_loss(A, keys, FLIPPED, TAU).mean().item() == pytest.approx(1.4835022, abs=1e-6)
    assert contrastive_loss(keys, A, torch.eye(4), TAU).mean().item() == pytest.approx(0.9520966, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_loss_invariants(seed: int) -> None:
    anchors, keys, labels = (part.double() for part in random_batch(seed))
    losses = contrastive_loss(anchors, keys, labels, TAU)
    logits = F.normalize(anchors, dim=1) @ F.normalize(keys, dim=1).T / TAU
    # torch's own soft-target cross-entropy
    torch.testing.assert_close(losses, F.cross_entropy(logits, labels, reduction="none"))
    own, other = torch.arange(6), torch.from_numpy(partners(6))
    lam = labels[own, own]
    by_parts = lam * F.cross_entropy(logits, own, reduction="none") + (1 - lam) * F.cross_entropy(
        logits, other, reduction="none"
    )
    torch.testing.assert_close(losses, by_parts)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    shuffled = contrastive_loss(anchors[order], keys[order], labels[order][:, order], TAU)
    torch.testing.assert_close(shuffled, losses[order])
    torch.testing.assert_close(contrastive_loss(3 * anchors, 0.1 * keys, labels, TAU), losses)
    entropy = -(labels * labels.clamp_min(1e-30).log()).sum(dim=1)
    assert (losses >= entropy - 1e-6).all()
    single = contrastive_loss(anchors.bfloat16(), keys.float(), labels.float(), TAU)
    assert single.dtype == torch.float32
    exact = contrastive_loss(anchors.bfloat16().double(), keys, labels, TAU)
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5)


def test_equal_similarities_cost_log_batch() -> None:
    losses = contrastive_loss(torch.ones(8, 3), torch.ones(8, 3), virtual_labels(partners(8), np.full(8, 0.4)), 0.1)
    assert losses.tolist() == pytest.approx([math.log(8)] * 8, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12))
def test_the_queue_is_first_in_first_out(batch: int, writes: int) -> None:
    queue = Queue(3 * batch, 1)
    for number in range(writes):
        rows = torch.arange(number * batch, (number + 1) * batch)
        queue.push(rows[:, None].float(), rows)
    kept = sorted(queue.recordings.tolist())
    newest = range(max(0, (writes - 3) * batch), writes * batch)
    assert [number for number in kept if number >= 0] == list(newest)
    assert torch.equal(queue.entries[:, 0][queue.recordings >= 0].sort().values, torch.tensor(newest).float())
    assert int(queue.written) % (3 * batch) == writes * batch % (3 * batch)


def test_a_queue_takes_whole_batches_only() -> None:
    with pytest.raises(ValueError, match="whole batches"):
        Queue(10, 2).push(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9))
def test_neighbours_never_come_from_ones_own_recording(seed: int, top_k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queue = Queue(8, 4)
    entries = F.normalize(torch.randn(8, 4, generator=generator), dim=1)
    recordings = torch.randint(0, 3, (8,), generator=generator)
    queue.push(entries, recordings)
    query = F.normalize(torch.randn(5, 4, generator=generator), dim=1)
    own = torch.randint(0, 3, (5,), generator=generator)
    keys = queue.neighbours(query, own, min(top_k, 8), torch.rand(5, generator=generator, dtype=torch.float64).numpy())
    for row in range(5):
        others = entries[recordings != own[row]]
        if not len(others):
            assert torch.equal(keys[row], query[row])
            continue
        nearest = others[(others @ query[row]).argsort(descending=True)[:top_k]]
        assert (keys[row] == nearest).all(dim=1).any()


def test_every_one_of_the_top_k_is_drawn_equally_often() -> None:
    queue = Queue(4, 2)
    queue.push(QUEUE, torch.arange(4))
    draws = (np.arange(300) + 0.5) / 300
    keys = queue.neighbours(QUEUE[:1].expand(300, -1), torch.full((300,), 99), 3, draws)
    counts = torch.stack([(keys == entry).all(dim=1).sum() for entry in QUEUE])
    assert sorted(counts.tolist()) == [0, 100, 100, 100]


def test_unwritten_entries_are_never_neighbours() -> None:
    queue = Queue(4, 2)
    queue.push(QUEUE[:2], torch.arange(2))
    keys = queue.neighbours(QUEUE, torch.full((4,), 9), 4, np.full(4, 0.999))
    assert not (keys == 0).all(dim=1).any()


def test_the_average_moves_and_copies_buffers() -> None:
    torch.manual_seed(0)
    source, average = projector(6, (8, 8, 4)), projector(6, (8, 8, 4))
    source(torch.randn(16, 6))
    before = [parameter.clone() for parameter in average.parameters()]
    update_average(average, source, 0.99)
    for old, new, target in zip(before, average.parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(new, 0.99 * old + 0.01 * target)
    for new, target in zip(average.buffers(), source.buffers(), strict=True):
        assert torch.equal(new, target)


def test_heads_have_the_sizes_of_the_paper() -> None:
    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(projector(768, (2048, 2048, 256))) == 6_300_160
    assert count(predictor(256, 4096)) == 2_105_344


def test_effective_rank_of_known_spectra() -> None:
    assert effective_rank(torch.eye(7)) == pytest.approx(7, abs=1e-3)
    assert effective_rank(torch.ones(9, 4)) == pytest.approx(1, abs=1e-3)
