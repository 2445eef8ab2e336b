"""Loading of models by name: adapter, weights, settings and identity (`load_model`)."""

from __future__ import annotations

import os
import warnings
from inspect import signature
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

import torch
from pydantic import ValidationError

from uamix_bench.models import hub, own_weights
from uamix_bench.models.arguments import Arguments, canonical, check_taken
from uamix_bench.models.model import AudioModel, Source, in_words
from uamix_bench.models.sources import is_own, named_in, source_sha256, sources
from uamix_bench.plugins import registry
from uamix_bench.plugins.card import Input, ModelIdentity, Weights
from uamix_bench.storage.digests import fingerprint, named_sha256, state_sha256, weights_sha256
from uamix_bench.util import files
from uamix_bench.util.errors import BadInputError, MachineError, OwnCodeError, UsageError, nearest, own_code
from uamix_bench.util.text import visible


class Settings(TypedDict, total=False):
    """Settings of `load_model` that are in a model's identity."""

    input: Input
    pooling: str | None
    dtype: Literal["float32", "bf16"]
    label: str | None
    layer: str | None
    pretrained_on: tuple[str, ...]
    arguments: Arguments | None


def load_model(
    name: str | type[AudioModel],
    checkpoint: str | Path | None = None,
    *,
    device: str = "auto",
    input: Input = "native",
    pooling: str | None = None,
    dtype: Literal["float32", "bf16"] = "float32",
    label: str | None = None,
    layer: str | None = None,
    trust_remote_code: bool = False,
    pretrained_on: tuple[str, ...] = (),
    arguments: Arguments | None = None,
) -> AudioModel:
    """Loads a model for evaluation.

    Args:
        name: An architecture (``audiomae``), with the weights that were fetched for it; bundled weights
            (``uamix-tiny``), ``NAME=PATH``, ``NAME:REFERENCE`` for the models that go by one (``hf:ID``),
            ``FILE.py:CLASS``, or an AudioModel class.
        checkpoint: Weights file, the folder that ``tune --out`` wrote, or ``hf:ID[@REVISION]`` of a repository of the
            Hub that holds safetensors; instead of ``=PATH``.
        device: Device of the model: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        input: Input length, ``native`` or ``official``; see :class:`AudioModel`.
        pooling: Name of one of the model's poolings; None for its default.
        dtype: Precision of the encoder. ``bf16`` runs it under autocast, is recorded, and changes predictions.
        label: Name in results, instead of that of the file or folder of a user's own weights, else of the model.
        layer: One of the model's layers whose tokens are pooled; None for its default.
        trust_remote_code: Whether code that comes with a model from a reference may run.
        pretrained_on: Data sets that it was trained on, instead of what its card says.
        arguments: Arguments of the model's own, which its ``from_checkpoint``, ``untrained``, ``from_reference`` or
            constructor takes by these names.

    Returns:
        The model, in eval mode, without gradients, on the device, with `identity` filled.

    Raises:
        UsageError: The name, pooling or device is unknown, a needed checkpoint is missing, or the model takes none.
        BadInputError: The checkpoint is missing, damaged, unsafe, or another model's.
        MachineError: The device is not available.
    """
    given = dict(arguments or {})
    if isinstance(name, str) and (referred := registry.find_reference(name)):
        if checkpoint is not None:
            raise UsageError(f"--checkpoint {checkpoint}", f"does not go with {name}", "omit it")
        plugin, reference = referred
        adapter, found = plugin.load(), _Resolved(plugin.load(), plugin.name, None)
        check_taken(adapter.from_reference, given, plugin.name, ("reference", "trust_remote_code"))
        if trust_remote_code and "trust_remote_code" not in signature(adapter.from_reference).parameters:
            raise UsageError("--trust-remote-code", f"does not apply to {name}", "omit it")
        trusted = {"trust_remote_code": True} if trust_remote_code else {}
        model: AudioModel = adapter.from_reference(reference, **trusted, **given)
        resolved = model.origin.name if model.origin else plugin.name
    elif trust_remote_code:
        raise UsageError("--trust-remote-code", f"does not apply to {name}", "omit it")
    else:
        found = _resolve(name, checkpoint)
        adapter, resolved = found.adapter, found.name
        model = build(adapter, found.path, given)
    path, bundled = found.path, found.bundled
    if model.origin is not None and model.origin.given and (input, dtype) != ("native", "float32"):
        option = f"--input {input}" if input != "native" else f"--dtype {dtype}"
        raise UsageError(option, f"does not apply to {name}, whose embeddings are given", "omit it")
    model.arguments, model.loaded_from = {**given, **model.arguments}, path
    if not isinstance(model.metadata, dict):
        raise OwnCodeError(f"metadata of {adapter.__name__}", f"is {in_words(model.metadata)}, no dict", "make it one")
    model.input = input
    if bundled is not None and bundled.pooling:
        model.prefer(bundled.pooling)
    if pooling is not None:
        if pooling not in model.poolings:
            remedy = nearest(pooling, list(model.poolings))
            raise UsageError(f"--pooling {pooling}", f"{resolved} has no such pooling", remedy)
        model.pooling = pooling
    if layer is not None:
        if layer not in model.layer_choices:
            choices = ", ".join(model.layer_choices)
            remedy = f"give one of {choices}" if choices else "omit it"
            raise UsageError(f"--layer {layer}", f"{resolved} has no such layer to choose", remedy)
        model.layer = layer
    model.requires_grad_(False).eval().to(find_device(device))
    if isinstance(name, str):
        weights = os.path.abspath(path) if path and not bundled else None  # noqa: PTH100 - no link is followed
        if found.repository:
            weights = f"{hub.PREFIX}{found.repository}"
        model.source = Source(
            model.origin.reference if model.origin else _anywhere(name, bundled),
            weights,
            input,
            model.pooling,
            dtype,
            layer,
            trust_remote_code,
            tuple(given.items()),
        )
    model.identity = _identity(model, found, label or resolved, dtype, pretrained_on)
    for line in model.remarks:
        warnings.warn(visible(f"{model.identity.name}: {line}"), stacklevel=2)
    return model


