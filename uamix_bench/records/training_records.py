"""Records of trainings and ablations. Free of torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue

from uamix_bench.plugins.card import Name
from uamix_bench.records.record import (
    Count,
    Part,
    Provenance,
    Record,
    Seconds,
    Sha256,
    Skipped,
    Text,
    Version,
    task_label,
)
from uamix_bench.records.results import Result
from uamix_bench.util import files


class DataIdentity(Part):
    """Identity of the training sounds.

    Attributes:
        name: Name of the task.
        version: Version of the task.
        sha256: SHA-256 of the clip table.
        content_sha256: SHA-256 of the bytes of the files; None in records of schema version 1, which lack it.
    """

    name: Name
    version: Version
    sha256: Sha256
    content_sha256: Sha256 | None = None

    @property
    def label(self) -> str:
        """Label of the sounds in tables."""
        return task_label(self.name, self.version)


class StageCost(Part):
    """Cost of a stage in the process that finished the training, from its beginning or its last resume.

    Attributes:
        name: Name of the stage.
        clips: Number of clips in the steps, over all processes.
        seconds: Time of the steps, in seconds.
        waiting_s: Time in the steps that the model waited for its inputs, in seconds.
        clips_s: Number of clips per second.
        matrix_share: Rate of the encoder's operations, as a share of the GPU's own rate of bfloat16 matrix products;
            None on a CPU.
        peak_memory_mb: Peak memory of the process, or of its share of the GPU, up to the stage's end, in 10^6 bytes.
    """

    name: Text
    clips: Count
    seconds: Seconds
    waiting_s: Seconds
    clips_s: Annotated[float, Field(ge=0)]
    matrix_share: Annotated[float, Field(ge=0)] | None = None
    peak_memory_mb: Annotated[float, Field(ge=0)] | None = None


class TrainingRecord(Record):
    """A training: its recipe, its data and its outcome.

    Attributes:
        recipe: Every hyper-parameter, as given by `Recipe.model_dump(mode="json")`.
        recipe_sha256: SHA-256 of the canonical JSON of the recipe, which models and results carry.
        data: Identity of the sounds.
        parent_sha256: SHA-256 of the weights that the training began from; None from scratch.
        weights_sha256: SHA-256 of the weights file that the training wrote.
        train_seed: Seed of every random draw.
        history: Entries of the log, one per logged step: ``stage``, ``step``, ``loss``, ``lr`` and the stage's figures.
        skipped: Clips that could not be read.
        cost: Cost of each stage.
        partial: Clips that an incomplete copy of the data lacks, in words; else empty.
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
        """Place in a store: ``training/<data>@<version>/<first 12 of the recipe's digest>``."""
        return f"training/{self.data.name}@{self.data.version}/{self.recipe_sha256[:12]}"

    def check(self) -> None:
        """Recomputes the recipe's digest.

        Raises:
            ValueError: The digest or the seed is not that of the recipe.
        """
        if files.digest(self.recipe) != self.recipe_sha256:
            raise ValueError("recipe_sha256 is not that of the recipe")
        if self.recipe.get("seed", self.train_seed) != self.train_seed:
            raise ValueError(f"train_seed is {self.train_seed}, but the recipe's seed {self.recipe['seed']}")


class Arm(Part):
    """An arm of an ablation: one training and its few-shot results.

    Attributes:
        label: Mixing and varied fields in words; the same for all seeds.
        reference: True for the arm that others are compared with: the recipe's own setting, with t-cutmix.
        varied: Values of the fields that the ablation varies, by name, ``mix`` among them.
        training: Record of the training.
        results: Few-shot results of the trained model, by task and protocol, which are the same for all arms.
    """

    label: Text
    reference: bool
    varied: dict[Text, JsonValue]
    training: TrainingRecord
    results: tuple[Result, ...]


class SetAside(Part):
    """An arm that could not be trained or evaluated, with the reason."""

    label: Text
    seed: Count
    reason: Text


