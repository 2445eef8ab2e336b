"""Recipes: every hyper-parameter of a training as data, torch-free, so that the command line can list its choices."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from uamix_bench.files import digest

Mixing = Literal["none", "mixup", "t-cutmix", "tf-cutmix"]
MIXINGS: tuple[Mixing, ...] = ("none", "mixup", "t-cutmix", "tf-cutmix")


class Views(BaseModel):
    """The augmentations that make a view, all on the log-mel spectrogram (tuning/views.py says how).

    The paper names the kinds (pitch and time shift, time mask and stretch, fade, noise, random crop) and no strength;
    these are the project's own. Probabilities are per view, shifts in mel bins, levels in dB, ranges are symmetric.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stretch: float = Field(default=0.2, ge=0, lt=1, description="speed is drawn log-uniformly from 1/(1+s) to 1+s")
    mel_shift: float = Field(default=3.0, ge=0, description="largest shift of the mel axis, in bins")
    mel_shift_p: float = Field(default=0.5, ge=0, le=1)
    gain_db: float = Field(default=6.0, ge=0)
    tilt_db: float = Field(default=3.0, ge=0, description="largest swing of a smooth random equaliser curve")
    noise_p: float = Field(default=0.5, ge=0, le=1)
    noise_snr_db: tuple[float, float] = (5.0, 35.0)
    low_pass_p: float = Field(default=0.2, ge=0, le=1, description="share of views band-limited to low_pass_hz")
    low_pass_hz: tuple[float, float] = (3400.0, 5000.0)
    fade_p: float = Field(default=0.3, ge=0, le=1)
    time_mask_p: float = Field(default=0.5, ge=0, le=1)
    time_mask: float = Field(default=0.125, ge=0, lt=1, description="largest masked share of the view")
    mel_mask_p: float = Field(default=0.3, ge=0, le=1)
    mel_mask: int = Field(default=12, ge=0, description="largest masked band, in mel bins")


class Recipe(BaseModel):
    """What every training has in common.

    `frames` are the lengths a batch is cropped to, one drawn per step; `batch` is the global batch; learning rates are
    peak values, reached after the warm-up share of the steps and followed by a cosine to zero.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    seed: int = Field(default=0, ge=0)
    data: str = Field(default="synthetic:train", description="TASK[:SPLIT], a folder, or a CSV")
    batch: int = Field(ge=2)
    frames: tuple[int, ...]
    weight_decay: float = Field(ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = Field(ge=0, lt=1, description="share of the steps")
    clip_gradient: float | None = Field(default=None, gt=0, description="largest norm of the gradient")
    precision: Literal["float32", "bfloat16"] = "float32"
    save_dtype: Literal["float32", "float16"] = "float32"
    checkpoint_every: int = Field(default=200, ge=1, description="steps")

    @property
    def sha256(self) -> str:
        """SHA-256 of the recipe's canonical JSON."""
        return digest(self.model_dump(mode="json"))

    @property
    def floor(self) -> float:
        """The share of the peak learning rate that the cosine falls to."""
        return 0.0


class PretrainRecipe(Recipe):
    """Masked-autoencoder pre-training: AudioMAE's objective (method.md section 9 gives the official values)."""

    kind: Literal["pretrain"] = "pretrain"
    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    mask_ratio: float = Field(default=0.8, gt=0, lt=1)
    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    views: Views = Views(
        stretch=0.2,
        mel_shift_p=0.5,
        noise_p=0.25,
        low_pass_p=0.2,
        fade_p=0.0,
        time_mask_p=0.0,
        mel_mask_p=0.0,
    )

    @model_validator(mode="after")
    def _heads_that_the_weights_imply(self) -> PretrainRecipe:
        if self.width != 64 * self.heads:
            raise ValueError("heads: each has 64 features, as a reader of the weights assumes, so width is 64 x heads")
        return self

    @model_validator(mode="after")
    def _whole_windows(self) -> PretrainRecipe:
        if any(frames % 64 for frames in self.frames):
            raise ValueError(
                "frames: the decoder's windows span 4 columns of 16 frames, so lengths are multiples of 64"
            )
        return self


class TuneRecipe(Recipe):
    """uaMix-MAE's two stages. Defaults of silent numbers follow MAE-CT base16 (method.md section 3.2)."""

    kind: Literal["tune"] = "tune"
    mix: Mixing = "t-cutmix"
    alpha: float = Field(default=1.0, gt=0, description="lambda ~ Beta(alpha, alpha)")
    lambda_per: Literal["sample", "batch"] = "sample"
    partner: Literal["neighbour", "flip"] = Field(default="neighbour", description="j = i xor 1, or the reversed batch")
    temperature: float = Field(default=0.15, gt=0)
    top_k: int = Field(default=20, ge=1)
    queue: int = Field(default=65_536, ge=1)
    projector: tuple[int, int, int] = (2048, 2048, 256)
    predictor: int = 4096
    ema: float = Field(default=0.99, ge=0, lt=1, description="of the projector that writes the queue, in stage 2")
    frozen: float = Field(
        default=0.5, ge=0, le=1, description="share of the blocks that stays frozen, from the stem up"
    )
    head_epochs: int = Field(ge=0, description="stage 1: the encoder is frozen, the head is trained, nothing is mixed")
    epochs: int = Field(ge=0, description="stage 2: the upper blocks and the head are trained")
    head_learning_rate: float = Field(gt=0)
    learning_rate: float = Field(gt=0, description="of the final norm; block b of L gets decay ** (L - b)")
    layer_decay: float = Field(default=0.65, gt=0, le=1)
    head_weight_decay: float = Field(default=1e-5, ge=0)
    views: Views = Views()

    @model_validator(mode="after")
    def _whole_batches(self) -> TuneRecipe:
        if self.batch % 2:
            raise ValueError("batch: partners come in pairs, so the batch is even")
        if self.queue % self.batch:
            raise ValueError("queue: must be a multiple of the batch")
        if self.top_k > self.queue:
            raise ValueError("top_k: cannot exceed the queue")
        return self


PRETRAIN: dict[str, PretrainRecipe] = {
    "tiny": PretrainRecipe(
        name="tiny",
        width=192,
        depth=6,
        heads=3,
        decoder_width=96,
        decoder_depth=4,
        decoder_heads=3,
        epochs=8,
        batch=128,
        frames=(64, 64, 64, 128, 192),
        learning_rate=8e-4,
        weight_decay=1e-4,
        warmup=0.1,
        save_dtype="float16",
    ),
}

TUNE: dict[str, TuneRecipe] = {
    "tiny": TuneRecipe(
        name="tiny",
        batch=128,
        frames=(48, 64, 80, 112),
        queue=4096,
        top_k=5,
        projector=(512, 512, 128),
        predictor=512,
        head_epochs=1,
        epochs=5,
        head_learning_rate=1e-3,
        learning_rate=3e-4,
        layer_decay=0.8,
        weight_decay=0.05,
        warmup=0.2,
        clip_gradient=1.0,
        save_dtype="float16",
    ),
    # AudioSet-20K at ViT-B from AudioMAE: MAE-CT base16 with batch 256 and its learning rate scaled linearly; the queue
    # shrunk to the data (20k clips: 65,536 entries would hold three epochs of every clip).
    "paper": TuneRecipe(
        name="paper",
        data="audioset-20k",
        batch=256,
        frames=(1024,),
        queue=16_384,
        head_epochs=20,
        epochs=20,
        head_learning_rate=2e-4,
        learning_rate=2e-4,
        weight_decay=0.05,
        warmup=0.2,
        precision="bfloat16",
    ),
}
