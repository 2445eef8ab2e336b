"""Contract of a model adapter (`AudioModel`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from uamix_bench.data.audio import resample
from uamix_bench.models.arguments import Value
from uamix_bench.plugins.card import Input, ModelCard, ModelIdentity, Segments
from uamix_bench.util.arrays import Floats, Mask
from uamix_bench.util.errors import BadInputError, OwnCodeError, UsageError, own_code

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
        device = self.device
        pinned = device.type == "cuda"  # page-locked memory is copied to a GPU without a detour
        batch = torch.zeros(len(clips), int(lengths.max()), pin_memory=pinned)
        for row, clip in zip(batch, clips, strict=True):
            row[: len(clip)] = torch.from_numpy(clip)
        spectrogram, counts = self.call_frontend(batch.to(device, non_blocking=pinned), lengths.to(device))
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

    def state(self, **facts: Any) -> None:
        """Gives the model a card of its own: that of its class with its sample rate, embedding size and these facts."""
        sizes = {"sample_rate": self.sample_rate, "embedding_dim": self.embedding_dim}
        self.card = type(self).card.model_copy(update={**sizes, **facts})  # type: ignore[misc]

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
            shown = f"{tuple(given.shape)} {str(given.dtype).removeprefix('torch.')}" if is_tensor else in_words(given)
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


def in_words(value: Any) -> str:
    """Words for a value that is no tensor, for errors."""
    if value is None:
        return "nothing"
    several = isinstance(value, tuple | list)
    return f"{len(value)} values" if several else f"a {type(value).__name__}"