class AblationRecord(Record):
    """A grid of recipes, tuned from the same weights on the same sounds and evaluated on the same episodes.

    Differences are not stored: a reader computes them from the episodes.

    Attributes:
        init: Starting weights of all arms, as given by the user.
        assumed: True if ways and shots form a grid. The paper's figures have one but do not state its numbers.
        arms: Arms of the ablation by seed, the seed's reference first.
        set_aside: Arms that failed.
        beside: Results of other models on the same episodes: of the starting weights, of the reference under another
            pooling, and of the floors, by nearest centroid and under CL2N.
    """

    largest_bytes: ClassVar[int] = 128 * 2**20  # a grid over five tasks, 16 cells and 12 arms takes some 10 MB

    kind: Literal["ablation"] = "ablation"
    init: Text
    assumed: bool
    arms: tuple[Arm, ...]
    set_aside: tuple[SetAside, ...] = ()
    beside: tuple[Result, ...] = ()
    provenance: Provenance

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the trainings, in order."""
        return tuple(dict.fromkeys(arm.training.train_seed for arm in self.arms))

    def content(self) -> dict[str, Any]:
        """Plain data of the request, and the ids of trainings and results."""
        return {
            "kind": self.kind,
            "init": self.init,
            "assumed": self.assumed,
            "arms": [
                {
                    **arm.model_dump(mode="json", include={"label", "reference", "varied"}),
                    "training": arm.training.id,
                    "results": [result.id for result in arm.results],
                }
                for arm in self.arms
            ],
            "set_aside": [arm.model_dump(mode="json") for arm in self.set_aside],
            **({"beside": [result.id for result in self.beside]} if self.beside else {}),
        }

    def place(self) -> str:
        """Place in a store: ``ablation/<data>@<version>/<first 12 of the digest of the first reference's recipe>``."""
        first = self.arms[0].training
        return f"ablation/{first.data.name}@{first.data.version}/{first.recipe_sha256[:12]}"

    def check(self) -> None:
        """Makes sure that the arms are comparable.

        Raises:
            ValueError: A seed has no reference, an arm is listed twice, was trained on other data, differs in a field
                that is not varied, or was evaluated on other episodes; or a result beside them is.
        """
        if not self.arms:
            raise ValueError("there are no arms")
        names = [(arm.label, arm.training.train_seed) for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError("an arm is there twice")
        references = {arm.training.train_seed: arm for arm in self.arms if arm.reference}
        if sum(arm.reference for arm in self.arms) != len(references) or set(references) != set(self.seeds):
            raise ValueError("every seed needs one reference")
        asked = _asked(self.arms[0])
        for arm in self.arms:
            label, training = arm.label, arm.training
            reference = references[training.train_seed].training
            if (training.data, training.parent_sha256) != (reference.data, reference.parent_sha256):
                raise ValueError(f"{label}: it was trained on other sounds or from other weights than the reference")
            for name in _differing(training.recipe, reference.recipe):
                if not any(name == varied or name.startswith(f"{varied}.") for varied in arm.varied):
                    raise ValueError(f"{label}: it differs from the reference in {name}, which is not varied")
            for name, value in arm.varied.items():
                if recipe_field(training.recipe, name) != value:
                    raise ValueError(f"{label}: {name} is not what its recipe has")
            if _asked(arm) != asked:
                raise ValueError(f"{label}: it was evaluated on other episodes than the first arm")
            for result in arm.results:
                made = (result.model.weights_sha256, result.model.recipe_sha256, result.model.train_seed)
                if made != (training.weights_sha256, training.recipe_sha256, training.train_seed):
                    raise ValueError(f"{label}: a result is not of its weights")
        drawn = {result.episodes.digest for result in self.arms[0].results}
        for result in self.beside:
            if result.episodes.digest not in drawn:
                raise ValueError(f"{result.model.name}: it was evaluated on other episodes than the arms")


def _asked(arm: Arm) -> list[str]:
    """Digests of the evaluations of an arm, without its weights."""
    for result in arm.results:
        if not result.status.complete:
            raise ValueError(f"{arm.label}: its result on {result.task.name} is partial")
    return [
        files.digest(
            [
                result.task.model_dump(mode="json"),
                result.protocol.model_dump(mode="json"),
                result.episodes.digest,
                result.model.dtype,
                result.model.input,
                result.model.pooling,
            ]
        )
        for result in arm.results
    ]


def _differing(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """Names of the fields in which two recipes differ, with a dot for nested fields."""
    found = []
    for name in {**one, **other}:
        here, there = one.get(name), other.get(name)
        if isinstance(here, dict) and isinstance(there, dict):
            found += _differing(here, there, f"{prefix}{name}.")
        elif here != there:
            found.append(prefix + name)
    return found


def recipe_field(recipe: dict[str, Any], name: str) -> Any:
    """Value of a field of a recipe's plain data, with a dot for nested fields; None if it has no such field."""
    place: Any = recipe
    for part in name.split("."):
        place = place.get(part) if isinstance(place, dict) else None
    return place
