"""Entrants of a leaderboard: the models of results, each with a label, a speed and a look of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from uamix_bench.plugins.card import ModelIdentity
from uamix_bench.records.results import Result, model_labels
from uamix_bench.reports.looks import looks


class Speed(NamedTuple):
    """Embedding speed of a model: clips per second, the device, and True if an earlier run made cached embeddings."""

    clips_per_s: float
    device: str
    earlier: bool = False


@dataclass(frozen=True)
class Entrant:
    """Entrant of the leaderboard: a model as it was evaluated, one row.

    Attributes:
        identity: Identity of the model: all that may change its embeddings.
        label: Name of the model, with all that tells it from others of that name.
        speed: Embedding speed of the run that embedded most clips, or of the earlier runs that made cached embeddings;
            None if neither is recorded.
        look: Number of the model's look in figures.
    """

    identity: ModelIdentity
    label: str
    speed: Speed | None
    look: int


def entrants(results: Sequence[Result]) -> dict[ModelIdentity, Entrant]:
    """Entrants by model."""
    labels = model_labels(result.model for result in results)
    look = looks(labels.values())
    return {one: Entrant(one, label, _speed(results, one), look[label]) for one, label in labels.items()}


def _speed(results: Iterable[Result], identity: ModelIdentity) -> Speed | None:
    own = [one for one in results if one.model == identity]
    speeds = [
        (one.cost.embedded_clips, one.provenance.started_at, Speed(rate, one.provenance.device))
        for one in own
        if (rate := one.cost.rate())
    ]
    speeds += [
        (pace.clips, one.provenance.started_at, Speed(pace.clips / pace.seconds, pace.device, earlier=True))
        for one in own
        if (pace := one.cost.pace())
    ]
    return max(speeds, key=lambda one: one[:2])[2] if speeds else None
