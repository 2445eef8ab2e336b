"""Entrants of a leaderboard: the models of results, each with a label, a speed and a look of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from uamix_bench.plugins.card import ModelIdentity
from uamix_bench.records.results import Result
from uamix_bench.reports.looks import looks
from uamix_bench.util import files


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
    identities = list(dict.fromkeys(result.model for result in results))
    by_name: dict[str, list[ModelIdentity]] = {}
    for identity in identities:
        by_name.setdefault(identity.name, []).append(identity)
    labels: dict[ModelIdentity, str] = {}
    for same in by_name.values():
        telling = [name for name in _TELLING if len({getattr(one, name) for one in same}) > 1]
        labels |= {one: " ".join([one.shown, *(_told(one, name) for name in telling)]) for one in same}
    times = Counter(labels.values())
    for identity, label in labels.items():
        if times[label] > 1:  # they differ in what is no name, such as what they were trained on
            labels[identity] = f"{label} {files.digest(identity.model_dump(mode='json'))[:6]}"
    look = looks(labels.values())
    return {one: Entrant(one, label, _speed(results, one), look[label]) for one, label in labels.items()}


_TELLING = (
    "weights_sha256",
    "source_sha256",
    "metadata_sha256",
    "adapter_version",
    "input",
    "pooling",
    "dtype",
    "train_seed",
    "recipe_sha256",
)


def _told(identity: ModelIdentity, name: str) -> str:
    value, words = getattr(identity, name), name.removesuffix("_sha256").replace("train_", "")
    if value is None:
        return f"no {words}"
    return f"{value}"[:6] if name.endswith("sha256") else f"seed {value}" if name == "train_seed" else f"{value}"


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
