"""Contract of a model adapter (`AudioModel`), and `load_model`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from uamix_bench.data.audio import resample
from uamix_bench.models import hub, own_weights
from uamix_bench.models.arguments import Arguments, Value, canonical, check_taken
from uamix_bench.models.sources import is_own, named_in, source_sha256, sources
from uamix_bench.plugins import registry
from uamix_bench.plugins.card import Input, ModelCard, ModelIdentity, Segments, Weights
from uamix_bench.storage.digests import named_sha256, state_sha256, weights_sha256
from uamix_bench.util import files
from uamix_bench.util.arrays import Floats, Mask
from uamix_bench.util.errors import BadInputError, MachineError, OwnCodeError, UsageError, nearest, own_code
from uamix_bench.util.text import visible

_MOST_REMARKS = 5  # a weights file may hold any text


class Source(NamedTuple):
    """Arguments of `load_model` that loaded a model, with absolute paths, so that another process can load it too."""

    name: str
    checkpoint: str | None
    input: Input
    pooling: str
    dtype: Literal["float32", "bf16"]
    layer: str | None = None
    trust_remote_code: bool = False
    arguments: tuple[tuple[str, Value], ...] = ()


class Origin(NamedTuple):
    """Source of a model that was loaded by reference.

    Attributes:
        name: Default label in results.
        reference: Reference by which another process finds the same model.
        files: All that it was read from, by their names; empty if its tensors alone are known.
        repository: ID@COMMIT of their repository; None for a folder.
        remote_code: Whether code of that repository computes the embeddings.
        code: Files of a stranger's code that computes the embeddings.
        given: Whether its embeddings were made elsewhere.
    """

    name: str
    reference: str
    files: dict[str, Path]
    repository: str | None = None
    remote_code: bool = False
    code: tuple[Path, ...] = ()
    given: bool = False


class GivenRows(NamedTuple):
    """Embeddings from a file for n clips.

    Attributes:
        found: Mask of the clips that the file holds, (n,) bool.
        vectors: Embeddings, (n, D) float32; zero for the others.
        digests: SHA-256 (hex) of the sounds that they were made of, by clip id, as far as the file says.
        unknown: Ids in the file that are none of these clips', counted.
    """

    found: Mask
    vectors: Floats
    digests: dict[str, str]
    unknown: int


class AudioModel(nn.Module):
    """A pretrained audio encoder. An adapter is a subclass that defines only the differences.

    Attributes:
        card: Facts about the model, from the TOML beside the adapter.
        adapter_version: Version of the adapter, raised whenever its embeddings change; part of every cache key and
            result.
        poolings: Names of the poolings from tokens to an embedding, the default first.
        sample_rate: Sample rate of the waveforms for the front end, in Hz.
        embedding_dim: Dimensions of the embedding, D, under the chosen pooling.
        input: ``native`` gives the model a clip's own length and no more, ``official`` pads to the length of
            pre-training.
        pooling: The chosen one of `poolings`.
        layer_choices: Names of the layers whose tokens can be pooled, the default first; empty if there is no choice.
        layer: Name of the chosen layer; None if there is no choice.
        packages: Distributions besides torch whose versions embeddings depend on.
        metadata: Texts of the weights file on its making, and settings that tensors do not hold.
        source: Arguments that loaded the model; None if it was not loaded by name.
        origin: Origin of a model from a reference: its name, its files, and their commit.
        arguments: The model's own arguments by name, as given, or as the adapter states them.
        loaded_from: Path that ``from_checkpoint`` got; None for a model without, and before `load_model` is done.
    """

    card: ClassVar[ModelCard]
    adapter_version: ClassVar[str] = "1"
    _states_card: ClassVar[bool] = False  # rather than getting one made from its rate and size

    poolings: tuple[str, ...] = ("mean",)
    layer_choices: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    sample_rate: int
    embedding_dim: int

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Takes sample rate and embedding size from the card. A class without a card gets one made of these two."""
        super().__init_subclass__(**arguments)
        facts = ("sample_rate", "embedding_dim")
        if "card" in vars(cls):
            cls._states_card = True
        if cls._states_card:
            for fact in facts:
                if not hasattr(cls, fact):
                    setattr(cls, fact, getattr(cls.card, fact))
        elif all(isinstance(getattr(cls, fact, None), int) for fact in facts):
            cls.card = ModelCard(
                name=cls.__name__.lstrip("_"),
                title=(cls.__doc__ or cls.__name__).strip().splitlines()[0],
                licence="not stated",
                sample_rate=cls.sample_rate,
                embedding_dim=cls.embedding_dim,
                needs_weights=cls.from_checkpoint.__func__ is not AudioModel.from_checkpoint.__func__,  # type: ignore[attr-defined]
            )

    def __init__(self) -> None:
        super().__init__()
        self.input: Input = "native"
        self.pooling = self.poolings[0]
        self.identity: ModelIdentity | None = None
        self.metadata: dict[str, str] = {}
        self.source: Source | None = None
        self.origin: Origin | None = None
        self.arguments: dict[str, Value] = {}
        self.loaded_from: Path | None = None
        self.layer = next(iter(self.layer_choices), None)

    def frontend(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Turns waveforms (B, S) float32 in [-1, 1] of lengths (B,) in samples into (B, T, F) and frame counts (B,)."""
        raise NotImplementedError

    def tokens(self, spectrogram: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes spectrograms (B, T, F) with frame counts (B,) into tokens (B, L, D) and their mask (B, L) bool."""
        raise NotImplementedError

    def pool(self, tokens: Tensor, mask: Tensor, how: str) -> Tensor:
        """Pools tokens (B, L, D), where mask (B, L) is True, into (B, D) float32 embeddings."""
        weight = mask.unsqueeze(-1).to(tokens.dtype)
        return (tokens * weight).sum(dim=1) / weight.sum(dim=1)

    @property
    def reads_texts(self) -> bool:
        """True if `embed_texts` embeds texts into the space of the clips' embeddings."""
        return type(self).embed_texts is not AudioModel.embed_texts

    @property
    def no_texts(self) -> str:
        """Reason, in words, why the model reads no texts."""
        return "has no text side, so that it knows no class by its name"

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Embeds texts into the space of the clips' embeddings, for zero-shot evaluation.

        Args:
            texts: Texts, C of them, such as ``This is a sound of rain.``

        Returns:
            Embeddings, (C, D) float32. A text's embedding is the same beside any others.

        Raises:
            UsageError: The model has no text side.
        """
        raise UsageError(self.card.name, self.no_texts, "leave 0 out of --k")

    def layers(self) -> list[nn.Module]:
        """Layers in the order of freezing and layer-wise decay: the stem first, the last block last."""
        return []

    def token_columns(self, samples: int) -> int:
        """Batching key of a clip of `samples` samples. Clips with equal keys share a batch without padding."""
        return samples

    @classmethod
    def from_checkpoint(cls, path: Path) -> AudioModel:
        """Builds the model from a weights file.

        Raises:
            BadInputError: The file is another model's, damaged, or unsafe.
        """
        raise UsageError(cls.card.name, "takes no checkpoint", "omit =PATH")

    def of_clips(self, clips: Sequence[str], clip_seconds: float, segments: Segments) -> GivenRows | None:
        """Embeddings that were made elsewhere, by the ids of clips; None, the default, for a model that hears them.

        Args:
            clips: Ids of n clips.
            clip_seconds: Crop length in seconds that is asked for.
            segments: Crop rule that is asked for.

        Raises:
            BadInputError: The embeddings are known to be of another crop.
        """
        return None

    @classmethod
    def from_reference(cls, reference: str, *settings: Any, **arguments: Any) -> AudioModel:
        """Builds the model that `reference` says, of a card that takes references, with `origin` filled.

        An adapter that can run code of a repository takes `trust_remote_code`; other arguments are a model's own.

        Raises:
            BenchError: There is no such model, or it cannot be had.
        """
        raise NotImplementedError

    @classmethod
    def untrained(cls) -> AudioModel:
        """Builds a model that needs no weights, such as log-mel statistics."""
        if not cls.card.needs_weights:
            return cls()
        raise UsageError(
            f"--model {cls.card.name}",
            "needs weights",
            f"give {cls.card.name}=PATH, or see 'uamix-bench models info {cls.card.name}'",
        )

    @torch.inference_mode()
    def embed(self, waveforms: Sequence[Floats | Tensor], sample_rate: int) -> Floats:
        """Embeds clips: resampling, front end, encoder, pooling.

        Args:
            waveforms: Waveforms, each 1-D float32 in [-1, 1], of any lengths.
            sample_rate: Sample rate of the waveforms, in Hz.

        Returns:
            Embeddings, (B, D) float32. A clip's embedding is the same in any batch.

        Raises:
            BadInputError: A waveform is empty, not 1-D, of integers, or holds a NaN or infinite sample.
            OwnCodeError: A user's own method raises an error, or returns an invalid value.
        """
        clips = [self._waveform(index, wave, sample_rate) for index, wave in enumerate(waveforms)]
        if not clips:
            return np.zeros((0, self.embedding_dim), np.float32)
        lengths = torch.tensor([len(clip) for clip in clips])
        batch = torch.zeros(len(clips), int(lengths.max()))
        for row, clip in zip(batch, clips, strict=True):
            row[: len(clip)] = torch.from_numpy(clip)
        device = self.device
        spectrogram, counts = self.call_frontend(batch.to(device), lengths.to(device))
        with torch.autocast(device.type, torch.bfloat16, self.dtype == torch.bfloat16):
            tokens, mask = self.call_tokens(spectrogram, counts)
        embedded: Floats = self.call_pool(tokens.float(), mask).float().cpu().numpy()
        return embedded

    def call_frontend(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Output of `frontend`, checked.

        Raises:
            OwnCodeError: A user's own raises, or returns something else than it must; so of the next two.
        """
        with own_code("frontend", type(self)):
            framed = self.frontend(waveforms, lengths)
        spectrogram, counts = self._pair("frontend", framed, "spectrogram", "frame counts")
        self._must(spectrogram.ndim > 1 and len(spectrogram) == len(lengths), "frontend", spectrogram, "(B, T, F)")
        self._must(counts.shape == lengths.shape and not counts.is_floating_point(), "frontend", counts, "counts (B,)")
        return spectrogram, counts

    def call_tokens(self, spectrogram: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Output of `tokens`, checked."""
        with own_code("tokens", type(self)):
            encoded = self.tokens(spectrogram, lengths)
        tokens, mask = self._pair("tokens", encoded, "tokens", "mask")
        self._must(tokens.ndim == 3 and len(tokens) == len(lengths), "tokens", tokens, "tokens (B, L, D)")
        self._must(not tokens.is_complex(), "tokens", tokens, "real numbers")
        self._must(mask.shape == tokens.shape[:2] and mask.dtype == torch.bool, "tokens", mask, "a mask (B, L) bool")
        return tokens, mask

    def call_pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Output of `pool` under the chosen pooling, checked."""
        with own_code("pool", type(self)):
            pooled = self.pool(tokens, mask, self.pooling)
        self._must(isinstance(pooled, Tensor), "pool", pooled, "a tensor (B, embedding_dim)")
        self._must(pooled.ndim == 2 and len(pooled) == len(tokens), "pool", pooled, "(B, embedding_dim)")
        if not bool(mask.any(dim=1).all()) and not bool(pooled.isfinite().all()):
            self._must(False, "tokens", mask, "a mask that is True for at least one token of each clip")
        return pooled

    def prefer(self, pooling: str) -> None:
        """Makes one of `poolings` the default and the chosen one."""
        self.poolings = (pooling, *(how for how in self.poolings if how != pooling))
        self.pooling = pooling

    def call_layers(self) -> list[nn.Module]:
        """Output of `layers`, checked."""
        with own_code("layers", type(self)):
            layers = self.layers()
        self._must(isinstance(layers, list | tuple), "layers", layers, "a list of modules")
        for layer in layers:
            self._must(isinstance(layer, nn.Module), "layers", layer, "modules alone")
        return list(layers)

    def _pair(self, method: str, given: Any, *names: str) -> tuple[Tensor, Tensor]:
        """The two tensors that a method returned; anything else is refused."""
        self._must(isinstance(given, tuple | list), method, given, " and ".join(names))
        self._must(len(given) == 2, method, given, " and ".join(names))
        for part, name in zip(given, names, strict=True):
            self._must(isinstance(part, Tensor), method, part, f"a tensor as {name}")
        return given[0], given[1]

    def _must(self, holds: bool, method: str, given: Any, wanted: str) -> None:
        """Raises an error with the returned and the wanted value of a method, unless the requirement holds."""
        if not holds:
            is_tensor = isinstance(given, Tensor)
            shown = f"{tuple(given.shape)} {str(given.dtype).removeprefix('torch.')}" if is_tensor else _kind(given)
            remedy = "see docs/your-model.md for what each method gives"
            raise OwnCodeError(f"{method} of {type(self).__name__}", f"returns {shown}, not {wanted}", remedy)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Facts about the weights that belong beside a score, one a line, from `metadata`; usually none."""
        return tuple(str(self.metadata.get("remarks", "")).splitlines()[:_MOST_REMARKS])

    @property
    def device(self) -> torch.device:
        """Device of the weights; the CPU for a model without any."""
        return next((tensor.device for tensor in self.state_dict().values()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the encoder: float32, or bfloat16 under autocast."""
        return torch.bfloat16 if self.identity and self.identity.dtype == "bf16" else torch.float32

    def _waveform(self, index: int, waveform: Floats | Tensor, sample_rate: int) -> Floats:
        samples = np.asarray(waveform)
        name = f"waveform {index}"
        if samples.ndim != 1 or not len(samples):
            raise BadInputError(name, f"has shape {samples.shape}", "give 1-D mono waveforms of at least one sample")
        if samples.dtype.kind != "f":
            raise BadInputError(name, f"holds {samples.dtype} samples", "give floating samples in [-1, 1]")
        samples = samples.astype(np.float32, copy=False)
        if not np.isfinite(samples).all():
            bad = int(np.flatnonzero(~np.isfinite(samples))[0])
            raise BadInputError(name, f"sample {bad} is not finite", "repair or leave out the clip")
        return samples if sample_rate == self.sample_rate else resample(samples, sample_rate, self.sample_rate)


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
        raise OwnCodeError(f"metadata of {adapter.__name__}", f"is {_kind(model.metadata)}, no dict", "make it one")
    model.input = input
    if bundled is not None and bundled.pooling:
        model.prefer(bundled.pooling)
    if pooling is not None:
        if pooling not in model.poolings:
            raise UsageError(
                f"--pooling {pooling}",
                f"{resolved} has no such pooling",
                nearest(pooling, list(model.poolings)),
            )
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
    trained, licence = _origin(model, bundled)
    try:
        model.identity = ModelIdentity(
            name=label or resolved,
            adapter_version=f"{adapter.card.name}/{adapter.adapter_version}",
            weights_sha256=_weights_sha256(model, path),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            embedding_dim=model.embedding_dim,
            input=input,
            pooling=model.pooling,
            dtype=dtype,
            source_sha256=_source_sha256(model, path),
            metadata_sha256=None if is_own(adapter) else _metadata_sha256(model),
            recipe_sha256=model.metadata.get("recipe_sha256"),
            parent_sha256=model.metadata.get("parent_sha256"),
            train_seed=int(seed) if (seed := model.metadata.get("train_seed", "")).isdecimal() else None,
            pretrained_on=pretrained_on or trained,
            licence=licence,
            layer=model.layer,
            repository=model.origin.repository if model.origin else found.repository,
            remote_code=bool(model.origin and model.origin.remote_code),
            arguments=canonical(model.arguments),
            given=bool(model.origin and model.origin.given),
        )
    except ValidationError as error:  # what the weights file, or a stranger's card, says of itself
        first = error.errors()[0]
        if first["loc"][0] == "pretrained_on" and pretrained_on:
            raise UsageError("--pretrained-on", first["msg"].removeprefix("Value error, ")) from error
        if first["loc"][0] == "name":
            raise UsageError(f"--model {resolved}", "cannot name results", "give --name LABEL") from error
        raise BadInputError(
            path or resolved, f"says of itself what no result can hold ({first['loc'][0]}: {first['msg']})"
        ) from error
    for line in model.remarks:
        warnings.warn(visible(f"{model.identity.name}: {line}"), stacklevel=2)
    return model


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
            f"{made_by} of {adapter.__name__}", f"returns {_kind(model)}, not a model", "return the model"
        )
    built: AudioModel = model
    return built


def _takes_any(maker: Any) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature(maker).parameters.values())


