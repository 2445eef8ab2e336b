"""Multinomial logistic regression with an L2 penalty and free intercepts, for many small problems at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uamix_bench.util.arrays import Doubles

Reals = npt.NDArray[np.floating[Any]]

_STEPS, _TRIALS = 100, 30
_CONVERGED = 1e-7  # of the first gradient's length
_LOOSE, _TIGHT = 0.3, 1e-3  # of the gradient: to what a Newton step is solved, far from the optimum and near it
_FLAT = 0.01  # of the slope at the beginning of a line: where its search ends
_INSIDE = 0.1, 0.9  # of a bracket: where a search goes on, as it may crawl along where classes are certain
_SHORTEST = 1e-6  # gradient of the weights, in those of the intercepts
_TINY = float(np.finfo(np.float64).tiny)


class Regression(NamedTuple):
    """Weights (B, N, D) and intercepts (B, N) of N classes in each of B problems, float64."""

    weights: Doubles
    intercepts: Doubles


class _Span(NamedTuple):
    """Coordinates (B, N, r) of weights: shares of the points, or the weights themselves where points are many.

    Attributes:
        across: Matrix from coordinates to logits of the points, (B, r, m): products of pairs of points, or the points.
        points: Points, (B, m, D); None if coordinates are shares, as a gradient by the logits then has them.
    """

    across: Reals
    points: Reals | None

    def gradient(self, by_logits: Reals) -> Any:
        """Coordinates of the gradient by the weights, from that by the logits, (B, N, m)."""
        return by_logits if self.points is None else by_logits @ self.points

    def inner(self, left: Reals, right: Reals, logits: Reals) -> Any:
        """Inner products (B,) of two weights in coordinates; `logits` are those of the right one."""
        return _inner(left, logits if self.points is None else right)


def softmax_regression(points: Doubles, targets: Doubles, penalty: float, rough: npt.DTypeLike) -> Regression:
    """Minimises ``sum -log softmax(W x + b)[y] + penalty |W|^2 / 2`` for B problems at once, by Newton steps.

    The optimum is a combination of the points, so the products of pairs of points are all that few points need. Each
    step is solved by conjugate gradients, as far as brings the gradient to its goal, and is as long as is best. The
    loss and its gradient are computed in float64, so that rounding in a step costs steps but no digits.

    Args:
        points: Features of the m points of each problem, (B, m, D) float64.
        targets: One-hot classes of the points, (N, m) float64.
        penalty: Strength of the L2 term; the intercepts are free.
        rough: Type in which a step is solved: float32, or float64 for points of very different lengths.
    """
    middle = points.mean(axis=1)
    points = points - middle[:, None]
    back = points.transpose(0, 2, 1)
    few = points.shape[1] <= points.shape[2]
    span = _Span(points @ back, None) if few else _Span(back, points)
    if few:  # each point gets a trace of a feature of its own, or shares without any effect would grow unseen
        span.across.reshape(len(points), -1)[:, :: points.shape[1] + 1] *= 1 + np.finfo(rough).eps
    roughly = _Span(span.across.astype(rough), None if few else points.astype(rough))
    logits = np.zeros((len(points), *targets.shape))
    weights = np.zeros((*logits.shape[:2], span.across.shape[1]))
    intercepts = np.zeros(logits.shape[:2])
    p = _softmax(logits)
    goal = None
    for _ in range(_STEPS):
        error = p - targets
        free = error.sum(axis=2)
        gradient = span.gradient(error)
        gradient += penalty * weights
        steepest = np.maximum(np.abs(gradient).max(axis=(1, 2)), _SHORTEST * np.abs(free).max(axis=1))
        scale = np.maximum(steepest, _TINY)[:, None]  # so that float32 holds its squares, of points that are alike too
        residual, rest = (-gradient / scale[..., None]).astype(rough), (-free / scale).astype(rough)
        along = residual @ roughly.across
        power = roughly.inner(residual, residual, along) + _inner(rest, rest)
        left = scale[:, 0] * np.sqrt(power)
        if goal is None:
            goal = _CONVERGED * left
        if np.all(left <= goal):
            break
        share = goal / np.maximum(left, _TINY)
        accuracy = np.clip(np.maximum(np.sqrt(_CONVERGED / np.maximum(share, _TINY)), share / 10), _TIGHT, _LOOSE)
        step, shift = _conjugate_gradient(roughly, penalty, p.astype(rough), residual, rest, along, accuracy)
        step, shift = scale[..., None] * step, scale * shift
        moved = step @ span.across
        slope, bend = penalty * span.inner(weights, step, moved), penalty * span.inner(step, step, moved)
        moved += shift[..., None]
        length, p = _search(logits, moved, targets, slope, bend)
        weights += length * step
        intercepts += length[..., 0] * shift
        logits += length * moved
    if few:
        weights = weights @ points
    return Regression(weights, intercepts - np.vecdot(weights, middle[:, None]))


def _conjugate_gradient(
    span: _Span, penalty: float, p: Reals, residual: Reals, rest: Reals, along: Reals, accuracy: Doubles
) -> tuple[Reals, Reals]:
    """Solves ``H step = residual``, H the Hessian of the loss, down to a share `accuracy` (B,) of the residual.

    Args:
        span: Coordinates of weights.
        penalty: Strength of the L2 term.
        p: Probabilities of the classes, (B, N, m).
        residual: Negative gradient by the weights in coordinates, (B, N, r); it is overwritten, as are the next two.
        rest: Negative gradient by the intercepts, (B, N).
        along: Logits of `residual`, (B, N, m).
        accuracy: Share of the residual that may be left, (B,).

    Returns:
        Step of the weights in coordinates, (B, N, r), and of the intercepts, (B, N).
    """
    direction, turn = residual.copy(), rest.copy()
    step, shift = np.zeros_like(direction), np.zeros_like(turn)
    power = span.inner(residual, residual, along) + _inner(rest, rest)
    enough = (accuracy**2).astype(power.dtype) * power
    image, logits = np.empty_like(p), np.empty_like(p)
    for _ in range(direction[0].size):
        np.add(along, turn[..., None], out=image)
        image *= p
        image -= np.multiply(p, image.sum(axis=1, keepdims=True), out=logits)
        sums = image.sum(axis=2)
        change = span.gradient(image)
        change += penalty * direction
        curvature = span.inner(change, direction, along) + _inner(turn, sums)
        moving = (power > enough) & (curvature > 0)
        if not moving.any():
            break
        length = np.divide(power, curvature, out=np.zeros_like(power), where=moving)[:, None]
        step += length[..., None] * direction
        shift += length * turn
        residual -= length[..., None] * change
        rest -= length * sums
        np.matmul(residual, span.across, out=logits)
        previous, power = power, span.inner(residual, residual, logits) + _inner(rest, rest)
        share = np.divide(power, previous, out=np.zeros_like(power), where=moving)[:, None]
        for kept, new in ((direction, residual), (along, logits), (turn[..., None], rest[..., None])):
            kept *= share[..., None]
            kept += new
    return step, shift


def _search(
    logits: Doubles, change: Doubles, targets: Doubles, slope: Doubles, bend: Doubles
) -> tuple[Doubles, Doubles]:
    """Finds how far to go along a step, where the loss is least, by Newton's method well inside a bracket.

    Args:
        logits: Logits at the beginning, (B, N, m).
        change: Change of the logits over the step, (B, N, m).
        targets: One-hot classes of the points, (N, m).
        slope: First derivative of the L2 term at the beginning, (B,).
        bend: Second derivative of the L2 term, (B,).

    Returns:
        Lengths, (B, 1, 1), and the probabilities of the classes there, (B, N, m).
    """
    slope = slope - _inner(np.broadcast_to(targets, change.shape), change)
    flat = _FLAT * np.abs(_inner(_softmax(logits), change) + slope)
    length, low, high = np.ones(len(logits)), np.zeros(len(logits)), np.full(len(logits), np.inf)
    for trial in range(_TRIALS):
        p = _softmax(logits + length[:, None, None] * change)
        here = _inner(p, change) + slope + length * bend
        searching = np.abs(here) > flat
        if trial == _TRIALS - 1 or not searching.any():
            break
        moved = p * change
        curvature = _inner(moved, change) - (moved.sum(axis=1) ** 2).sum(axis=1) + bend
        low, high = np.where(here < 0, length, low), np.where(here > 0, length, high)
        best = length - np.divide(here, curvature, out=np.zeros_like(here), where=curvature > 0)
        ends = low + np.multiply.outer(_INSIDE, np.where(np.isfinite(high), high - low, 10 * length))
        length = np.where(searching, np.clip(np.where(curvature > 0, best, np.inf), *ends), length)
    return length[:, None, None], p


def _softmax(logits: Doubles) -> Doubles:
    p: Doubles = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p


def _inner(left: Reals, right: Reals) -> Any:
    """Inner product of the two matrices of each problem, (B,)."""
    return np.vecdot(left.reshape(len(left), -1), right.reshape(len(right), -1))
