"""Multinomial logistic regression with an L2 penalty and free intercepts, for many small problems at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from uamix_bench.util.arrays import Doubles

Reals = npt.NDArray[np.floating[Any]]

_STEPS, _TRIALS = 100, 30
_CONVERGED = 1e-7  # of the first gradient's length
_LOOSE, _TIGHT = 0.3, 1e-3  # of the gradient: to what a Newton step is solved, far from the optimum and near it
_FLAT = 0.1  # of the slope at the beginning of a line: where its search ends
_TINY = float(np.finfo(np.float64).tiny)


def softmax_regression(points: Doubles, targets: Doubles, penalty: float, rough: npt.DTypeLike) -> Doubles:
    """Minimises ``sum -log softmax(X W + b)[y] + penalty |W|^2 / 2`` for B problems at once, by Newton steps.

    Each step is solved by conjugate gradients, as far as the gradient has still to fall, and is as long as is best. The
    loss and its gradient are computed in float64, so that rounding in a step costs steps but no digits.

    Args:
        points: Features of the m points of each problem, (B, m, r) float64.
        targets: One-hot classes of the points, (m, N) float64.
        penalty: Strength of the L2 term; the intercepts are free.
        rough: Type in which a step is solved: float32, or float64 for points of very different lengths.

    Returns:
        Weights with the intercepts last, (B, r + 1, N) float64.
    """
    points = np.concatenate([points, np.ones((*points.shape[:2], 1))], axis=2)
    back = points.transpose(0, 2, 1)
    ridge = np.full((points.shape[2], 1), penalty)
    ridge[-1] = 0.0
    weights = np.zeros((len(points), points.shape[2], targets.shape[1]))
    logits = np.zeros((len(points), *targets.shape))
    p = _softmax(logits)
    roughly = points.astype(rough), ridge.astype(rough)
    for newton in range(_STEPS):
        gradient = back @ (p - targets)
        gradient += ridge * weights
        power = _inner(gradient, gradient)
        if newton == 0:
            first = power
        if np.all(power <= _CONVERGED**2 * first):
            break
        accuracy = np.clip(np.sqrt(power / np.maximum(first, _TINY)), _TIGHT, _LOOSE)
        scale = np.sqrt(np.maximum(power, _TINY))[:, None, None]  # so that float32 holds its squares
        step = scale * _conjugate_gradient(*roughly, p.astype(rough), (gradient / scale).astype(rough), accuracy)
        change = points @ step
        slope = _inner(ridge * weights, step)
        bend = _inner(ridge * step, step)
        length, p = _search(logits, change, targets, slope, bend)
        weights += length * step
        logits += length * change
    return weights


def _conjugate_gradient(points: Reals, ridge: Reals, p: Reals, gradient: Reals, accuracy: Doubles) -> Reals:
    """Solves ``H step = -gradient``, H the Hessian of the loss, down to a share `accuracy` (B,) of the gradient."""
    back = points.transpose(0, 2, 1)
    step = np.zeros_like(gradient)
    residual = -gradient
    direction = residual.copy()
    power = _inner(residual, residual)
    enough = (accuracy**2).astype(power.dtype) * power
    for _ in range(gradient[0].size):
        change = points @ direction
        change *= p
        change -= p * change.sum(axis=2, keepdims=True)
        image = back @ change
        image += ridge * direction
        curvature = _inner(direction, image)
        moving = (power > enough) & (curvature > 0)
        if not moving.any():
            break
        length = np.divide(power, curvature, out=np.zeros_like(power), where=moving)[:, None, None]
        step += length * direction
        residual -= length * image
        previous, power = power, _inner(residual, residual)
        direction *= np.divide(power, previous, out=np.zeros_like(power), where=moving)[:, None, None]
        direction += residual
    return step


def _search(
    logits: Doubles, change: Doubles, targets: Doubles, slope: Doubles, bend: Doubles
) -> tuple[Doubles, Doubles]:
    """Finds how far to go along a step, where the loss is least, by Newton's method within a bracket.

    Args:
        logits: Logits at the beginning, (B, m, N).
        change: Change of the logits over the step, (B, m, N).
        targets: One-hot classes of the points, (m, N).
        slope: First derivative of the L2 term at the beginning, (B,).
        bend: Second derivative of the L2 term, (B,).

    Returns:
        Lengths, (B, 1, 1), and the probabilities of the classes there, (B, m, N).
    """
    slope = slope - _inner(np.broadcast_to(targets, change.shape), change)
    flat = _FLAT * np.abs(_inner(_softmax(logits), change) + slope)
    length, low, high = np.ones(len(logits)), np.zeros(len(logits)), np.full(len(logits), np.inf)
    for _ in range(_TRIALS):
        p = _softmax(logits + length[:, None, None] * change)
        here = _inner(p, change) + slope + length * bend
        searching = np.abs(here) > flat
        if not searching.any():
            break
        moved = p * change
        curvature = _inner(moved, change) - (moved.sum(axis=2) ** 2).sum(axis=1) + bend
        low, high = np.where(here < 0, length, low), np.where(here > 0, length, high)
        best = length - np.divide(here, curvature, out=np.zeros_like(here), where=curvature > 0)
        otherwise = np.where(np.isfinite(high), low + (high - low) / 2, 2 * length)
        length = np.where(searching, np.where((low < best) & (best < high), best, otherwise), length)
    return length[:, None, None], p


def _softmax(logits: Doubles) -> Doubles:
    p: Doubles = np.exp(logits - logits.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    return p


def _inner(left: Reals, right: Reals) -> Any:
    """Inner product of the two matrices of each problem, (B,)."""
    return np.vecdot(left.reshape(len(left), -1), right.reshape(len(right), -1))
