"""The families of audio encoders in transformers: per family how a clip becomes inputs, and inputs become tokens.

Each follows what the family's documentation does to one clip alone. Clips meet in a batch only where that changes
nothing, so that no attention mask is needed for what stands beside a clip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from uamix_bench.models.frontend import KaldiFbank
from uamix_bench.util.arrays import Floats
from uamix_bench.util.errors import OwnCodeError, is_out_of_memory


class Encoder:
    """One family's way from a clip to tokens, for one model.

    Args:
        model: The transformers model, in eval mode.
        extractor: Its feature extractor.
    """

    poolings: ClassVar[tuple[str, ...]] = ("mean",)
    one_width = True  # of all layers, so that one of them, or their mean, can be chosen

    def __init__(self, model: Any, extractor: Any) -> None:
        self.model = model
        self.extractor = extractor
        self.sample_rate = int(extractor.sampling_rate)

    @property
    def depth(self) -> int:
        """Layers after the stem."""
        return int(self.model.config.num_hidden_layers)

    def width(self, pooling: str, layer: str) -> int:
        """D of the layers, or that of the adapter behind the last."""
        config = self.model.config
        adapted = layer == "last" and getattr(config, "add_adapter", False)
        return int(config.output_hidden_size if adapted else config.hidden_size)

    def inputs(self, clip: Floats, official: bool) -> tuple[Tensor, int]:
        """Turns one clip (S,) float32 into what the model takes (T, ...) and a count that `tokens` cuts it by."""
        raise NotImplementedError

    def tokens(self, inputs: Tensor, count: int, layer: str) -> Tensor:
        """Encodes inputs (B, T, ...) of clips that have one count into tokens (B, L, D)."""
        raise NotImplementedError

    def columns(self, samples: int, official: bool) -> int:
        """A number that is equal for clips that one batch encodes without padding."""
        return samples

    def pool(self, tokens: Tensor, mask: Tensor, how: str, mean: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Pools tokens (B, L, D), where mask (B, L) is True, by the masked mean."""
        return mean(tokens, mask)

    def _run(self, layer: str, *arguments: Tensor, **named: Any) -> Tensor:
        """Calls the model; the tokens of the layer asked for."""
        return _layer(self.model(*arguments, output_hidden_states=layer != "last", **named), layer)


def _layer(output: Any, layer: str) -> Tensor:
    if layer == "last":
        last: Tensor = output.last_hidden_state
        return last
    states: tuple[Tensor, ...] = output.hidden_states
    return torch.stack(states).mean(dim=0) if layer == "mean" else states[int(layer)]


class Waveform(Encoder):
    """wav2vec 2.0 and what shares its extractor: convolutions over the waveform, then transformer layers.

    The waveform is normalised over a clip's own samples where the extractor's file says so. Clips of one length alone
    share a call: a group norm over padding would be another one, and models with it know no attention mask.
    """

    @property
    def shortest(self) -> int:
        """Samples that give one token (400 for wav2vec 2.0's convolutions)."""
        config = self.model.config
        samples = int(getattr(config, "squeeze_factor", 1))
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            samples = (samples - 1) * int(stride) + int(kernel)
        return samples

    def inputs(self, clip: Floats, official: bool) -> tuple[Tensor, int]:
        """Samples (S,), zero-padded to the fewest that the convolutions take."""
        samples = torch.from_numpy(_extracted(self, clip)["input_values"][0])
        samples = nn.functional.pad(samples, (0, max(0, self.shortest - len(samples))))
        return samples, len(samples)

    def tokens(self, inputs: Tensor, count: int, layer: str) -> Tensor:
        """(B, L, D) from (B, S)."""
        return self._run(layer, inputs[:, :count])


