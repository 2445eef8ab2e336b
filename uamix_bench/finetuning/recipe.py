"""Recipes of fine-tuning and of linear probes as data, torch-free: AudioMAE's own per task, and a small one.

Sources of the numbers: [S] main_finetune_esc.py, main_finetune_as.py, dataset.py and ft_as.sh of the official code
(facebookresearch/AudioMAE); [R] recalled from the appendix of its paper (Huang et al., NeurIPS 2022), not in the code.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from uamix_bench.plugins.card import Frozen
from uamix_bench.tuning.recipe import Recipe
from uamix_bench.util.files import digest


class FinetuneRecipe(Recipe):
    """Recipe of supervised fine-tuning: an encoder with a linear head on pooled tokens, as in AudioMAE.

    The official names of the two masks are misleading. main_finetune_as.py overrides its parser's freqm 192 and timem
    48 by 48 and 192, as 128 mel bins require. main_finetune_esc.py passes its parser's freqm 96 and timem 24 on. The
    recipes hold what the code does; AST's order for ESC-50 is ``mask_mel=24 mask_frames=96``.
    """

    kind: Literal["finetune"] = "finetune"
    data: str = Field(default="", description="left empty: results name the task")
    frames: tuple[int, ...] = Field(
        default=(), max_length=1, description="clips are cut or zero-padded to this; empty: the longest clip's patches"
    )
    epochs: int = Field(ge=1, description="the last one is evaluated, never the best on the test clips")
    base_learning_rate: float = Field(gt=0, description="times batch / 256 is the peak of the head's [S]")
    min_learning_rate: float = Field(default=1e-6, ge=0, description="that the cosine ends in, for the head [S]")
    layer_decay: float = Field(
        default=0.75, gt=0, le=1, description="L blocks: block i gets decay ** (L + 1 - i), the stem (i = 0) too [S]"
    )
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW's own, which the scripts leave [S]
    drop_path: float = Field(default=0.1, ge=0, lt=1, description="of the last block; the first has none [S]")
    loss: Literal["cross-entropy", "binary"] = Field(
        default="cross-entropy", description="binary: every class by itself, for clips of several classes"
    )
    smoothing: float = Field(default=0.1, ge=0, lt=1, description="of the labels, under cross-entropy only [S]")
    mixup: float = Field(
        default=0.0, ge=0, le=1, description="share of clips mixed with another, lambda ~ Beta(10, 10), labels too [S]"
    )
    mask_mel: int = Field(default=0, ge=0, description="SpecAugment: widest band of mel bins set to zero")
    mask_frames: int = Field(default=0, ge=0, description="SpecAugment: longest run of frames set to zero")
    roll: bool = Field(default=False, description="turn the clip in time, gain of Beta(10, 10) + 0.5 [S: roll_mag_aug]")
    noise: bool = Field(
        default=False, description="after normalising: uniform noise of up to 0.1, a turn by up to 10 frames [S]"
    )
    statistics: tuple[float, float] | None = Field(
        default=None, description="mean and spread, doubled in dividing, of the log-mel values; none: the model's own"
    )
    fc_norm_from: Literal["fresh", "norm"] = Field(
        default="fresh", description="of the norm after pooling: new [S], or the encoder's final norm"
    )
    head_std: float = Field(default=2e-5, gt=0, description="of the head's truncated normal weights [S]")

    @property
    def learning_rate(self) -> float:
        """Peak learning rate of the head: linear scaling with the batch."""
        return self.base_learning_rate * self.batch / 256

    @property
    def floor(self) -> float:
        """Share of the peak learning rate that the cosine falls to."""
        return min(1.0, self.min_learning_rate / self.learning_rate)

    @model_validator(mode="after")
    def _smooths_one_class_only(self) -> FinetuneRecipe:
        if self.loss == "binary" and self.smoothing:
            raise ValueError("smoothing: belongs to cross-entropy; set smoothing=0 under the binary loss")
        return self


class ProbeRecipe(Frozen):
    """Recipe of a linear probe: logistic regression on standardised embeddings of the frozen encoder.

    Embeddings are standardised with the training clips' statistics. The strength is chosen on the official validation
    clips, else on inner folds of the training clips, with no group split across them. Ties go to the larger strength:
    under a small one the sizes of the classes outweigh the embeddings of few clips.
    """

    kind: Literal["probe"] = "probe"
    name: str
    seed: int = Field(default=0, ge=0)
    strengths: tuple[float, ...] = Field(
        default=(1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), min_length=1, description="scikit-learn's C: 1 / L2 penalty"
    )
    inner_folds: int = Field(default=3, ge=2)
    iterations: int = Field(default=1_000, ge=1, description="of L-BFGS, at most")

    @property
    def sha256(self) -> str:
        """SHA-256 of the recipe's canonical JSON."""
        return digest(self.model_dump(mode="json"))


# The script's defaults of ESC-50: all [S]. The paper's table has 60 epochs, 4 of warm-up and weight decay 1e-4 [R].
_ESC50 = FinetuneRecipe(
    name="audiomae-esc50",
    epochs=50,
    batch=64,
    base_learning_rate=1e-3,
    warmup=5 / 50,
    weight_decay=0.05,
    frames=(512,),
    mask_mel=96,
    mask_frames=24,
    statistics=(-6.6268077, 5.358466),
    precision="bfloat16",
)

FINETUNE: dict[str, FinetuneRecipe] = {
    "audiomae-esc50": _ESC50,
    # Frames, statistics, binary loss and noise [S]; epochs, batch, masks and mixup [R]; warm-up as the paper's others.
    "audiomae-speech-commands": FinetuneRecipe(
        name="audiomae-speech-commands",
        epochs=90,
        batch=256,
        base_learning_rate=1e-3,
        warmup=4 / 90,
        weight_decay=1e-4,
        frames=(128,),
        mask_mel=48,
        mask_frames=48,
        mixup=0.5,
        noise=True,
        loss="binary",
        smoothing=0.0,
        statistics=(-6.845978, 5.5654526),
        precision="bfloat16",
    ),
    # All [R]: VoxCeleb is not in the code.
    "audiomae-voxceleb1": FinetuneRecipe(
        name="audiomae-voxceleb1",
        epochs=60,
        batch=64,
        base_learning_rate=1e-3,
        warmup=4 / 60,
        weight_decay=1e-4,
        frames=(1024,),
        mask_mel=48,
        mask_frames=192,
        noise=True,
        statistics=(-6.370, 3.074),
        precision="bfloat16",
    ),
    # ft_as.sh: four processes of batch 8 [S]. It also drops 20% of the patch rows and columns: not done here.
    "audiomae-audioset20k": FinetuneRecipe(
        name="audiomae-audioset20k",
        epochs=60,
        batch=32,
        base_learning_rate=1e-3,
        warmup=4 / 60,
        weight_decay=5e-4,
        frames=(1024,),
        mask_mel=48,
        mask_frames=192,
        mixup=0.5,
        roll=True,
        loss="binary",
        smoothing=0.0,
        precision="bfloat16",
    ),
    # For tasks that the authors did not fine-tune on: ESC-50's, with the task's length and AudioSet's statistics.
    "audiomae": _ESC50.model_copy(update={"name": "audiomae", "frames": (), "statistics": None}),
    # The project's own, for small encoders and two cores.
    "tiny": FinetuneRecipe(
        name="tiny",
        epochs=15,
        batch=64,
        base_learning_rate=4e-3,
        warmup=0.1,
        weight_decay=0.05,
        mask_mel=24,
        mask_frames=24,
    ),
}

PROBE = ProbeRecipe(name="linear-probe")
