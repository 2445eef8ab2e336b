"""The records of what changes weights. Free of torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from uamix_bench import files
from uamix_bench.card import Name
from uamix_bench.record import Count, Part, Provenance, Record, Seconds, Sha256, Skipped, Text, Version


class DataIdentity(Part):
    """The sounds that a training saw: their task, and the digest of what was made of them."""

    name: Name
    version: Version
    sha256: Sha256


class StageCost(Part):
    """What a stage took in the process that finished the training, from where it began or was resumed.

    Attributes:
        name: The stage.
        clips: That the steps saw, of all processes.
        seconds: That the steps took.
        waiting_s: Of them, how long the model waited for its inputs.
        clips_s: Clips per second.
        matrix_share: Share of the GPU's own rate of bfloat16 matrix products that the encoder's operations come to;
            None on a CPU.
    """

    name: Text
    clips: Count
    seconds: Seconds
    waiting_s: Seconds
    clips_s: Annotated[float, Field(ge=0)]
    matrix_share: Annotated[float, Field(ge=0)] | None = None


class TrainingRecord(Record):
    """A training: what it was asked to do, on what, and what came out.

    Attributes:
        recipe: Every hyper-parameter, as `Recipe.model_dump(mode="json")` gives it.
        recipe_sha256: Its digest, which models and results carry.
        data: The sounds.
        parent_sha256: Of the weights that it began from; None from scratch.
        weights_sha256: Of the weights file that it wrote.
        train_seed: Of every random draw.
        history: One entry per logged step: ``stage``, ``step``, ``loss``, ``lr`` and the stage's own figures.
        skipped: Clips that could not be read.
        cost: Of the stages.
        partial: What the data lacks, where it is an incomplete copy.
    """

    kind: Literal["training"] = "training"
    recipe: dict[str, JsonValue]
    recipe_sha256: Sha256
    data: DataIdentity
    parent_sha256: Sha256 | None
    weights_sha256: Sha256
    train_seed: Count
    history: tuple[dict[Text, float], ...]
    skipped: tuple[Skipped, ...] = ()
    partial: Text = ""
    cost: tuple[StageCost, ...] = ()
    provenance: Provenance

    def place(self) -> str:
        """``training/<data>@<version>/<first 12 of the recipe's digest>``."""
        return f"training/{self.data.name}@{self.data.version}/{self.recipe_sha256[:12]}"

    def check(self) -> None:
        """Recomputes the recipe's digest.

        Raises:
            ValueError: It, or the seed, is not that of the recipe.
        """
        if files.digest(self.recipe) != self.recipe_sha256:
            raise ValueError("recipe_sha256 is not that of the recipe")
        if self.recipe.get("seed", self.train_seed) != self.train_seed:
            raise ValueError(f"train_seed is {self.train_seed}, but the recipe's seed {self.recipe['seed']}")
