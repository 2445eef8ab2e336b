"""Are these embeddings sane? Asked before any score and stored with it: broken encoders score too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from uamix_bench.util.errors import BadInputError

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_RANK_ROWS = 2_000  # enough to tell a rank of 4 from one of 40, and bounds the time
_LOW_RANK = 4.0
_SOME, _MANY = 0.05, 0.5  # shares of duplicates that are worth a note, and that are not an encoder's
_EQUAL = 1e-5  # of a vector's largest value: ten times what float32 sums differ by in another order


class Health(BaseModel):
    """What was found. All counts are of distinct clips: copies of one file are one clip.

    Attributes:
        verdict: ``red``: scores mean nothing; ``yellow``: they deserve a look; ``green``.
        clips: Distinct clips looked at.
        non_finite: Of these, the ones whose embedding holds a NaN or an infinity.
        silent: Of these, the ones that are silent. They may share an embedding and count in nothing below.
        duplicate_share: Share whose embedding equals that of another clip.
        effective_rank: exp of the entropy of the normalised singular values of the centred embeddings (Roy
            and Vetterli, "The effective rank", EUSIPCO 2007), on at most 2,000 clips; None below two.
        norms: Least, median and largest Euclidean norm; None without a clip.
        notes: What led to the verdict, one line each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Literal["green", "yellow", "red"]
    clips: int
    non_finite: int
    silent: int
    duplicate_share: float
    effective_rank: float | None
    norms: tuple[float, float, float] | None
    notes: tuple[str, ...] = ()


def check(vectors: Floats, keys: Sequence[bytes], silent: Mask | None = None) -> Health:
    """Looks at embeddings.

    Args:
        vectors: (n, D) float32.
        keys: n digests of what was embedded; equal keys are one clip.
        silent: (n,) bool, which clips are silent; None for none.
    """
    _, first = np.unique(np.asarray(keys, "S"), return_index=True)
    first.sort()
    finite = np.isfinite(vectors[first]).all(axis=1)
    quiet = np.zeros(len(first), np.bool_) if silent is None else silent[first]
    sound = vectors[first[finite & ~quiet]]
    share = float(duplicates(sound).mean()) if len(sound) else 0.0
    rank = effective_rank(sound) if len(sound) > 1 else None
    norms = np.linalg.norm(sound.astype(np.float64), axis=1)

    broken = int((~finite).sum())
    red, yellow = [], []
    if broken:
        red.append(f"{broken} of {len(first)} embeddings hold a NaN or infinite value")
    if share > _MANY:
        red.append(f"{share:.0%} of clips share their embedding with a different clip")
    elif share > _SOME:
        yellow.append(f"{share:.1%} of clips share their embedding with a different clip")
    if rank is not None and rank < min(_LOW_RANK, len(sound) / 2):  # few clips span little anyway
        yellow.append(f"effective rank {rank:.1f}: the embeddings vary in hardly any direction")
    if len(first) and quiet.all():
        yellow.append("every clip is silent")
    return Health(
        verdict="red" if red else "yellow" if yellow else "green",
        clips=len(first),
        non_finite=broken,
        silent=int(quiet.sum()),
        duplicate_share=share,
        effective_rank=rank,
        norms=(float(norms.min()), float(np.median(norms)), float(norms.max())) if len(norms) else None,
        notes=(*red, *yellow),
    )


def raise_if_red(health: Health, subject: str, allow: bool = False) -> None:
    """Stops before a score that means nothing.

    Args:
        health: Of the embeddings.
        subject: Whose they are: the model's name, and the task's.
        allow: Lets them pass (``--allow-unhealthy``).

    Raises:
        BadInputError: The verdict is red and `allow` is False.
    """
    if health.verdict == "red" and not allow:
        reason = f"unhealthy embeddings ({'; '.join(health.notes)})"
        raise BadInputError(subject, reason, "check the weights, or score anyway with --allow-unhealthy")


def duplicates(vectors: Floats) -> Mask:
    """Which of (n, D) finite float32 `vectors` equal another, to 1e-5 of their largest value; (n,) bool.

    Sorted by one projection, equals are neighbours, but for others that happen to fall between them.
    """
    direction = np.cos(np.arange(1, vectors.shape[1] + 1) ** 2)  # fixed, and aligned with nothing
    starts = range(0, len(vectors), 4_096)  # what is copied at a time
    projected = [vectors[start : start + 4_096].astype(np.float64) @ direction for start in starts]
    order = np.argsort(np.concatenate([np.zeros(0), *projected]), kind="stable")
    equal = np.zeros(len(vectors), np.bool_)
    for start in starts:
        here, after = order[start : start + 4_096], order[start + 1 : start + 4_097]
        a, b = vectors[here[: len(after)]], vectors[after]
        near = np.abs(a - b).max(axis=1) <= _EQUAL * np.abs(a).max(axis=1)
        equal[here[: len(after)][near]] = True
        equal[after[near]] = True
    return equal


def effective_rank(vectors: Floats) -> float:
    """The effective rank of (n, D) finite `vectors`: 1 along a line, at most min(n - 1, D), 0 if all are equal."""
    chosen = np.linspace(0, len(vectors) - 1, min(len(vectors), _RANK_ROWS)).round().astype(np.intp)
    centred = vectors[chosen].astype(np.float64)
    centred -= centred.mean(axis=0)
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    spectrum = np.sqrt(np.linalg.eigvalsh(gram).clip(min=0))
    total = spectrum.sum()
    if total <= _EQUAL * np.abs(vectors).max():
        return 0.0
    share = spectrum[spectrum > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))
