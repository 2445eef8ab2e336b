"""Cache key of a model: its settings, its tensors, and the code and metadata of a user's own adapter."""

from __future__ import annotations

import sys
from pathlib import Path

from uamix_bench.embeddings.cache import ModelKey
from uamix_bench.models.arguments import canonical
from uamix_bench.models.model import AudioModel
from uamix_bench.models.sources import Sources, sources, versions, written_in
from uamix_bench.storage.digests import state_sha256
from uamix_bench.util import files


def model_key(model: AudioModel) -> ModelKey:
    """Collects all properties of a model that may change its embeddings, in their present state."""
    identity, code = model.identity, _code(model)
    known = identity is not None and identity.weights_sha256 is not None
    return ModelKey(
        adapter=type(model).__qualname__,
        adapter_version=f"{model.card.name}/{model.adapter_version}",
        weights_sha256=identity.weights_sha256 if identity else None,
        state_sha256=state_sha256(model, quick=known),
        source_sha256=code and code.sha256,
        input=model.input,
        pooling=model.pooling,
        dtype=str(model.dtype).removeprefix("torch."),
        sample_rate=model.sample_rate,
        embedding_dim=model.embedding_dim,
        metadata_sha256=code and files.digest(model.metadata),
        packages=code.versions if code else versions(model.packages) or None,
        layer=model.layer,
        arguments="\n".join(canonical(model.arguments)) or None,
    )


def is_known(model: AudioModel) -> bool:
    """Test for a model whose code is in files, so that a later change is noticed. Code typed at a prompt is not."""
    return all(Path(source).is_file() for source in written_in(type(model), AudioModel))


def _code(model: AudioModel) -> Sources | None:
    """A stranger's code that embeds, with all that was imported from its folder; None for the project's own alone."""
    written = [Path(name) for name in written_in(type(model), AudioModel)]
    if model.origin is not None and model.origin.code:
        return sources(model.origin.code)
    if not written:
        return None
    folders = {path.parent for path in written}
    loaded = {getattr(module, "__dict__", {}).get("__file__") or "" for module in list(sys.modules.values())}
    beside = {Path(name) for name in loaded if name.endswith(".py") and Path(name).parent in folders}
    return sources(sorted({*written, *beside}))
