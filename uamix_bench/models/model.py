"""AudioModel, the contract of an adapter, and load_model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from uamix_bench.data.audio import resample
from uamix_bench.models.sources import is_own, source_sha256
from uamix_bench.plugins import registry
from uamix_bench.plugins.card import Input, ModelCard, ModelIdentity, Weights
from uamix_bench.storage.digests import named_sha256, state_sha256, weights_sha256
from uamix_bench.util import files
from uamix_bench.util.errors import BadInputError, MachineError, OwnCodeError, UsageError, nearest, own_code
from uamix_bench.util.text import visible

Floats = npt.NDArray[np.float32]

_MOST_REMARKS = 5  # a weights file may hold any text


class Source(NamedTuple):
    """How a model was loaded, for another process that shall load it too: arguments of `load_model`, paths absolute."""

    name: str
    checkpoint: str | None
    input: Input
    pooling: str
    dtype: Literal["float32", "bf16"]
    layer: str | None = None
    trust_remote_code: bool = False


class Origin(NamedTuple):
    """What a model from a reference was made of.

    Attributes:
        name: In results, unless the user gives another.
        reference: What another process finds the same model by.
        files: All that it was read from, by their names.
        repository: ID@COMMIT of their repository; None for a folder.
        remote_code: Whether code of that repository computes the embeddings.
    """

    name: str
    reference: str
    files: dict[str, Path]
    repository: str | None = None
    remote_code: bool = False


class AudioModel(nn.Module):
    """A pretrained audio encoder. An adapter subclasses it and says only what differs.

    Attributes:
        card: The facts, from the TOML beside the adapter.
        adapter_version: Raised whenever the adapter's embeddings change; part of every cache key and result.
        poolings: The ways to pool tokens into an embedding, the default first.
        sample_rate: Of the waveforms the front end takes, in Hz.
        embedding_dim: D of the embedding, under the chosen pooling.
        input: ``native`` gives the model a clip's own length and no more, ``official`` pads to the length of
            pre-training.
        pooling: The chosen one of `poolings`.
        layer_choices: The layers whose tokens can be pooled, the default first; empty where there is no choice.
        layer: The chosen one; None where there is none.
        packages: Distributions besides torch whose versions embeddings depend on.
        metadata: What the weights file says of its making, and settings that tensors do not tell, as texts.
        source: How it was loaded; None where not by name.
        origin: Of a model from a reference: its own name, its files, and the commit that they are of.
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
        """Takes the rate and the size from the card or, in a class without one, makes the card of these two."""
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
        self.layer = next(iter(self.layer_choices), None)

    def frontend(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Turns (B, S) float32 waveforms in [-1, 1] of (B,) lengths (samples) into (B, T, F) and frame counts (B,)."""
        raise NotImplementedError

    def tokens(self, spectrogram: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes (B, T, F) spectrograms with (B,) frame counts into tokens (B, L, D) and their mask (B, L) bool."""
        raise NotImplementedError

    def pool(self, tokens: Tensor, mask: Tensor, how: str) -> Tensor:
        """Pools tokens (B, L, D), where mask (B, L) is True, into (B, D) float32 embeddings."""
        weight = mask.unsqueeze(-1).to(tokens.dtype)
        return (tokens * weight).sum(dim=1) / weight.sum(dim=1)

    def layers(self) -> list[nn.Module]:
        """The stem first, the last block last: what freezing and layer-wise decay walk."""
        return []

    def token_columns(self, samples: int) -> int:
        """A number that is equal for clips of `samples` samples that can share a batch without padding."""
        return samples

    @classmethod
    def from_checkpoint(cls, path: Path) -> AudioModel:
        """Builds the model from a weights file.

        Raises:
            BadInputError: The file is not one of this model's, is damaged, or is unsafe.
        """
        raise UsageError(cls.card.name, "takes no checkpoint", "leave =PATH away")

    @classmethod
    def from_reference(cls, reference: str, trust_remote_code: bool = False) -> AudioModel:
        """Builds the model that `reference` says, of a card that takes references, with `origin` filled.

        Raises:
            BenchError: There is no such model, or it cannot be had.
        """
        raise NotImplementedError

    @classmethod
    def untrained(cls) -> AudioModel:
        """Builds the model that needs no weights (floors such as log-mel statistics)."""
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
            waveforms: 1-D float32 waveforms in [-1, 1], of any lengths.
            sample_rate: Theirs, in Hz.

        Returns:
            (B, D) float32 embeddings. A clip gets in any batch what it gets alone.

        Raises:
            BadInputError: A waveform is empty, not 1-D, of integers, or holds a NaN or infinite sample.
            OwnCodeError: A user's own method raises, or returns something else than it must.
        """
        clips = [self._waveform(index, wave, sample_rate) for index, wave in enumerate(waveforms)]
        if not clips:
            return np.zeros((0, self.embedding_dim), np.float32)
        lengths = torch.tensor([len(clip) for clip in clips])
        batch = torch.zeros(len(clips), int(lengths.max()))
        for row, clip in zip(batch, clips, strict=True):
            row[: len(clip)] = torch.from_numpy(clip)
        device = self.device
        with own_code("frontend", type(self)):
            framed = self.frontend(batch.to(device), lengths.to(device))
        spectrogram, counts = self._pair("frontend", framed, "spectrogram", "frame counts")
        self._must(spectrogram.ndim > 1 and len(spectrogram) == len(clips), "frontend", spectrogram, "(B, T, F)")
        self._must(counts.shape == lengths.shape and not counts.is_floating_point(), "frontend", counts, "counts (B,)")
        with own_code("tokens", type(self)), torch.autocast(device.type, torch.bfloat16, self.dtype == torch.bfloat16):
            encoded = self.tokens(spectrogram, counts)
        tokens, mask = self._pair("tokens", encoded, "tokens", "mask")
        self._must(tokens.ndim == 3 and len(tokens) == len(clips), "tokens", tokens, "tokens (B, L, D)")
        self._must(mask.shape == tokens.shape[:2] and mask.dtype == torch.bool, "tokens", mask, "a mask (B, L) bool")
        with own_code("pool", type(self)):
            pooled = self.pool(tokens.float(), mask, self.pooling)
        self._must(isinstance(pooled, Tensor), "pool", pooled, "a tensor (B, embedding_dim)")
        self._must(pooled.ndim == 2 and len(pooled) == len(clips), "pool", pooled, "(B, embedding_dim)")
        embedded: Floats = pooled.float().cpu().numpy()
        return embedded

    def _pair(self, method: str, given: Any, *names: str) -> tuple[Tensor, Tensor]:
        """The two tensors that a method returns."""
        self._must(isinstance(given, tuple | list), method, given, " and ".join(names))
        self._must(len(given) == 2, method, given, " and ".join(names))
        for part, name in zip(given, names, strict=True):
            self._must(isinstance(part, Tensor), method, part, f"a tensor as {name}")
        return given[0], given[1]

    def _must(self, holds: bool, method: str, given: Any, wanted: str) -> None:
        """Says what a method returned that is not what its callers rely on."""
        if not holds:
            is_tensor = isinstance(given, Tensor)
            shown = f"{tuple(given.shape)} {str(given.dtype).removeprefix('torch.')}" if is_tensor else _kind(given)
            remedy = "see docs/your-model.md for what each method gives"
            raise OwnCodeError(f"{method} of {type(self).__name__}", f"returns {shown}, not {wanted}", remedy)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What should be known of the weights beside a score, a line each, from `metadata`; as a rule nothing."""
        return tuple(self.metadata.get("remarks", "").splitlines()[:_MOST_REMARKS])

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for a model that has none."""
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
) -> AudioModel:
    """Loads a model for evaluation.

    Args:
        name: An architecture (``audiomae``), bundled weights (``uamix-tiny``), ``NAME=PATH``, ``NAME:REFERENCE`` for
            the models that go by one (``hf:ID``), ``FILE.py:CLASS``, or an AudioModel class.
        checkpoint: Weights file, or the folder that ``tune --out`` wrote; instead of ``=PATH``.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        input: ``native`` or ``official`` length; see :class:`AudioModel`.
        pooling: One of the model's poolings; None for its default.
        dtype: ``bf16`` runs the encoder under autocast; it is recorded, and changes predictions.
        label: Name in results, instead of the architecture's or the weights' own.
        layer: One of the model's layers whose tokens are pooled; None for its default.
        trust_remote_code: Whether code that comes with a model from a reference may run.
        pretrained_on: Data sets that it was trained on, instead of what its card says.

    Returns:
        The model, in eval mode, without gradients, on the device, with `identity` filled.

    Raises:
        UsageError: Unknown name, pooling or device; no checkpoint where one is needed, or one where none is.
        BadInputError: The checkpoint is missing, damaged, unsafe, or another model's.
        MachineError: The device is not there.
    """
    if isinstance(name, str) and (referred := registry.find_reference(name)):
        if checkpoint is not None:
            raise UsageError(f"--checkpoint {checkpoint}", f"does not go with {name}", "leave it away")
        plugin, reference = referred
        adapter, path, bundled = plugin.load(), None, None
        model: AudioModel = adapter.from_reference(reference, trust_remote_code)
        resolved = model.origin.name if model.origin else plugin.name
    elif trust_remote_code:
        raise UsageError("--trust-remote-code", f"is of no use to {name}", "leave it away")
    else:
        adapter, resolved, path, bundled = _resolve(name, checkpoint)
        model = _build(adapter, resolved, path)
    model.input = input
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
            remedy = f"give one of {choices}" if choices else "leave it away"
            raise UsageError(f"--layer {layer}", f"{resolved} has no such layer to choose", remedy)
        model.layer = layer
    model.requires_grad_(False).eval().to(find_device(device))
    if isinstance(name, str):
        weights = os.path.abspath(path) if path and not bundled else None  # noqa: PTH100 - no link is followed
        model.source = Source(
            model.origin.reference if model.origin else _anywhere(name, bundled),
            weights,
            input,
            model.pooling,
            dtype,
            layer,
            trust_remote_code,
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
            source_sha256=source_sha256(adapter, AudioModel),
            metadata_sha256=None if is_own(adapter) else _metadata_sha256(model),
            recipe_sha256=model.metadata.get("recipe_sha256"),
            parent_sha256=model.metadata.get("parent_sha256"),
            train_seed=int(seed) if (seed := model.metadata.get("train_seed", "")).isdecimal() else None,
            pretrained_on=pretrained_on or trained,
            licence=licence,
            layer=model.layer,
            repository=model.origin.repository if model.origin else None,
            remote_code=bool(model.origin and model.origin.remote_code),
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


def _build(adapter: type[AudioModel], resolved: str, path: Path | None) -> AudioModel:
    if path is not None and not adapter.card.needs_weights:
        raise UsageError(f"--model {resolved}", "takes no checkpoint", "leave =PATH or --checkpoint away")
    made_by = "from_checkpoint" if path is not None else "untrained"
    with own_code(made_by, adapter):
        model: Any = adapter.from_checkpoint(path) if path is not None else adapter.untrained()
    if not isinstance(model, AudioModel):
        raise OwnCodeError(
            f"{made_by} of {adapter.__name__}", f"returns {_kind(model)}, not a model", "return the model"
        )
    built: AudioModel = model
    return built


def _kind(value: Any) -> str:
    """A value that is no tensor, in words."""
    if value is None:
        return "nothing"
    several = isinstance(value, tuple | list)
    return f"{len(value)} values" if several else f"a {type(value).__name__}"


class _Resolved(NamedTuple):
    """The adapter, the name for results, the weights file (None where there is none), and the bundled weights."""

    adapter: type[AudioModel]
    name: str
    path: Path | None
    bundled: Weights | None = None


def _resolve(name: str | type[AudioModel], checkpoint: str | Path | None) -> _Resolved:
    path = Path(checkpoint) if checkpoint is not None else None
    if not isinstance(name, str):
        return _Resolved(name, name.card.name, path)
    if "=" in name:
        name, _, given = name.partition("=")
        if path is not None:
            raise UsageError(
                f"--model {name}={given}", "has a second checkpoint", "give =PATH or --checkpoint, not both"
            )
        path = Path(given)
    if ".py:" in name:
        adapter: Any = registry.from_file(name, "--model")
        if not (isinstance(adapter, type) and issubclass(adapter, AudioModel)):
            raise BadInputError(name, "is not a subclass of uamix_bench.AudioModel", "see docs/your-model.md")
        if not hasattr(adapter, "card"):
            raise BadInputError(name, "has no card", "state sample_rate and embedding_dim as numbers in the class")
        return _Resolved(adapter, adapter.card.name, path)
    plugin, bundled = registry.find_model(name)
    if path is not None or bundled is None:
        return _Resolved(plugin.load(), plugin.name, path)
    return _Resolved(plugin.load(), bundled.id, plugin.folder / bundled.file, bundled)


def _weights_sha256(model: AudioModel, path: Path | None) -> str | None:
    """The digest of the file or folder that was given, else of a stranger's tensors; None where there are none."""
    if model.origin is not None:
        return named_sha256(model.origin.files)
    own = is_own(type(model))
    if path is not None and (own or path.exists()):  # from_checkpoint may also take the name of something elsewhere
        return weights_sha256(path, model.card.beside, whole=not own)
    return None if own or not model.state_dict() else state_sha256(model)


def _metadata_sha256(model: AudioModel) -> str:
    try:
        return files.digest(model.metadata)
    except (TypeError, ValueError) as error:
        reason = f"holds in its metadata what JSON cannot ({error})"
        raise BadInputError(model.card.name, reason, "give texts by their names") from error


def _anywhere(name: str, bundled: Weights | None) -> str:
    """A model's name without its weights' path, and with that of its code absolute."""
    if bundled is not None:
        return bundled.id
    name = name.partition("=")[0]
    code, separator, adapter = name.rpartition(":")
    return f"{os.path.abspath(code)}:{adapter}" if separator else name  # noqa: PTH100


def _origin(model: AudioModel, bundled: Weights | None) -> tuple[tuple[str, ...], str]:
    """What the weights were trained on, and their licence: the card's, unless the file says that a user made it."""
    origin = bundled or model.card
    if bundled is not None or "data" not in model.metadata:
        return origin.pretrained_on, origin.licence
    parent = model.metadata.get("parent_sha256")
    return (*((f"weights {parent[:12]}",) if parent else ()), model.metadata["data"]), "the user's own"


def find_device(name: str) -> torch.device:
    """The torch device for a --device value.

    Raises:
        UsageError: There is no such kind of device.
        MachineError: It is not there.
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
