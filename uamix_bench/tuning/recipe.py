"""Recipes: every hyper-parameter of a training as data. Torch-free, so that the command line can list its choices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from uamix_bench.util.errors import nearest
from uamix_bench.util.files import digest, home

Mixing = Literal["none", "mixup", "t-cutmix", "tf-cutmix"]
Pooling = Literal["mean", "stacked", "stacked-mean-max"]
Partner = Literal["neighbour", "flip", "permutation"]
HEAD_ALONE = "head"  # the name of a recipe of stage 1 alone
MIXINGS: tuple[Mixing, ...] = ("none", "mixup", "t-cutmix", "tf-cutmix")
_CUTMIXES: tuple[Mixing, ...] = ("t-cutmix", "tf-cutmix")


@dataclass(frozen=True)
class Scope:
    """Part of a training that reads a field; a field without one is read everywhere.

    Recipes that differ only in fields outside their scope train equally.

    Attributes:
        last_stage: True if only the last stage reads the field.
        mixings: Mixings under which the field is read.
        unread: Value that stands for the field where it is not read; None for its default.
        option: Option of `ablate` that sets the field, in place of --vary.
        added: True for a field that earlier recipes lack. Its default is left out of the data, so their digests stay.
        timed: False if the duration of a step does not depend on the field.
    """

    last_stage: bool = False
    mixings: tuple[Mixing, ...] = MIXINGS
    unread: Any = None
    option: str | None = None
    added: bool = False
    timed: bool = True


_UNTIMED = Scope(timed=False)


class Views(BaseModel):
    """Strengths of the augmentations that make a view, all on the log-mel spectrogram (see tuning/views.py).

    The paper names the kinds (pitch and time shift, time mask and stretch, fade, noise, random crop) and no strength;
    the defaults are the project's own. Probabilities are per view, shifts in mel bins, levels in dB, ranges symmetric.
    A name from `VIEWS` stands for all of its strengths.
    """

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid", allow_inf_nan=False)

    stretch: float = Field(default=0.2, ge=0, lt=1, description="speed is drawn log-uniformly from 1/(1+s) to 1+s")
    mel_shift: float = Field(default=3.0, ge=0, description="largest shift of the mel axis, in bins")
    mel_shift_p: float = Field(default=0.5, ge=0, le=1)
    pitch: float = Field(default=0.0, ge=0, description="largest scaling of all frequencies, in semitones")
    pitch_p: float = Field(default=0.0, ge=0, le=1)
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

    @property
    def preset(self) -> str:
        """Name of the preset with these strengths, or ``own``."""
        return next((name for name, views in VIEWS.items() if views == self), "own")


_CROP = Views().model_copy(
    update=dict.fromkeys(
        "mel_shift mel_shift_p gain_db tilt_db noise_p low_pass_p fade_p time_mask_p mel_mask_p".split(), 0.0
    )
)

VIEWS: dict[str, Views] = {
    "project": Views(),
    "pretrain": Views(noise_p=0.25, fade_p=0.0, time_mask_p=0.0, mel_mask_p=0.0),
    # MAE-CT's views are random resized crops: a random, stretched window and nothing else.
    "crop": _CROP,
    # MT-SLVR (Heggan et al., aug_params.yaml) as far as log-mel frames can follow it. There 1 to 7 of 7 augmentations
    # of the waveform are drawn, so each has 4 chances in 7; here each is drawn by itself with that chance, and its two
    # noises are one. Stretching is log-uniform up to x 1.5 (there uniform from x 0.5), pitch moves formants as there.
    "mtslvr": _CROP.model_copy(
        update={
            "stretch": 0.5,
            "pitch": 15.0,
            "pitch_p": 4 / 7,
            "fade_p": 4 / 7,
            "noise_p": 1 - (3 / 7) ** 2,
            "noise_snr_db": (3.0, 30.0),
            "time_mask_p": 4 / 7,
            "time_mask": 0.125,
        }
    ),
}


def _named_views(value: object) -> object:
    if isinstance(value, str):
        if value not in VIEWS:
            raise ValueError(f"no preset '{value}' of views; {nearest(value, list(VIEWS))}")
        return VIEWS[value]
    return value


Clips = Annotated[
    Annotated[int, Field(ge=2)] | None,
    BeforeValidator(lambda value: None if value == "all" else value),
    Scope(added=True, timed=False),
    Field(description="clips drawn from the data by the seed, those of a smaller number among them; or all"),
]
Centre = Annotated[
    bool,
    Scope(last_stage=True, added=True, timed=False),
    Field(
        description="the weights keep the mean embedding of their training clips; by default they are then evaluated "
        "less that mean and at unit length, as SimpleShot does with its base classes (the project's own)"
    ),
]
NamedViews = Annotated[Views, BeforeValidator(_named_views), _UNTIMED]


class Recipe(BaseModel):
    """Fields of a recipe that every training has.

    `frames` are the lengths, in frames, that a batch is cropped to, one drawn per step. `batch` is the global batch.
    Learning rates are peak values: reached after the warm-up share of the steps, followed by a cosine to zero.
    """

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid", allow_inf_nan=False)

    name: Annotated[str, Scope(option="--recipe", timed=False)]
    seed: Annotated[int, Scope(option="--seeds", timed=False)] = Field(default=0, ge=0)
    data: Annotated[str, Scope(option="--data", timed=False)] = Field(
        default="synthetic:train", description="TASK[:SPLIT], a folder, a CSV or a text list"
    )
    batch: int = Field(ge=2)
    frames: tuple[int, ...]
    weight_decay: Annotated[float, Scope(last_stage=True, unread=0.0, timed=False)] = Field(ge=0)
    betas: Annotated[tuple[float, float], _UNTIMED] = (0.9, 0.95)
    warmup: Annotated[float, _UNTIMED] = Field(ge=0, lt=1, description="share of the steps")
    clip_gradient: Annotated[float | None, _UNTIMED] = Field(
        default=None, gt=0, description="largest norm of the gradient"
    )
    precision: Literal["float32", "bfloat16"] = "float32"
    save_dtype: Annotated[Literal["float32", "float16"], Scope(last_stage=True, timed=False)] = "float32"
    checkpoint_every: Annotated[int, _UNTIMED] = Field(default=200, ge=1, description="steps")

    @property
    def sha256(self) -> str:
        """SHA-256 of the recipe's canonical JSON."""
        return digest(self.model_dump(mode="json"))

    def whole(self) -> dict[str, Any]:
        """Recipe as plain data with every field, those included that the data of earlier recipes lack."""
        added = [name for name, scope in self.scopes().items() if scope.added]
        return {**{name: getattr(self, name) for name in added}, **self.model_dump(mode="json")}

    @model_serializer(mode="wrap")
    def _without_added(self, given: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = given(self)
        added = [name for name, scope in self.scopes().items() if scope.added]
        idle = [name for name in added if getattr(self, name) == type(self).model_fields[name].default]
        return {name: value for name, value in fields.items() if name not in idle}

    @classmethod
    @cache
    def scopes(cls) -> Mapping[str, Scope]:
        """Scope of each field, by its name."""
        everywhere = Scope()
        found = {
            name: next((entry for entry in field.metadata if isinstance(entry, Scope)), everywhere)
            for name, field in cls.model_fields.items()
        }
        return MappingProxyType(found)

    @property
    def floor(self) -> float:
        """Share of the peak learning rate that the cosine falls to."""
        return 0.0


class PretrainRecipe(Recipe):
    """Recipe of masked-autoencoder pre-training with AudioMAE's objective."""

    kind: Literal["pretrain"] = "pretrain"
    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    mask_ratio: float = Field(default=0.8, gt=0, lt=1)
    epochs: int = Field(ge=0, description="0 keeps the weights of --init and adds the clips' mean embedding")
    learning_rate: float = Field(gt=0)
    clips: Clips = None
    pooling: Annotated[Pooling, Scope(added=True)] = Field(
        default="mean", description="pooling that the weights are evaluated with"
    )
    centre: Centre = False
    views: NamedViews = VIEWS["pretrain"]

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


_MIXED = Scope(last_stage=True, mixings=("mixup", *_CUTMIXES), timed=False)
_BOXED = Scope(last_stage=True, mixings=_CUTMIXES, timed=False)


class TuneRecipe(Recipe):
    """Recipe of uaMix-MAE's two stages.

    If the paper leaves a value open, the field says which choice was made and whose it is; the other choices are values
    of the same field. Numbers without another source are MAE-CT base16's (Lehner et al., yamls of its stages 2 and 3).
    """

    kind: Annotated[Literal["tune"], Scope(option="--recipe")] = "tune"
    mix: Annotated[Mixing, Scope(last_stage=True, option="--mix", timed=False)] = Field(
        default="t-cutmix", description="t-cutmix is the paper's; the others are its ablations"
    )
    alpha: Annotated[float, _MIXED] = Field(
        default=1.0, gt=0, description="lambda ~ Beta(alpha, alpha); unknown: CutMix, Un-Mix and i-Mix have 1, IDMM 0.5"
    )
    lambda_per: Annotated[Literal["sample", "batch"], _MIXED] = Field(
        default="sample", description="who shares a draw; the paper's Figure 1 shows boxes that differ within a pair"
    )
    lambda_max: Annotated[bool, _MIXED] = Field(
        default=False,
        description="max(lambda, 1 - lambda), as IDMM and i-Mix have it, instead of the paper's plain Beta",
    )
    partner: Annotated[Partner, _UNTIMED] = Field(
        default="neighbour",
        description="j = i xor 1 (the project's: both mixtures of a pair are in the batch, as in Figure 1), the "
        "reversed batch (Un-Mix), or a random permutation (CutMix)",
    )
    box: Annotated[Literal["inside", "clipped"], _BOXED] = Field(
        default="inside",
        description="the box starts where it fits (the project's: its share is exact), or anywhere and is clipped at "
        "the end (CutMix's rule)",
    )
    snap: Annotated[Literal[1, 16], _BOXED] = Field(
        default=1, description="boxes fall on any frame, or on the encoder's patches of 16"
    )
    keys: Annotated[Literal["neighbours", "views"], _UNTIMED] = Field(
        default="neighbours",
        description="what a mixture is compared with: neighbours of the clean views (the paper's Eq. 1), or the clean "
        "views themselves (Eq. 4 read literally). Neighbours of the mixture would give it no gradient",
    )
    plain_weight: Annotated[float, replace(_MIXED, timed=True)] = Field(
        default=0.0, ge=0, description="weight of the unmixed loss beside the mixed one; Un-Mix adds it with 1"
    )
    temperature: Annotated[float, _UNTIMED] = Field(default=0.15, gt=0, description="MAE-CT base16")
    top_k: Annotated[int, _UNTIMED] = Field(
        default=20, ge=1, description="MAE-CT base16, stage 3; its stage 2 takes the nearest alone"
    )
    queue: int = Field(default=65_536, ge=1, description="MAE-CT base16, for ImageNet's 1.3 million images")
    projector: tuple[int, int, int] = Field(default=(2048, 2048, 256), description="MAE-CT base16")
    predictor: int = Field(default=4096, ge=1, description="MAE-CT base16")
    pooling: Pooling = Field(
        default="mean",
        description="f: the mean of the patch tokens (MAE-CT, the paper); their mel rows side by side, averaged over "
        "time (M2D); or that mean and the maximum over time (the project's). The weights are evaluated as tuned",
    )
    centre: Centre = False
    ema: Annotated[float, Scope(last_stage=True, timed=False)] = Field(
        default=0.99, ge=0, lt=1, description="of the projector that writes the queue in stage 2 (MAE-CT base16)"
    )
    frozen: Annotated[float, Scope(last_stage=True)] = Field(
        default=0.5, ge=0, le=1, description="share of the blocks that stays frozen, from the stem up (the paper)"
    )
    head_epochs: Annotated[int, _UNTIMED] = Field(
        ge=0, description="stage 1: the encoder is frozen, the head is trained, nothing is mixed; MAE-CT has 20"
    )
    epochs: Annotated[int, Scope(last_stage=True, unread=0, timed=False)] = Field(
        ge=0, description="stage 2: the upper blocks and the head are trained; MAE-CT has 20"
    )
    clips: Clips = None
    head_steps: Annotated[int | None, Scope(added=True, timed=False)] = Field(
        default=None, ge=0, description="steps of stage 1, in place of head_epochs"
    )
    steps: Annotated[int | None, Scope(last_stage=True, added=True, timed=False)] = Field(
        default=None, ge=0, description="steps of stage 2, in place of epochs"
    )
    head_learning_rate: Annotated[float, _UNTIMED] = Field(gt=0, description="MAE-CT: 1e-4 x 2 views x batch / 256")
    learning_rate: Annotated[float, Scope(last_stage=True, unread=1.0, timed=False)] = Field(
        gt=0, description="of the final norm; block b of L gets decay ** (L - b); MAE-CT: 1e-4 x 2 views x batch / 256"
    )
    layer_decay: Annotated[float, Scope(last_stage=True, timed=False)] = Field(
        default=0.65, gt=0, le=1, description="MAE-CT base16"
    )
    head_weight_decay: Annotated[float, _UNTIMED] = Field(default=1e-5, ge=0, description="MAE-CT base16")
    micro_batch: int | None = Field(
        default=None,
        ge=2,
        description="clips that are in the network at once; gradients add up to the batch's. All keys come first; "
        "BatchNorm sees a micro-batch at a time",
    )
    views: NamedViews = Field(default=Views(), description="strengths, or a preset: project, crop, mtslvr")

    @property
    def trains_head(self) -> bool:
        """True if stage 1 has steps."""
        return bool(self.head_epochs if self.head_steps is None else self.head_steps)

    def head_only(self) -> TuneRecipe:
        """Recipe of stage 1 alone: all recipes with the same stage 1 share its digest."""
        fields = [name for name, scope in self.scopes().items() if scope.last_stage]
        return self.model_copy(update={**self._unread(fields), "name": HEAD_ALONE})

    def effective(self) -> TuneRecipe:
        """Recipe with the fields that its mixing ignores set to the default: equal recipes train equally."""
        return self.model_copy(
            update=self._unread(name for name, scope in self.scopes().items() if self.mix not in scope.mixings)
        )

    @classmethod
    def _unread(cls, names: Iterable[str]) -> dict[str, Any]:
        """Values that stand for fields that are not read."""
        scopes, fields = cls.scopes(), cls.model_fields
        return {name: fields[name].default if scopes[name].unread is None else scopes[name].unread for name in names}

    @model_validator(mode="after")
    def _whole_batches(self) -> TuneRecipe:
        if self.batch % 2:
            raise ValueError("batch: partners come in pairs, so the batch is even")
        if self.queue % self.batch:
            raise ValueError("queue: must be a multiple of the batch")
        if self.top_k > self.queue:
            raise ValueError("top_k: cannot exceed the queue")
        return self

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> TuneRecipe:
        if self.micro_batch and (self.batch % self.micro_batch or self.micro_batch % 2):
            raise ValueError("micro_batch: is even, as partners come in pairs, and divides the batch")
        if self.partner == "permutation" and self.micro_batch not in (None, self.batch):
            raise ValueError("partner: a permutation crosses micro-batches; take neighbour or flip")
        if any(frames % self.snap for frames in self.frames):
            raise ValueError("frames: must be multiples of snap")
        return self


def training_folder(recipe: Recipe, init: str | None) -> Path:
    """Default folder of a training: under ``UAMIX_BENCH_HOME``, named by the digest of recipe and initial model.

    Args:
        recipe: Hyper-parameters, with the sounds as given.
        init: Pretrained model, as given; None from scratch.
    """
    name = digest({"recipe": recipe.sha256, "init": init, "data": recipe.data})[:12]
    return home() / "training" / f"{getattr(recipe, 'kind', 'training')}-{recipe.name}-{name}"


PRETRAIN: dict[str, PretrainRecipe] = {
    "tiny": PretrainRecipe(
        name="tiny",
        width=192,
        depth=6,
        heads=3,
        decoder_width=96,
        decoder_depth=4,
        decoder_heads=3,
        epochs=60,
        batch=128,
        frames=(64, 64, 64, 128, 192),
        learning_rate=8e-4,
        weight_decay=1e-4,
        warmup=0.1,
        pooling="stacked-mean-max",
        precision="bfloat16",
        save_dtype="float16",
        centre=True,
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
        pooling="stacked-mean-max",
        head_epochs=1,
        epochs=3,
        head_learning_rate=1e-3,
        learning_rate=3e-4,
        layer_decay=0.8,
        weight_decay=0.05,
        warmup=0.2,
        clip_gradient=1.0,
        precision="bfloat16",
        save_dtype="float16",
        centre=True,
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
