"""File of a fitted classifier, beside its weights: what it was fitted on, by which encoder, and how sure it is."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from uamix_bench.plugins.card import Count, ModelIdentity, Segments, Text
from uamix_bench.records.record import Part, Provenance, Sha256, Skipped, TaskIdentity
from uamix_bench.scoring.calibration import Calibration
from uamix_bench.scoring.protocol import Protocol

NONE_OF_THESE = "none of these"  # label of a sound that is unlike every class


class FittedEpisode(Part):
    """The episode whose supports a classifier was fitted to.

    Attributes:
        index: Number of the episode, from 0.
        digest: Digest of all episodes of the protocol, as in results.
        support: Ids of its supports, class by class.
        query: Ids of its queries, class by class.
    """

    protocol: Protocol
    index: Count
    digest: Sha256
    support: tuple[tuple[Text, ...], ...]
    query: tuple[tuple[Text, ...], ...]


class ClassifierFile(Part):
    """Facts of a fitted classifier.

    Attributes:
        encoder: Name by which `load_model` finds the encoder; never a path on the machine that wrote it.
        embedding: All that may change an embedding: the key under which the cache keeps those of the encoder.
        model: Identity of the encoder.
        task: Identity of the clips fitted, with the digest of their sounds.
        classes: Number of clips fitted of each class, by its name, in the order of the class slots.
        neighbors: Number of supports that vote, for knn.
        unit: Size of a usual score, which scales the margin of ties.
        unit_first: Whether embeddings are scaled to unit length before they are centred.
        unit_last: Whether they are scaled to unit length after it.
        k_shot: Number of clips of each class that were asked for; None for all.
        seed: Seed of the choice of these clips.
        episode: Episode that was fitted; None for clips of the whole table.
        calibration: Calibration of the probabilities; None without probabilities.
        uncalibrated: Reason why there are no probabilities; empty if there are.
        weights_sha256: SHA-256 of ``classifier.safetensors``.
    """

    schema_version: Literal[1] = 1
    kind: Literal["classifier"] = "classifier"
    encoder: Text
    model: ModelIdentity
    embedding: dict[str, Any]
    task: TaskIdentity
    classes: dict[Text, Count] = Field(min_length=2)
    classifier: Text
    neighbors: int = Field(ge=1)
    segments: Segments
    unit: float = Field(ge=0)
    unit_first: bool
    unit_last: bool
    k_shot: int | None = Field(ge=1)
    seed: Count
    episode: FittedEpisode | None
    calibration: Calibration | None
    uncalibrated: Text
    skipped: tuple[Skipped, ...]
    notes: tuple[Text, ...]
    weights_sha256: Sha256
    provenance: Provenance

    @model_validator(mode="after")
    def _agree(self) -> ClassifierFile:
        if (self.calibration is None) != bool(self.uncalibrated):
            raise ValueError("there is either a calibration or the reason why there is none")
        if NONE_OF_THESE in self.classes:
            raise ValueError(f"no class can be named '{NONE_OF_THESE}'")
        return self