def _defined(adapter: type[AudioModel]) -> set[str]:
    """Names that a class or its bases below AudioModel define."""
    return {name for kind in adapter.__mro__ if kind not in AudioModel.__mro__ for name in vars(kind)}


def _kind(value: Any) -> str:
    """Words for a value that is not a tensor, for errors."""
    if value is None:
        return "nothing"
    several = isinstance(value, tuple | list)
    return f"{len(value)} values" if several else f"a {type(value).__name__}"


class _Resolved(NamedTuple):
    """The adapter, the name for results, the weights (None without any), the bundled ones, and their repository."""

    adapter: type[AudioModel]
    name: str
    path: Path | None
    bundled: Weights | None = None
    repository: str | None = None


def _resolve(name: str | type[AudioModel], checkpoint: str | Path | None) -> _Resolved:
    given = None if checkpoint is None else str(checkpoint)
    if not isinstance(name, str):
        return _with_weights(name, name.card.name, given)
    if "=" in name:
        name, _, beside = name.partition("=")
        if given is not None:
            raise UsageError(
                f"--model {name}={beside}", "has a second checkpoint", "give =PATH or --checkpoint, not both"
            )
        given = beside
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


def _origin(model: AudioModel, bundled: Weights | None) -> tuple[tuple[str, ...], str]:
    """Training data and licence of the weights: the card's, or those in the file if a user made it."""
    origin = bundled or model.card
    if bundled is not None or "data" not in model.metadata:
        return origin.pretrained_on, origin.licence
    parent = model.metadata.get("parent_sha256")
    return (*((f"weights {parent[:12]}",) if parent else ()), model.metadata["data"]), "the user's own"


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
