"""Zero-shot evaluation: queries are classified by class names, on the queries that one support a class would have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from uamix_bench.data.task import TaskData
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.util.errors import UsageError

if TYPE_CHECKING:
    from uamix_bench.embeddings.known import KnownModel
    from uamix_bench.models.model import AudioModel


def zero_shot_texts(task: TaskData, protocol: Protocol, labels: Sequence[str]) -> list[str]:
    """Texts of classes: their names, each in the template of a zero-shot protocol."""
    assert protocol.template is not None
    return [protocol.template.replace("{}", task.class_names[label]) for label in labels]


def check_text_side(model: AudioModel | KnownModel, protocols: Sequence[Protocol]) -> None:
    """Makes sure that a model can do what the protocols ask for.

    Raises:
        UsageError: A protocol has no supports, and the model reads no texts.
    """
    if len(answerable(model, protocols)) < len(protocols):
        raise no_text_side(model)


def answerable(model: AudioModel | KnownModel, protocols: Sequence[Protocol]) -> list[Protocol]:
    """Protocols that a model can be evaluated under: all, or without a text side those with supports."""
    return [one for one in protocols if one.k_shot or model.reads_texts]


def no_text_side(model: AudioModel | KnownModel) -> UsageError:
    """Error for a zero-shot evaluation of a model that reads no texts, or not under its pooling."""
    assert model.identity is not None  # or it was not loaded by load_model
    name = model.identity.name
    return UsageError(f"{name} at --k 0", model.no_texts, "leave 0 out of --k, or give a model such as CLAP (hf:ID)")
