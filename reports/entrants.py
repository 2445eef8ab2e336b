"""Entrants of a leaderboard: the models of results, each with a label, a speed and a look of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from uamix_bench.plugins.card import ModelIdentity
from uamix_bench.records.results import Result, Speed, embedding_speed, model_labels
from uamix_bench.reports.looks import looks


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
    of: dict[ModelIdentity, list[Result]] = {}
    for result in results:
        of.setdefault(result.model, []).append(result)
    labels = model_labels(of)
    look = looks(labels.values())
    return {one: Entrant(one, label, embedding_speed(of[one]), look[label]) for one, label in labels.items()}
