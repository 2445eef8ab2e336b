"""The mixtures' invariants (method.md 4.4) and golden sizes, with the rounding rule of DESIGN.md."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.stats import chisquare

from uamix_bench.tuning.mixing import Boxes, boxes, mix, partners, round_half_up, together, virtual_labels
from uamix_bench.tuning.recipe import MIXINGS, Mixing

sizes = st.tuples(st.integers(1, 70), st.integers(1, 40), st.sampled_from([2, 4, 6]))


def draw_boxes(kind: str, frames: int, bins: int, batch: int, seed: int) -> Boxes:
    u = np.random.default_rng(seed).random((3, batch))
    return boxes(kind, u[0], u[1], u[2], frames, bins)


def slow_t_cutmix(x: torch.Tensor, other: torch.Tensor, start: int, width: int) -> torch.Tensor:
    mixed = x.clone()
    for frame in range(start, start + width):
        mixed[frame] = other[frame]
    return mixed


@pytest.mark.parametrize(
    ("lam", "width", "left"),
    [(0.3, 717, 0.2998046875), (0.5, 512, 0.5), (0.7313, 275, 0.7314453125)],
)
def test_t_cutmix_has_the_golden_widths(lam: float, width: int, left: float) -> None:
    box = boxes("t-cutmix", np.array([lam]), np.array([0.5]), np.array([0.5]), 1024, 128)
    assert (box.width[0], box.height[0], box.lam[0]) == (width, 128, left)


@pytest.mark.parametrize(("lam", "width", "height", "left"), [(0.3, 857, 107, 0.30039215), (0.7, 561, 70, 0.70039368)])
def test_tf_cutmix_has_the_golden_boxes(lam: float, width: int, height: int, left: float) -> None:
    box = boxes("tf-cutmix", np.array([lam]), np.array([0.5]), np.array([0.5]), 1024, 128)
    assert (box.width[0], box.height[0]) == (width, height)
    assert box.lam[0] == pytest.approx(left, abs=5e-9)


def test_halves_round_up_also_where_python_rounds_to_even() -> None:
    assert round_half_up(np.array([0.5, 1.5, 2.5, 0.4999])).tolist() == [1, 2, 3, 0]


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 2**32))
def test_t_cutmix_replaces_whole_frames_and_only_its_box(size: tuple[int, int, int], seed: int) -> None:
    frames, bins, batch = size
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(batch, frames, bins)))
    box = draw_boxes("t-cutmix", frames, bins, batch, seed)
    partner = partners(batch)
    mixed = mix("t-cutmix", x, partner, box)
    for i in range(batch):
        expected = slow_t_cutmix(x[i], x[partner[i]], int(box.start[i]), int(box.width[i]))
        assert torch.equal(mixed[i], expected)
        assert 0 <= box.start[i] <= frames - box.width[i]
        assert box.lam[i] == 1 - box.width[i] / frames


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 2**32))
def test_tf_cutmix_leaves_exactly_the_share_it_says(size: tuple[int, int, int], seed: int) -> None:
    frames, bins, batch = size
    own, foreign = torch.zeros(batch, frames, bins), 1.0
    own[1::2] = foreign  # partners differ everywhere, so what was replaced can be counted
    box = draw_boxes("tf-cutmix", frames, bins, batch, seed)
    replaced = mix("tf-cutmix", own, partners(batch), box) != own
    changed = replaced.sum(dim=(1, 2)).numpy()
    over_all_bins = (replaced.all(dim=2) == replaced.any(dim=2)).all(dim=1).numpy()
    assert (over_all_bins == ((box.height == bins) | (box.width * box.height == 0))).all()
    assert changed.tolist() == (box.width * box.height).tolist()
    np.testing.assert_allclose(1 - changed / (frames * bins), box.lam, atol=1e-12)
    drawn = np.random.default_rng(seed).random((3, batch))[0]
    assert (box.width >= boxes("t-cutmix", drawn, drawn, drawn, frames, bins).width).all()


@pytest.mark.parametrize("kind", MIXINGS)
@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_the_ends_of_lambda_are_one_sample_or_the_other(kind: str, lam: float) -> None:
    x = torch.randn(4, 8, 6, generator=torch.Generator().manual_seed(1))
    box = boxes(kind, np.full(4, lam), np.full(4, 0.3), np.full(4, 0.6), 8, 6)
    expected = x if lam == 1.0 or kind == "none" else x[[1, 0, 3, 2]]
    assert torch.equal(mix(kind, x, partners(4), box), expected)
    labels = virtual_labels(partners(4), box.lam)
    assert torch.equal(labels, torch.eye(4) if lam == 1.0 or kind == "none" else torch.eye(4)[[1, 0, 3, 2]])


def test_mixup_is_the_convex_combination() -> None:
    x = torch.tensor([[[1.0]], [[5.0]]])
    box = boxes("mixup", np.array([0.75, 0.5]), np.zeros(2), np.zeros(2), 1, 1)
    assert mix("mixup", x, partners(2), box).flatten().tolist() == [2.0, 3.0]


def test_labels_of_an_odd_batch_under_flip() -> None:
    labels = virtual_labels(partners(3, "flip"), np.full(3, 0.75))
    assert labels.tolist() == [[0.75, 0, 0.25], [0, 1, 0], [0.25, 0, 0.75]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(0, 2**32), st.sampled_from(["neighbour", "flip"]))
def test_label_rows_are_distributions_over_at_most_two(pairs: int, seed: int, kind: str) -> None:
    batch = 2 * pairs
    labels = virtual_labels(partners(batch, kind), np.random.default_rng(seed).random(batch))
    assert (labels >= 0).all()
    assert ((labels > 0).sum(dim=1) <= 2).all()
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(batch))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 64))
def test_partners_are_mutual_and_never_oneself(pairs: int) -> None:
    index = np.arange(2 * pairs)
    for kind in ("neighbour", "flip"):
        partner = partners(2 * pairs, kind)
        assert (partner[partner] == index).all()
        assert (partner != index).all()


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(0, 2**32), st.sampled_from(["t-cutmix", "tf-cutmix"]))
def test_a_clipped_box_ends_where_the_spectrogram_does(size: tuple[int, int, int], seed: int, kind: Mixing) -> None:
    frames, bins, batch = size
    u = np.random.default_rng(seed).random((3, batch))
    box, inside = (boxes(kind, *u, frames, bins, place) for place in ("clipped", "inside"))
    assert (box.start + box.width <= frames).all()
    assert (box.low + box.height <= bins).all()
    assert (box.width <= inside.width).all()
    np.testing.assert_allclose(box.lam, 1 - box.width * box.height / (frames * bins), atol=1e-12)


def test_clipping_makes_the_cut_a_third_at_alpha_one() -> None:
    u = np.random.default_rng(0).random((3, 400_000))
    for place, mean in (("inside", 0.5), ("clipped", 1 / 3)):
        box = boxes("t-cutmix", *u, 1024, 128, place)
        assert (1 - box.lam).mean() == pytest.approx(mean, abs=2e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(0, 2**32), st.sampled_from(["t-cutmix", "tf-cutmix"]))
def test_snapped_boxes_are_made_of_whole_patches(columns: int, seed: int, kind: Mixing) -> None:
    u = np.random.default_rng(seed).random((3, 6))
    box = boxes(kind, *u, 16 * columns, 128, snap=16)
    for edge in (box.start, box.width, box.low, box.height):
        assert (edge % 16 == 0).all()
    np.testing.assert_allclose(box.lam, 1 - box.width * box.height / (16 * columns * 128), atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 32), st.sampled_from(["neighbour", "flip"]))
def test_any_even_slice_of_the_rows_put_together_holds_whole_pairs(pairs: int, kind: str) -> None:
    partner = partners(2 * pairs, kind)
    order = together(partner)
    assert sorted(order) == list(range(2 * pairs))
    assert (partner[order[::2]] == order[1::2]).all()


def test_permutations_are_drawn_uniformly() -> None:
    u = np.random.default_rng(0).random((6_000, 3))
    counts = np.unique([partners(3, "permutation", row) for row in u], axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert chisquare(counts).pvalue > 1e-3
