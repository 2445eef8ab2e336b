"""Health check of embeddings, made before any score and stored with it, as broken encoders give scores too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from uamix_bench.plugins.card import Frozen
from uamix_bench.util.arrays import Floats, Mask
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.text import listed

_RANK_ROWS = 2_000  # enough to tell a rank of 4 from one of 40, and bounds the time
_LOW_RANK = 4.0
_SOME, _MANY = 0.05, 0.5  # shares of duplicates that are worth a note, and that are not an encoder's
_FAR = 10.0  # times the median norm, or a tenth of it
_USUAL = 1e-10, 1e10  # median norms
_NAMED = 3  # clips or classes that a note names
_EQUAL = 1e-5  # of a vector's largest value: ten times what float32 sums differ by in another order


class Clips(NamedTuple):
    """Names of the n clips for notes: their ids, and the labels of their classes."""

    names: Sequence[str]
    labels: Sequence[str]


class Health(Frozen):
    """Health of embeddings. All counts are of distinct clips: copies of one file are one clip.

    Attributes:
        verdict: Verdict on the embeddings: ``red`` if scores mean nothing, ``yellow`` if a note needs a look, else
            ``green``.
        clips: Number of distinct clips.
        non_finite: Number of clips whose embedding holds a NaN or an infinity.
        silent: Number of silent clips. They may share an embedding and are left out of the figures below.
        duplicate_share: Share of clips whose embedding equals that of another clip.
        effective_rank: Effective rank: exp of the entropy of the normalised singular values of the centred embeddings
            (Roy and Vetterli, "The effective rank", EUSIPCO 2007), on at most 2,000 clips; None below two.
        norms: Least, median and largest Euclidean norm; None without a clip.
        notes: Reasons for the verdict and further facts, one line each.
    """

    verdict: Literal["green", "yellow", "red"]
    clips: int
    non_finite: int
    silent: int
    duplicate_share: float
    effective_rank: float | None
    norms: tuple[float, float, float] | None
    notes: tuple[str, ...] = ()


def check(vectors: Floats, keys: Sequence[bytes], silent: Mask | None = None, clips: Clips | None = None) -> Health:
    """Checks the health of embeddings.

    Args:
        vectors: Embeddings, (n, D) float32.
        keys: Digests of the n embedded sounds. Clips with equal keys count once, except in the note on silent ones.
        silent: Mask of the silent clips, (n,) bool; None for none.
        clips: Names of the clips for notes; None gives notes with numbers alone.
    """
    _, first = np.unique(np.asarray(keys, "S"), return_index=True)
    first.sort()
    finite = np.isfinite(vectors[first]).all(axis=1)
    quiet = np.zeros(len(first), np.bool_) if silent is None else silent[first]
    sound = vectors[first[finite & ~quiet]]
    share = float(duplicates(sound).mean()) if len(sound) else 0.0
    norms = np.linalg.norm(vectors[first].astype(np.float64), axis=1)
    usual = float(np.median(norms[finite])) if finite.any() else 0.0
    far = finite & (norms > _FAR * usual)
    plain = vectors[first[finite & ~quiet & ~far]]  # one far out is a direction of its own, and the only one
    rank = effective_rank(plain) if len(plain) > 1 else None

    broken = int((~finite).sum())
    red: list[str] = []
    yellow: list[str] = []
    if broken:
        red.append(f"{broken} of {len(first)} embeddings hold a NaN or infinite value")
    if share > _MANY:
        red.append(f"{share:.0%} of clips share their embedding with a different clip")
    elif share > _SOME:
        yellow.append(f"{share:.1%} of clips share their embedding with a different clip")
    if rank is not None and rank < min(_LOW_RANK, len(sound) / 2):  # few clips span little anyway
        yellow.append(f"effective rank {rank:.1f}: the embeddings vary in hardly any direction")
    if usual and far.any():
        who = f": {listed((str(clips.names[row]) for row in first[far]), _NAMED)}" if clips else ""
        most = f"norms up to {norms[far].max():.2g} where the median is {usual:.2g}"
        yellow.append(f"{_of(far, 'embedding')} far out ({most}){who}")
    if usual and not _USUAL[0] < usual < _USUAL[1]:
        yellow.append(f"median norm {usual:.2g}: logistic-regression, whose penalty has a scale, means little")
    aside: list[str] = []
    if silent is not None and silent.any():
        whole = _silent_classes(silent, clips.labels) if clips else []
        line = f"{_of(silent, 'clip')} silent"
        if whole and not silent.all():
            line += f", all of class{'es' * (len(whole) > 1)} {listed(whole, _NAMED)}"
        (yellow if whole or silent.all() else aside).append(line)
    heard = norms[finite & ~quiet]
    return Health(
        verdict="red" if red else "yellow" if yellow else "green",
        clips=len(first),
        non_finite=broken,
        silent=int(quiet.sum()),
        duplicate_share=share,
        effective_rank=rank,
        norms=(float(heard.min()), float(np.median(heard)), float(heard.max())) if len(heard) else None,
        notes=(*red, *yellow, *aside),
    )


def _silent_classes(silent: Mask, labels: Sequence[str]) -> list[str]:
    """Labels of the classes whose clips are all silent, sorted."""
    every = np.asarray(labels, object)
    return sorted(set(every[silent]) - set(every[~silent]))


def _of(chosen: Mask, what: str) -> str:
    """Count in words, up to the adjective: ``4 of 16 clips are``."""
    count = int(chosen.sum())
    return f"{count} of {len(chosen)} {what}s {'is' if count == 1 else 'are'}"


def raise_if_red(health: Health, subject: str, allow: bool = False) -> None:
    """Refuses embeddings of red health, whose scores would mean nothing.

    Args:
        health: Health of the embeddings.
        subject: Names of model and task, for the error line.
        allow: True accepts red health (``--allow-unhealthy``).

    Raises:
        BadInputError: The verdict is red and `allow` is False.
    """
    if health.verdict == "red" and not allow:
        reason = f"unhealthy embeddings ({'; '.join(health.notes)})"
        raise BadInputError(subject, reason, "check the weights, or score anyway with --allow-unhealthy")


def duplicates(vectors: Floats) -> Mask:
    """Mask (n,) bool of the finite float32 `vectors` (n, D) that equal another, to 1e-5 of their largest value.

    Sorted by one projection, equal vectors are neighbours, unless others happen to fall between them.
    """
    direction = np.cos(np.arange(1, vectors.shape[1] + 1) ** 2)  # fixed, and aligned with nothing
    starts = range(0, len(vectors), 4_096)  # what is copied at a time
    projected = [vectors[start : start + 4_096].astype(np.float64) @ direction for start in starts]
    order = np.argsort(np.concatenate([np.zeros(0), *projected]), kind="stable")
    equal = np.zeros(len(vectors), np.bool_)
    for start in starts:
        here, after = order[start : start + 4_096], order[start + 1 : start + 4_097]
        a, b = vectors[here[: len(after)]], vectors[after]
        with np.errstate(over="ignore"):
            near = np.abs(a - b).max(axis=1) <= _EQUAL * np.abs(a).max(axis=1)
        equal[here[: len(after)][near]] = True
        equal[after[near]] = True
    return equal


def effective_rank(vectors: Floats) -> float:
    """Effective rank of finite `vectors` (n, D): 1 along a line, at most min(n - 1, D), 0 if all are equal."""
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