def _identity(
    model: AudioModel, found: _Resolved, name: str, dtype: str, pretrained_on: tuple[str, ...]
) -> ModelIdentity:
    """Identity of a model with its settings.

    Raises:
        UsageError: The name cannot name results, or `pretrained_on` is no list of data sets.
        BadInputError: The weights file, or a stranger's card, says of itself what no result can hold.
    """
    adapter, path, origin, metadata = found.adapter, found.path, model.origin, model.metadata
    trained, licence = _training(model, found.bundled)
    try:
        return ModelIdentity(
            name=name,
            adapter_version=f"{adapter.card.name}/{adapter.adapter_version}",
            weights_sha256=_weights_sha256(model, path),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            embedding_dim=model.embedding_dim,
            input=model.input,
            pooling=model.pooling,
            dtype=dtype,
            source_sha256=_source_sha256(model, path),
            metadata_sha256=None if is_own(adapter) else _metadata_sha256(model),
            recipe_sha256=metadata.get("recipe_sha256"),
            parent_sha256=metadata.get("parent_sha256"),
            train_seed=int(seed) if (seed := str(metadata.get("train_seed"))[:17]).isdecimal() else None,
            pretrained_on=pretrained_on or trained,
            licence=licence,
            layer=model.layer,
            repository=origin.repository if origin else found.repository,
            remote_code=bool(origin and origin.remote_code),
            arguments=canonical(model.arguments),
            given=bool(origin and origin.given),
        )
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"][0] == "pretrained_on" and pretrained_on:
            raise UsageError("--pretrained-on", first["msg"].removeprefix("Value error, ")) from error
        if first["loc"][0] == "name":
            raise UsageError(f"--model {name}", "cannot name results", "give --name LABEL") from error
        reason = f"says of itself what no result can hold ({first['loc'][0]}: {first['msg']})"
        raise BadInputError(path or name, reason) from error


def build(adapter: type[AudioModel], path: Path | None = None, arguments: Arguments | None = None) -> AudioModel:
    """Builds the model of an adapter from its weights, or without any.

    Args:
        adapter: Class of the model.
        path: Weights that ``from_checkpoint`` reads; None builds the model by ``untrained``.
        arguments: Arguments of the model's own.

    Raises:
        UsageError: The model takes no weights, or not these arguments, or needs weights.
        OwnCodeError: A user's class raises an error, or returns no model.
    """
    name, given = adapter.card.name, arguments or {}
    if path is not None and not adapter.card.needs_weights:
        raise UsageError(f"--model {name}", "takes no checkpoint", "omit =PATH and --checkpoint")
    made_by = "from_checkpoint" if path is not None else "untrained"
    maker: Any = getattr(adapter, made_by)
    if path is None and given and not adapter.card.needs_weights and "untrained" not in _defined(adapter):
        maker = adapter  # as `untrained` builds it, with arguments
    check_taken(maker, given, name, ("path",) if path is not None else ())
    if path is None:  # what passes all of them on to the constructor
        check_taken(adapter if _takes_any(maker) else maker, given, name)
    with own_code(made_by, adapter):
        model: Any = maker(path, **given) if path is not None else maker(**given)
    if not isinstance(model, AudioModel):
        raise OwnCodeError(
            f"{made_by} of {adapter.__name__}", f"returns {in_words(model)}, not a model", "return the model"
        )
    built: AudioModel = model
    return built


def _takes_any(maker: Any) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature(maker).parameters.values())


