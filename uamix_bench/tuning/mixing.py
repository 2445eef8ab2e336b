"""Unsupervised mixtures: none, mixup, t-cutmix (the paper's), tf-cutmix. Pure functions of their arguments."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from uamix_bench.tuning.recipe import Mixing, Partner
from uamix_bench.util.arrays import Doubles, Ints


class Boxes(NamedTuple):
    """Replaced box of each sample, and the share of the sample that remains.

    `start`, `width` (frames) and `low`, `height` (mel bins) are (B,) int64; `lam` (B,) float64 is the share of the
    sample itself in the mixture, exact for the cut boxes.
    """

    start: Ints
    width: Ints
    low: Ints
    height: Ints
    lam: Doubles

    def of(self, rows: Ints) -> Boxes:
        """Boxes of some rows."""
        return Boxes(self.start[rows], self.width[rows], self.low[rows], self.height[rows], self.lam[rows])


def round_half_up(value: Doubles) -> Ints:
    """Round half up, floor(v + 1/2) in float64: the one rounding rule of the mixtures (docs/method.md, "Mixing")."""
    return np.floor(value + 0.5).astype(np.int64)


def boxes(
    kind: Mixing,
    lam: Doubles,
    u_time: Doubles,
    u_mel: Doubles,
    frames: int,
    mel_bins: int,
    place: Literal["inside", "clipped"] = "inside",
    snap: int = 1,
) -> Boxes:
    """Boxes for drawn mixing coefficients, with the coefficients that remain after rounding.

    t-cutmix (paper, Eq. 2 and 3): w = r(T (1 - lambda)) frames over all bins, start uniform in 0..T-w, then
    lambda = 1 - w/T. tf-cutmix: w_t = r(T sqrt(1 - lambda)), w_f = r(F sqrt(1 - lambda)), lambda = 1 - w_t w_f/(T F).
    mixup and none cut nothing.

    Args:
        kind: Kind of mixing.
        lam: (B,) coefficients in [0, 1], as drawn from Beta(alpha, alpha).
        u_time: (B,) uniforms in [0, 1) for the boxes' starts in time.
        u_mel: (B,) uniforms in [0, 1) for the boxes' starts in frequency (tf-cutmix only).
        frames: Number of frames T of the spectrogram.
        mel_bins: Number of mel bins F of the spectrogram.
        place: Rule for the start of the box. ``inside``: uniform over the starts at which the whole box fits.
            ``clipped``: uniform over the whole axis, and the part past the end is cut off (CutMix's rule, one-sided).
        snap: Grid, in frames and bins, on which boxes begin and end; it divides both axes.
    """
    zeros = np.zeros(len(lam), np.int64)
    if kind == "none":
        return Boxes(zeros, zeros, zeros, zeros, np.ones(len(lam)))
    if kind == "mixup":
        return Boxes(zeros, zeros, zeros, zeros, lam.astype(np.float64))
    columns, rows = frames // snap, mel_bins // snap
    if kind == "t-cutmix":
        width, height = round_half_up(columns * (1 - lam)), np.full(len(lam), rows)
    else:
        width, height = round_half_up(columns * np.sqrt(1 - lam)), round_half_up(rows * np.sqrt(1 - lam))
    if place == "inside":
        start = np.floor(u_time * (columns - width + 1)).astype(np.int64)
        low = np.floor(u_mel * (rows - height + 1)).astype(np.int64)
    else:
        start = np.floor(u_time * columns).astype(np.int64)
        low = np.where(height == rows, 0, np.floor(u_mel * rows).astype(np.int64))
        width, height = np.minimum(width, columns - start), np.minimum(height, rows - low)
    left = 1 - width * height / (columns * rows)
    return Boxes(start * snap, width * snap, low * snap, height * snap, left)


def partners(batch: int, kind: Partner = "neighbour", u: Doubles | None = None) -> Ints:
    """Returns each sample's partner, (B,) int64.

    Args:
        batch: Number of samples B.
        kind: Rule of partners. ``neighbour``: j = i xor 1; ``flip``: the reversed batch; ``permutation``: that of `u`.
        u: (B,) uniforms in [0, 1), whose order is the permutation.
    """
    index = np.arange(batch)
    if kind == "permutation":
        assert u is not None
        return np.argsort(u, kind="stable")
    return index ^ 1 if kind == "neighbour" else index[::-1].copy()


def together(partner: Ints) -> Ints:
    """Orders the (B,) rows so that each stands beside its mutual partner: any even slice holds whole pairs."""
    return np.argsort(np.minimum(np.arange(len(partner)), partner), kind="stable")


def mix(kind: Mixing, spectrogram: Tensor, partner: Ints, box: Boxes) -> Tensor:
    """Mixes every sample with its partner.

    Args:
        kind: Kind of mixing.
        spectrogram: (B, T, F) normalised spectrograms of one side's views.
        partner: (B,) index of each sample's partner.
        box: Boxes from :func:`boxes`, for the same T and F.

    Returns:
        (B, T, F) mixtures: inside the box the partner's values at the same place, outside it the sample's own, bit for
        bit. For mixup lambda x_i + (1 - lambda) x_j; for none the input itself.
    """
    if kind == "none":
        return spectrogram
    device = spectrogram.device
    other = spectrogram[torch.from_numpy(partner).to(device)]
    if kind == "mixup":
        return torch.lerp(other, spectrogram, torch.from_numpy(box.lam).to(spectrogram)[:, None, None])
    return torch.where(_inside(box, spectrogram.shape[1], spectrogram.shape[2], device), other, spectrogram)


def virtual_labels(partner: Ints, lam: Doubles) -> Tensor:
    """Virtual labels (paper, Eq. 3), (B, B) float32: y_i = lambda_i e_i + (1 - lambda_i) e_j; rows sum to 1."""
    batch = len(lam)
    labels = torch.zeros(batch, batch, dtype=torch.float64)
    index, share = torch.arange(batch), torch.from_numpy(lam)
    labels[index, torch.from_numpy(partner)] += 1 - share
    labels[index, index] += share
    return labels.float()


def _inside(box: Boxes, frames: int, mel_bins: int, device: torch.device) -> Tensor:
    """Mask of the box, (B, T, F) or (B, T, 1) bool: True inside."""

    def along(first: Ints, count: Ints, size: int) -> Tensor:
        position = torch.arange(size, device=device)
        low = torch.from_numpy(first).to(device)[:, None]
        return (position >= low) & (position < low + torch.from_numpy(count).to(device)[:, None])

    time = along(box.start, box.width, frames)[:, :, None]
    if bool((box.height == mel_bins).all()):
        return time
    return time & along(box.low, box.height, mel_bins)[:, None, :]
