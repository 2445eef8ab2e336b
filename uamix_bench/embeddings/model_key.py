"""What of a model decides its embeddings: settings, tensors, and the code of a stranger's adapter."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import zlib
from pathlib import Path

import torch

from uamix_bench.embeddings.cache import ModelKey
from uamix_bench.models.model import AudioModel


def model_key(model: AudioModel) -> ModelKey:
    """Collects all of a model that may change its embeddings, from the model as it is now."""
    identity = model.identity
    return ModelKey(
        adapter=type(model).__qualname__,
        adapter_version=f"{model.card.name}/{model.adapter_version}",
        weights_sha256=identity.weights_sha256 if identity else None,
        state_sha256=state_sha256(model),
        source_sha256=_source_sha256(type(model)),
        input=model.input,
        pooling=model.pooling,
        dtype=str(model.dtype).removeprefix("torch."),
        sample_rate=model.sample_rate,
        embedding_dim=model.embedding_dim,
    )


def is_known(model: AudioModel) -> bool:
    """Whether the model's code can be told from a later state of it: when typed at a prompt, it cannot."""
    return all(Path(source).is_file() for source in _sources(type(model)))


def state_sha256(model: AudioModel) -> str:
    """Digests the model's tensors; where their file's digest is known, CRCs suffice to notice later changes."""
    known = model.identity is not None and model.identity.weights_sha256 is not None
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        state.update(zlib.crc32(values).to_bytes(4, "little") if known else values.data)
    return state.hexdigest()


def _sources(adapter: type[AudioModel]) -> list[str]:
    """The files that a stranger's adapter is written in; none for the project's own.

    A class's module would not do: two files of one name may have been imported one after the other.
    """
    named: set[str] = set()
    for kind in adapter.__mro__:
        if issubclass(kind, AudioModel) and not kind.__module__.startswith("uamix_bench."):
            members = [inspect.unwrap(getattr(member, "__func__", member)) for member in vars(kind).values()]
            written = {member.__code__.co_filename for member in members if inspect.isfunction(member)}
            named |= written or {getattr(sys.modules.get(kind.__module__), "__file__", None) or "unknown"}
    return sorted(named)


def _source_sha256(adapter: type[AudioModel]) -> str | None:
    """Digests a stranger's adapter and all else imported from its folder; None for the project's own."""
    sources = _sources(adapter)
    if not sources:
        return None
    folders = {os.path.dirname(source) for source in sources}  # noqa: PTH120
    loaded = {getattr(module, "__dict__", {}).get("__file__") or "" for module in list(sys.modules.values())}
    beside = {path for path in loaded if path.endswith(".py") and os.path.dirname(path) in folders}  # noqa: PTH120
    digests = sorted({hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in {*sources, *beside}})
    return hashlib.sha256("".join(digests).encode()).hexdigest()
