"""Multinomial logistic regression of many small problems at once, in float64."""

from __future__ import annotations

import numpy as np

from uamix_bench.util.arrays import Doubles

_NEWTON_STEPS, _HALVINGS = 100, 30


def softmax_regression(features: Doubles, targets: Doubles, penalty: float) -> Doubles:
    """Minimises ``sum -log softmax(X W + b)[y] + penalty |W|^2 / 2`` for B problems at once, by Newton steps.

    Args:
        features: Features of the m supports of each problem, (B, m, r) float64.
        targets: One-hot classes of the supports, (m, N) float64.
        penalty: Strength of the L2 term; the intercepts are free.

    Returns:
        Weights with the intercepts last, (B, r + 1, N) float64.
    """
    points = np.concatenate([features, np.ones((*features.shape[:2], 1))], axis=2)
    back = np.ascontiguousarray(points.transpose(0, 2, 1))
    ridge = np.full((points.shape[2], 1), penalty)
    ridge[-1] = 0.0
    weights = np.zeros((len(points), points.shape[2], targets.shape[1]))

    def loss(weights: Doubles) -> tuple[Doubles, Doubles]:
        logits = points @ weights
        logits -= logits.max(axis=2, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
        return 0.5 * _inner(ridge * weights, weights) - _inner(log_p, targets), np.exp(log_p)

    value, p = loss(weights)
    for newton in range(_NEWTON_STEPS):
        gradient = back @ (p - targets) + ridge * weights
        steepness = np.abs(gradient).max(axis=(1, 2))
        if newton == 0:
            enough = 1e-7 * steepness
        if np.all(steepness <= enough):
            break
        step = _conjugate_gradient(points, back, p, ridge, gradient)
        slope = _inner(gradient, step)
        scale = np.ones(len(points))
        for _ in range(_HALVINGS):
            trial, trial_p = loss(weights + scale[:, None, None] * step)
            worse = trial > value + 1e-4 * scale * slope + 1e-12 * np.abs(value)
            if not worse.any():
                break
            scale[worse] *= 0.5
        weights += scale[:, None, None] * step
        value, p = trial, trial_p
    return weights


def _conjugate_gradient(points: Doubles, back: Doubles, p: Doubles, ridge: Doubles, gradient: Doubles) -> Doubles:
    """Solves ``H step = -gradient``, H the Hessian of the softmax loss, to a thousandth of the gradient."""
    step = np.zeros_like(gradient)
    residual = -gradient
    direction = residual.copy()
    power = _inner(residual, residual)
    enough = 1e-6 * power
    for _ in range(gradient[0].size):
        if np.all(power <= enough):
            break
        change = points @ direction
        change = p * (change - (p * change).sum(axis=2, keepdims=True))
        image = back @ change + ridge * direction
        curvature = _inner(direction, image)
        length = np.divide(power, curvature, out=np.zeros_like(power), where=(power > enough) & (curvature > 0))
        step += length[:, None, None] * direction
        residual -= length[:, None, None] * image
        previous, power = power, _inner(residual, residual)
        ratio = np.divide(power, previous, out=np.zeros_like(power), where=previous > 0)
        direction = residual + ratio[:, None, None] * direction
    return step


def _inner(left: Doubles, right: Doubles) -> Doubles:
    """Inner product of the two matrices of each problem, (B,)."""
    product: Doubles = (left * right).sum(axis=(1, 2))
    return product