class SpeechConvolutions(Waveform):
    """Moonshine's encoder: wav2vec 2.0's way with other convolutions, which its configuration does not state."""

    @property
    def shortest(self) -> int:
        """Samples that give one token, by kernels and strides of the three convolutions."""
        samples = 1
        for convolution in (self.model.conv3, self.model.conv2, self.model.conv1):
            samples = (samples - 1) * int(convolution.stride[0]) + int(convolution.kernel_size[0])
        return samples

    @property
    def depth(self) -> int:
        """Layers of the encoder."""
        return int(self.model.config.encoder_num_hidden_layers)


class StackedFrames(Encoder):
    """Wav2Vec2-BERT: pairs of log-mel frames, each bin normalised over a clip; half a pair at the end is masked."""

    _SHORTEST = 560  # samples of two frames, 25 ms every 10 ms at 16 kHz: one has no variance, and makes no pair

    def inputs(self, clip: Floats, official: bool) -> tuple[Tensor, int]:
        """Pairs of frames (P, 160), and the frames."""
        clip = np.pad(clip, (0, max(0, self._SHORTEST - len(clip))))
        pairs = torch.from_numpy(np.asarray(_extracted(self, clip)["input_features"][0], np.float32))
        return pairs, self._frames(len(clip))

    def tokens(self, inputs: Tensor, count: int, layer: str) -> Tensor:
        """(B, L, D) from (B, P, 160)."""
        pairs, whole = inputs[:, : (count + 1) // 2], count // 2
        mask = (torch.arange(pairs.shape[1], device=pairs.device) < whole).expand(len(pairs), -1)
        tokens = self._run(layer, pairs, attention_mask=mask.long())
        return tokens[:, :whole] if tokens.shape[1] == pairs.shape[1] else tokens

    def columns(self, samples: int, official: bool) -> int:
        """Frames."""
        return self._frames(max(samples, self._SHORTEST))

    def _frames(self, samples: int) -> int:
        return 1 + (samples - 400) // 160


class SpectrogramPatches(Encoder):
    """Audio Spectrogram Transformer: patches of a log-mel spectrogram, two special tokens before them.

    Under ``native`` the positions are cropped to the columns of a clip's own frames; under ``official`` the spectrogram
    is padded to the model's length, as its extractor does, and every patch counts. What is longer is cut to it.
    The frames are Kaldi's, as the extractor takes them where torchaudio is installed.
    """

    poolings = ("mean", "cls")

    def __init__(self, model: Any, extractor: Any) -> None:
        super().__init__(model, extractor)
        self.fbank = KaldiFbank(self.sample_rate, int(extractor.num_mel_bins), window="hanning")

    def inputs(self, clip: Floats, official: bool) -> tuple[Tensor, int]:
        """Frames (T, F), normalised, and how many the model gets."""
        frames, _ = self.fbank(torch.from_numpy(clip)[None], torch.tensor([len(clip)]))
        count = self._kept(len(clip), official)
        frames = frames[0, :count]
        frames = nn.functional.pad(frames, (0, 0, 0, count - len(frames)))
        if self.extractor.do_normalize:
            frames = (frames - self.extractor.mean) / (2 * self.extractor.std)
        return frames, count

    def tokens(self, inputs: Tensor, count: int, layer: str) -> Tensor:
        """(B, 2 + L, D) from (B, T, F): CLS and distillation, then patches, the lowest mel row first."""
        table = self.model.embeddings.position_embeddings
        rows, columns = self.model.embeddings.get_shape(self.model.config)
        kept = self._columns(count)
        patches = table[:, 2:].unflatten(1, (rows, columns))[:, :, :kept].flatten(1, 2)
        positions = {"embeddings.position_embeddings": torch.cat([table[:, :2], patches], dim=1)}
        options = {"output_hidden_states": layer != "last"}
        return _layer(functional_call(self.model, positions, (inputs[:, :count],), options), layer)

    def columns(self, samples: int, official: bool) -> int:
        """Columns of patches."""
        return self._columns(self._kept(samples, official))

    def pool(self, tokens: Tensor, mask: Tensor, how: str, mean: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """``mean``: over the patches; ``cls``: the mean of the two special tokens, as the classifier takes it."""
        return tokens[:, :2].mean(dim=1) if how == "cls" else mean(tokens[:, 2:], mask[:, 2:])

    def _kept(self, samples: int, official: bool) -> int:
        """Frames that the model gets: all of its length, or those of whole patches within a clip's own."""
        config = self.model.config
        longest, patch = int(config.max_length), int(config.patch_size)
        if official:
            return longest
        own = self.fbank.frames(samples)
        own = min(max(own, patch), longest)
        return own - (own - patch) % int(config.time_stride)

    def _columns(self, frames: int) -> int:
        config = self.model.config
        return (frames - int(config.patch_size)) // int(config.time_stride) + 1


class Window(Encoder):
    """Whisper's encoder: a log-mel spectrogram of 30 s whatever the clip's length, of which its own tokens count.

    Under ``official`` all count. What is longer is cut to the window.
    """

    def inputs(self, clip: Floats, official: bool) -> tuple[Tensor, int]:
        """All frames (T, F) of the window, and the tokens of the clip's own."""
        frames = torch.from_numpy(np.asarray(_extracted(self, clip)["input_features"][0]))
        return frames.T.contiguous(), self.columns(len(clip), official)

    def tokens(self, inputs: Tensor, count: int, layer: str) -> Tensor:
        """(B, L, D) from (B, T, F)."""
        return self._run(layer, inputs.transpose(1, 2))[:, :count]

    def columns(self, samples: int, official: bool) -> int:
        """Tokens of a clip's own: one for two hops, the last of them begun."""
        longest = int(self.model.config.max_source_positions)
        return longest if official else min(-(-samples // (2 * int(self.extractor.hop_length))), longest)


class Joint(Encoder):
    """CLAP's audio side: a window that a short clip is repeated to fill, and of which a longer one gives its beginning.

    The extractor would cut a longer one at random. Stages differ in width, so that only the last can be chosen.
    """

    poolings = ("projection", "mean")
    one_width = False

    def width(self, pooling: str, layer: str) -> int:
        """D of the space that sounds and texts share, or of the last stage."""
        config = self.model.config
        return int(config.projection_dim if pooling == "projection" else config.hidden_size)

    def inputs(self, clip: Floats, official: bool) -> tuple[Tensor, int]:
        """Frames (T, C, F): one view, or the four of a model with fusion."""
        clip = clip[: int(self.extractor.nb_max_samples)]
        views = torch.from_numpy(np.asarray(_extracted(self, clip)["input_features"][0], np.float32))
        return views.transpose(0, 1).contiguous(), views.shape[1]

    def tokens(self, inputs: Tensor, count: int, layer: str) -> Tensor:
        """(B, L, D) from (B, T, C, F)."""
        longer = torch.ones(len(inputs), 1, dtype=torch.bool, device=inputs.device)  # as of every clip alone
        fused = self.model.config.enable_fusion
        output = self.model.audio_model(inputs.transpose(1, 2), is_longer=longer if fused else None)
        return _layer(output, layer).flatten(2).transpose(1, 2)  # (B, D, mel, time)

    def columns(self, samples: int, official: bool) -> int:
        """One number: all clips fill the window."""
        return 1

    def pool(self, tokens: Tensor, mask: Tensor, how: str, mean: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """``mean``: over the last stage; ``projection``: that in the space shared with texts, of unit length."""
        pooled = mean(tokens, mask)
        return nn.functional.normalize(self.model.audio_projection(pooled), dim=-1) if how == "projection" else pooled


class Remote(Encoder):
    """A model whose code comes with it: its own extractor and model on one clip at a time."""

    def __init__(self, model: Any, extractor: Any) -> None:
        super().__init__(model, extractor)
        self._widths: dict[str, int] = {}

    @property
    def depth(self) -> int:
        """Layers, as far as its configuration says."""
        return int(getattr(self.model.config, "num_hidden_layers", 0))

    def width(self, pooling: str, layer: str) -> int:
        """D of the tokens of a second of silence: configurations call it by many names."""
        if layer not in self._widths:
            device = next(self.model.parameters()).device
            with torch.inference_mode():
                self._widths[layer] = self._alone(torch.zeros(self.sample_rate, device=device), layer).shape[2]
        return self._widths[layer]

    def inputs(self, clip: Floats, official: bool) -> tuple[Tensor, int]:
        """The clip as it is: what its extractor gives may have any form."""
        return torch.from_numpy(clip), len(clip)

    def tokens(self, inputs: Tensor, count: int, layer: str) -> Tensor:
        """(B, L, D) from (B, S)."""
        return torch.cat([self._alone(clip[:count], layer) for clip in inputs])

    def _alone(self, clip: Tensor, layer: str) -> Tensor:
        try:
            given = self.extractor(clip.cpu().numpy(), sampling_rate=self.sample_rate, return_tensors="pt")
            name = next(name for name in ("input_values", "input_features", *given) if name in given)
            tokens = self._run(layer, given[name].to(clip.device))
        except Exception as error:  # whatever a stranger's code raises
            if is_out_of_memory(error):
                raise
            said = f"raises {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise OwnCodeError("the code that comes with the model", f"{said} for {len(clip)} samples") from error
        if tokens.ndim != 3 or len(tokens) != 1:
            reason = f"gives {tuple(tokens.shape)}, not tokens (1, L, D)"
            raise OwnCodeError("the code that comes with the model", reason, "write an adapter for it")
        return tokens


def _extracted(encoder: Encoder, clip: Floats) -> Any:
    """Extractor's output for one clip alone, as numpy arrays."""
    return encoder.extractor(clip, sampling_rate=encoder.sample_rate, return_tensors="np")


@dataclass(frozen=True)
class Family:
    """Family of models with one ``model_type``.

    Attributes:
        model: Name of the class in transformers.
        extractor: Name of its feature extractor's class.
        encoder: How it is run.
        prefixes: Prefixes of the encoder's tensors in a file of a larger model.
        part: The part of the configuration that is the encoder's; all of it where empty.
        texts: Name of the class of the text side; empty without one. Its part of the configuration is `text_config`.
    """

    model: str
    extractor: str = "Wav2Vec2FeatureExtractor"
    encoder: type[Encoder] = Waveform
    prefixes: tuple[str, ...] = ()
    part: str = ""
    texts: str = ""


_ENCODER = ("model.encoder.", "encoder.")  # of a model for transcription, with its head or without
_CLAP = ("ClapAudioModelWithProjection", "ClapFeatureExtractor", Joint)

FAMILIES = {
    "audio-spectrogram-transformer": Family("ASTModel", "ASTFeatureExtractor", SpectrogramPatches),
    "clap": Family(*_CLAP, part="audio_config", texts="ClapTextModelWithProjection"),
    "clap_audio_model": Family(*_CLAP),
    "data2vec-audio": Family("Data2VecAudioModel"),
    "hubert": Family("HubertModel"),
    "moonshine": Family(
        "models.moonshine.modeling_moonshine.MoonshineEncoder", encoder=SpeechConvolutions, prefixes=_ENCODER
    ),
    "sew": Family("SEWModel"),
    "sew-d": Family("SEWDModel"),
    "unispeech": Family("UniSpeechModel"),
    "unispeech-sat": Family("UniSpeechSatModel"),
    "wav2vec2": Family("Wav2Vec2Model"),
    "wav2vec2-bert": Family("Wav2Vec2BertModel", "SeamlessM4TFeatureExtractor", StackedFrames),
    "wav2vec2-conformer": Family("Wav2Vec2ConformerModel"),
    "wavlm": Family("WavLMModel"),
    "whisper": Family(
        "models.whisper.modeling_whisper.WhisperEncoder",
        "WhisperFeatureExtractor",
        Window,
        _ENCODER,
    ),
}
