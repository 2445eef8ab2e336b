"""Multinomial logistic regression with an L2 penalty and free intercepts, for many small problems at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uamix_bench.util.arrays import Mask

Reals = npt.NDArray[np.floating[Any]]

_STEPS, _TRIALS, _RETREATS = 2_000, 10, 20
_ROUGH, _FINER, _CONVERGED = 1e-4, 0.1, 1e-7  # of the first gradient's length: first, next, and last approximation
_FLAT = 0.1  # of a search's first decrement: where it ends
_BEYOND = 0.9  # of the slope at the beginning of a Newton step: a rise as steep is far beyond the minimum


class Regression(NamedTuple):
    """Logistic regressions of N classes, fitted to m points in each of B problems.

    Attributes:
        shares: Shares of the points in the weights of the classes, (B, N, m): weights are ``shares @ points``.
        intercepts: Intercepts of the classes, (B, N).
        distance: Most that the weights of all classes may be away from the optimum, as one vector, (B,). The loss
            curves by at least the penalty, so this is the length of its gradient, by the penalty.
    """

    shares: Reals
    intercepts: Reals
    distance: Reals


def softmax_regression(factors: Sequence[Reals], targets: Reals) -> Iterator[Regression]:
    """Minimises ``sum -log softmax(W x + b)[y] + |W|^2 / 2`` for B problems at once; with ``|W|^2`` of two classes.

    The best weights are combinations of the points, so the products K of pairs of points are all that is needed. Of
    shares A, probabilities P and one-hot classes Y, the gradient by the weights has the shares G = P - Y + A, and its
    squared length is the sum of G times G K. Steps go along nonlinear conjugate gradients (Polak and Ribiere's, with
    restarts; Nocedal and Wright 2006, section 5.2), so that one product with K is all that a step takes. The length of
    a step and all intercepts are found together, by Newton's method: so the intercepts are the best ones at every
    step, and cost the weights no steps.

    Args:
        factors: Products of pairs of points, (B, m, m), alone; or the points (B, m, D) and their transpose, whose
            product these are. Their type is that of the arithmetic.
        targets: One-hot classes of the points, (N, m), each of which has a point.

    Yields:
        Ever closer approximations. A next one overwrites the shares of the last.
    """
    kind = factors[0].dtype
    targets, penalty = targets.astype(kind), kind.type(2 if len(targets) == 2 else 1)
    portions = targets.mean(axis=1)  # of the points in each class: probabilities where all weights are zero
    intercepts = np.zeros((len(factors[0]), len(targets)), kind) + np.log(portions)
    p = np.zeros((*intercepts.shape, targets.shape[1]), kind) + portions[:, None]
    shares, logits, step, change, last_image = np.zeros((5, *p.shape), kind)
    last_power, level = np.ones(len(p), kind), _ROUGH
    first = None
    for number in range(_STEPS):
        gradient = p - targets
        gradient += penalty * shares
        image = gradient
        for factor in factors:
            image = image @ factor
        power = np.maximum(_inner(gradient, image), 0)
        first = power if first is None else first
        moving = power > _CONVERGED**2 * first
        if number == _STEPS - 1 or (power <= level**2 * first).all() or not moving.any():
            yield Regression(shares, intercepts, np.sqrt(power) / penalty)
            level *= _FINER
            if not moving.any():
                break
        kept = np.maximum(power - _inner(gradient, last_image), 0) / last_power
        for conjugate, steepest in ((step, gradient), (change, image)):
            conjugate *= np.where(moving, kept, 0)[:, None, None]
            conjugate -= steepest
        slope, bend = penalty * _inner(shares, change), penalty * _inner(step, change)
        length, intercepts, p = _search(logits, change, targets, intercepts, p, slope, bend, moving)
        shares += length * step
        logits += length * change
        last_image, last_power = image, np.where(moving, power, 1)


def _search(
    logits: Reals, change: Reals, targets: Reals, intercepts: Reals, p: Reals, slope: Reals, bend: Reals, moving: Mask
) -> tuple[Reals, Reals, Reals]:
    """Finds how far to go along a step, and the intercepts there, by Newton's method.

    Args:
        logits: Logits at the beginning, without intercepts, (B, N, m).
        change: Change of these over the step, (B, N, m).
        targets: One-hot classes of the points, (N, m).
        intercepts: Intercepts at the beginning, (B, N).
        p: Probabilities of the classes at the beginning, (B, N, m).
        slope: First derivative of the L2 term at the beginning, (B,).
        bend: Second derivative of the L2 term, (B,).
        moving: Problems that are to be moved, (B,).

    Returns:
        Lengths (B, 1, 1), and intercepts and probabilities there.
    """
    length, goal = np.zeros_like(slope), None
    error = p - targets
    rise, pull = _inner(error, change) + slope, error.sum(axis=2)  # derivatives by length and by intercepts
    for _ in range(_TRIALS):
        inverse = _inverse_hessian(p)
        bent = p * change
        bent -= p * bent.sum(axis=1, keepdims=True)
        mixed = bent.sum(axis=2)  # second derivatives by length and intercepts
        aside = (inverse @ mixed[..., None])[..., 0]
        curvature = _inner(bent, change) + bend - np.vecdot(mixed, aside)
        moving = moving & (curvature > 0)
        onward, turn, decrement = _newton(rise, pull, inverse, aside, curvature, moving)
        goal = _FLAT * decrement if goal is None else goal
        begun, begun_at, part = length, intercepts, np.ones_like(length)
        for _ in range(_RETREATS):
            length, intercepts = begun + part * onward, begun_at + part[:, None] * turn
            p = length[:, None, None] * change
            p += logits
            p += intercepts[..., None]
            _to_softmax(p)
            error = p - targets
            rise, pull = _inner(error, change) + slope + length * bend, error.sum(axis=2)
            beyond = onward * rise + np.vecdot(turn, pull) > _BEYOND * decrement
            if not beyond.any():
                break
            part = np.where(beyond, part / 4, part)
        moving = moving & (_newton(rise, pull, inverse, aside, curvature, moving)[2] > goal)
        if not moving.any():
            break
    return length[:, None, None], intercepts, p


def _newton(
    rise: Reals, pull: Reals, inverse: Reals, aside: Reals, curvature: Reals, moving: Mask
) -> tuple[Reals, Reals, Reals]:
    """Newton step in length (B,) and intercepts (B, N), and how steeply it begins to fall, (B,)."""
    onward = np.divide(np.vecdot(aside, pull) - rise, curvature, out=np.zeros_like(rise), where=moving)
    turn = np.where(moving[:, None], -(inverse @ pull[..., None])[..., 0] - onward[:, None] * aside, 0)
    return onward, turn, -(onward * rise + np.vecdot(turn, pull))


def _inverse_hessian(p: Reals) -> Reals:
    """Inverse of the second derivatives by the intercepts, (B, N, N), of which only differences matter."""
    hessian = -p @ p.transpose(0, 2, 1)
    diagonal = np.arange(p.shape[1])
    hessian[:, diagonal, diagonal] = 0
    sums = hessian.sum(axis=2)
    hessian[:, diagonal, diagonal] = np.finfo(p.dtype).eps * p.shape[2] - sums
    hessian -= sums.mean(axis=1)[:, None, None]
    return np.linalg.inv(hessian)


def _to_softmax(logits: Reals) -> None:
    """Turns logits (B, N, m) into probabilities, in place."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)


def _inner(left: Reals, right: Reals) -> Any:
    """Inner product of the two matrices of each problem, (B,)."""
    return np.vecdot(left.reshape(len(left), -1), right.reshape(len(right), -1))
