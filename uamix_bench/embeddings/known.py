"""The project's own models that were loaded before, known by their files and settings. Free of torch.

Loading a model takes seconds, and a result or cached embeddings need only what it says of itself: its identity and its
cache key. Both are functions of the weights, the settings, the project's code and torch. So they are kept under
``UAMIX_BENCH_HOME/models/``, by the digest of all these, exactly as the loaded model had them.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from uamix_bench.embeddings.cache import ModelKey
from uamix_bench.models import hub, own_weights
from uamix_bench.models.sources import versions
from uamix_bench.plugins import registry
from uamix_bench.plugins.card import ModelIdentity
from uamix_bench.storage.digests import files_below, named_sha256, weights_sha256
from uamix_bench.util import files
from uamix_bench.util.errors import BadInputError, BenchError, MachineError
from uamix_bench.util.text import visible

if TYPE_CHECKING:
    from uamix_bench.models.loading import Settings
    from uamix_bench.models.model import AudioModel

_ROOT = Path(__file__).parents[1]
_CODE = frozenset({".py", ".toml", ".json"})
_ANY_DEVICE = frozenset({"auto", "cpu"})  # there is always one


@dataclass(eq=False)
class KnownModel:
    """A model that was loaded before, and is loaded again only where clips have to be embedded.

    Attributes:
        identity: Identity of the model in results.
        key: Key of its embeddings in the cache.
        remarks: Facts about its weights that belong beside a score.
        file: File that holds these three.
        loader: Function that loads the model.
    """

    identity: ModelIdentity
    key: ModelKey
    remarks: tuple[str, ...]
    file: Path
    loader: Callable[[], AudioModel]
    _loaded: AudioModel | None = field(default=None, init=False)

    @property
    def embedding_dim(self) -> int:
        """Dimensions of the embedding, D."""
        return self.key.embedding_dim

    @property
    def reads_texts(self) -> bool:
        """False: a model with a text side is always loaded."""
        return False

    @property
    def no_texts(self) -> str:
        """Reason, in words, why the model reads no texts."""
        return self.load().no_texts

    @property
    def device(self) -> str:
        """Device of the model; ``cpu`` until it is loaded."""
        return str(self._loaded.device) if self._loaded else "cpu"

    def load(self) -> AudioModel:
        """Loads the model, once.

        Raises:
            BadInputError: It is another than `file` tells.
        """
        if self._loaded is None:
            from uamix_bench.embeddings.model_key import model_key

            with warnings.catch_warnings():
                for line in _said(self.identity, self.remarks):
                    warnings.filterwarnings("ignore", re.escape(line))
                model = self.loader()
            if model.identity != self.identity or model_key(model) != self.key:
                raise BadInputError(self.file, "tells of another model than is loaded", "remove it")
            self._loaded = model
        return self._loaded


def recall_model(
    name: str,
    checkpoint: str | Path | None = None,
    *,
    device: str = "auto",
    trust_remote_code: bool = False,
    **settings: Unpack[Settings],
) -> AudioModel | KnownModel:
    """Loads a model as :func:`uamix_bench.load_model` does, unless it is known from an earlier time.

    Only the project's own models become known. A class of one's own, or of another package, a model from a reference,
    and weights of the Hub are always loaded.

    Raises:
        BenchError: The errors of :func:`uamix_bench.load_model`.
    """

    def load() -> AudioModel:
        from uamix_bench.models.loading import load_model

        return load_model(name, checkpoint, device=device, trust_remote_code=trust_remote_code, **settings)

    made_of = None if trust_remote_code or device not in _ANY_DEVICE else _made_of(name, checkpoint)
    if made_of is None:
        return load()
    try:
        file = files.home() / "models" / f"{files.digest([made_of, settings])[:32]}.json"
    except ValueError:  # a path or a text that is not UTF-8
        return load()
    known = _recall(file, load)
    if known is not None:
        for line in _said(known.identity, known.remarks):
            warnings.warn(line, stacklevel=2)
        return known
    model = load()
    if not model.reads_texts:
        _remember(file, model)
    return model


def _made_of(name: str, checkpoint: str | Path | None) -> dict[str, str] | None:
    """Facts that a model of the project is made of: name, weights and code. None for any other, or a faulty name."""
    try:
        if registry.find_reference(name) or ".py:" in name:
            return None
        name, weights = own_weights.split(name, checkpoint)
        if (weights or "").startswith(hub.PREFIX):
            return None
        plugin, bundled = registry.find_model(name)
        path = None if weights is None else Path(weights)
        if not plugin.entry_point.value.startswith("uamix_bench.") or (
            path is not None and not plugin.card.needs_weights
        ):
            return None
        if path is None and bundled is not None:
            path = plugin.folder / bundled.file
        if path is None and plugin.card.needs_weights:
            found = [one for listed in registry.fetched(plugin.card) for one in listed]
            if len(found) != 1:  # loading tells which is taken, or what is missing
                return None
            path = found[0]
        facts = {"name": name, "code": _code_sha256(), "packages": versions(("numpy", "torch"))}
        if path is not None:  # its name may tell its sizes
            facts["path"] = os.path.abspath(path)  # noqa: PTH100 - no link is followed
            facts["weights"] = weights_sha256(path, sorted(plugin.card.beside), whole=False)
        return facts
    except BenchError:  # which loading meets again, and tells in full
        return None


@cache
def _code_sha256() -> str:
    """SHA-256 (hex) of the project's code, its cards, and the numbers beside them."""
    return named_sha256({name: path for name, path in files_below(_ROOT) if path.suffix in _CODE})


def _recall(file: Path, load: Callable[[], AudioModel]) -> KnownModel | None:
    with suppress(BenchError, ValueError, TypeError, KeyError):
        kept = files.read_json(file)
        if kept.pop("sha256") == files.digest(kept):
            identity = ModelIdentity.model_validate(kept["identity"])
            return KnownModel(identity, ModelKey(**kept["key"]), tuple(kept["remarks"]), file, load)
    return None


def _remember(file: Path, model: AudioModel) -> None:
    from uamix_bench.embeddings.model_key import model_key

    assert model.identity is not None
    kept = {
        "identity": model.identity.model_dump(mode="json"),
        "key": asdict(model_key(model)),
        "remarks": list(model.remarks),
    }
    with suppress(MachineError):  # then it is loaded again next time
        files.make_folder(file.parent)
        files.write_json(file, {**kept, "sha256": files.digest(kept)})


def _said(identity: ModelIdentity, remarks: tuple[str, ...]) -> list[str]:
    return [visible(f"{identity.name}: {line}") for line in remarks]