def _defined(adapter: type[AudioModel]) -> set[str]:
    """Names that a class or its bases below AudioModel define."""
    return {name for kind in adapter.__mro__ if kind not in AudioModel.__mro__ for name in vars(kind)}


class _Resolved(NamedTuple):
    """The adapter, the name for results, the weights (None without any), the bundled ones, and their repository."""

    adapter: type[AudioModel]
    name: str
    path: Path | None
    bundled: Weights | None = None
    repository: str | None = None


def _resolve(name: str | type[AudioModel], checkpoint: str | Path | None) -> _Resolved:
    if not isinstance(name, str):
        return _with_weights(name, name.card.name, None if checkpoint is None else str(checkpoint))
    name, given = own_weights.split(name, checkpoint)
    if ".py:" in name:
        adapter: Any = registry.from_file(name, "--model")
        if not (isinstance(adapter, type) and issubclass(adapter, AudioModel)):
            raise BadInputError(name, "is not a subclass of uamix_bench.AudioModel", "see docs/your-model.md")
        if not hasattr(adapter, "card"):
            raise BadInputError(name, "has no card", "state sample_rate and embedding_dim as integers in the class")
        return _with_weights(adapter, adapter.card.name, given)
    plugin, bundled = registry.find_model(name)
    if given is not None:
        return _with_weights(plugin.load(), plugin.name, given)
    if bundled is not None:
        return _Resolved(plugin.load(), bundled.id, plugin.folder / bundled.file, bundled)
    path = own_weights.fetched(plugin) if plugin.card.needs_weights else None
    return _Resolved(plugin.load(), plugin.name, path)


def _with_weights(adapter: type[AudioModel], name: str, given: str | None) -> _Resolved:
    """Resolves weights that a user names: a path, or a repository of the Hub."""
    if given is None:
        return _Resolved(adapter, name, None)
    if given.startswith(hub.PREFIX):
        found = hub.find(given.removeprefix(hub.PREFIX), code=False)
        return _Resolved(adapter, found.name, found.folder, repository=found.repository)
    return _Resolved(adapter, own_weights.label(Path(given), name), Path(given))


def _weights_sha256(model: AudioModel, path: Path | None) -> str | None:
    """SHA-256 (hex) of the given file or folder, else of the tensors of a user's own class; None without any."""
    if model.origin is not None:
        known = named_sha256(model.origin.files) if model.origin.files else None
        return known or (state_sha256(model) if model.state_dict() else None)
    own = is_own(type(model))
    read = model.metadata.get("sha256") if own else None
    if read and path is not None and fingerprint(path / hub.WEIGHTS if path.is_dir() else path) != read:
        raise BadInputError(path, "changed while it was read", "try again when nothing writes to it")
    if path is not None and (own or path.exists()):  # from_checkpoint may also take the name of something elsewhere
        beside = {*model.card.beside, *named_in(type(model), AudioModel)}
        return weights_sha256(path, sorted(beside), whole=not own)
    return None if own or not model.state_dict() else state_sha256(model)


def _source_sha256(model: AudioModel, path: Path | None) -> str | None:
    """SHA-256 (hex) of a stranger's code: that of a user's class, or that which the model's origin names."""
    if model.origin is not None and model.origin.code:
        return sources(model.origin.code).sha256
    return source_sha256(type(model), AudioModel, path)


def _metadata_sha256(model: AudioModel) -> str:
    try:
        return files.digest(model.metadata)
    except (TypeError, ValueError) as error:
        reason = f"holds in its metadata what JSON cannot ({error})"
        raise BadInputError(model.card.name, reason, "give texts by their names") from error


def _anywhere(name: str, bundled: Weights | None) -> str:
    """A model's name without the path of its weights, and with the path of its code absolute."""
    if bundled is not None:
        return bundled.id
    name = name.partition("=")[0]
    code, separator, adapter = name.rpartition(":")
    return f"{os.path.abspath(code)}:{adapter}" if separator else name  # noqa: PTH100


def _training(model: AudioModel, bundled: Weights | None) -> tuple[tuple[str, ...], str]:
    """Training data and licence of the weights: the card's, or those in the file if a user made it."""
    origin = bundled or model.card
    if bundled is not None or "data" not in model.metadata:
        return origin.pretrained_on, origin.licence
    parent = model.metadata.get("parent_sha256")
    return (*((f"weights {str(parent)[:12]}",) if parent else ()), model.metadata["data"]), "the user's own"


def find_device(name: str) -> torch.device:
    """The torch device for a --device value.

    Raises:
        UsageError: The kind of device is unknown.
        MachineError: The device is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    unknown = UsageError(f"--device {name}", "no such device", "use auto, cpu, cuda, cuda:1 or mps")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise unknown from error
    if device.type == "meta":  # which computes nothing
        raise unknown
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise MachineError(f"--device {name}", f"is not available here ({reason})", "use --device cpu") from error
    return device
