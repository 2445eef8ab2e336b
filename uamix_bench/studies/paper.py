"""Tables and figures of the paper as data: their models, tasks and settings, and what is assumed.

Source: Tabassum et al., "uaMix-MAE", ICASSP 2024. A target states its assumptions where the paper leaves a value open.
Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from uamix_bench.plugins.card import Input
from uamix_bench.scoring.protocol import PAPER, Protocol
from uamix_bench.util.errors import UsageError, nearest

Kind = Literal["few-shot", "fine-tuning", "clusters"]
Cell = tuple[int, int]  # ways, shots

TUNED = "uamix"  # the paper's own model ...
SOURCE = "audiomae"  # ... which is tuned from this one
# What tuned models are called here, by the mixing that they were tuned with.
ARMS: dict[str, Literal["none", "mixup", "t-cutmix", "tf-cutmix"]] = {
    TUNED: "t-cutmix",
    "uamix-none": "none",
    "uamix-mixup": "mixup",
    "uamix-tf-cutmix": "tf-cutmix",
}
BASELINES = ("mae-ast", "maskspec", "beats", "m2d", SOURCE)
TASKS = ("esc50", "voxceleb1", "nsynth", "speech-commands", "fsdkaggle2018")
FINETUNED = ("esc50", "speech-commands", "voxceleb1")

_WAYS, _SHOTS = (5, 10, 20, 30), (1, 5, 10, 20)

_DRAW = (
    "600 episodes of 15 queries a class from all classes, seed 0: the protocol of Ericsson et al. (2021), which the "
    "paper follows. Models hear a clip's own length. The paper's own numbers and lengths are not known here."
)
_GRID = "5, 10, 20 and 30 ways of 1 shot and 5 ways of 1, 5, 10 and 20 shots: the figure's own are not known here."
_FILES = "The first file that a model's card lists: which of its authors' files the paper took is not known."
_RECIPE = "The tuning's recipe follows MAE-CT where the paper's numbers are not known, as the paper does for the rest."


@dataclass(frozen=True)
class Target:
    """Target of a reproduction: a table or figure of the paper.

    Attributes:
        id: Name of the target on the command line.
        title: Title of the table or figure.
        kind: Kind of its jobs.
        models: Names of registered models, and of tuned ones as in `ARMS`.
        tasks: Names of the data sets.
        ways: Numbers of classes of an episode, each combined with the usual number of shots; empty without episodes.
        shots: Numbers of supports of a class, each combined with the usual number of ways; empty without episodes.
        assumed: Assumptions made here for values that the paper does not state.
        published: Id of its table in reports/published.toml; empty if its values are unknown.
    """

    id: str
    title: str
    kind: Kind
    models: tuple[str, ...]
    tasks: tuple[str, ...] = TASKS
    ways: tuple[int, ...] = (PAPER.n_way,)
    shots: tuple[int, ...] = (PAPER.k_shot,)
    assumed: tuple[str, ...] = (_DRAW,)
    published: str = ""


TARGETS = {
    target.id: target
    for target in (
        Target(
            "table2",
            "Table 2: 5-way 1-shot accuracy",
            "few-shot",
            (*BASELINES, TUNED),
            assumed=(_DRAW, _FILES, _RECIPE),
            published="uamix-table-2",
        ),
        Target(
            "table3",
            "Table 3: mixing, 5-way 1-shot accuracy",
            "few-shot",
            ("uamix-none", "uamix-mixup", TUNED),
            assumed=(_DRAW, _RECIPE),
            published="uamix-table-3",
        ),
        Target(
            "fig3",
            "Figure 3: N and K varied, all models",
            "few-shot",
            (*BASELINES, TUNED),
            ways=_WAYS,
            shots=_SHOTS,
            assumed=(_DRAW, _GRID, _FILES, _RECIPE),
        ),
        Target(
            "fig4",
            "Figure 4: N and K varied, mixing",
            "few-shot",
            ("uamix-none", "uamix-mixup", TUNED),
            ways=_WAYS,
            shots=_SHOTS,
            assumed=(_DRAW, _GRID, _RECIPE),
        ),
        Target(
            "fig5",
            "Figure 5: N and K varied, T-CutMix and TF-CutMix",
            "few-shot",
            ("uamix-tf-cutmix", TUNED),
            ways=_WAYS,
            shots=_SHOTS,
            assumed=(_DRAW, _GRID, _RECIPE),
        ),
        Target(
            "table4",
            "Table 4: fine-tuning",
            "fine-tuning",
            (SOURCE, TUNED),
            FINETUNED,
            ways=(),
            shots=(),
            assumed=(
                "AudioMAE's recipes on those of its tasks that are here, as the paper follows its setup; the table's "
                "own tasks and values are not known here.",
                _RECIPE,
            ),
        ),
        Target(
            "fig6",
            "Figure 6: t-SNE of eight classes",
            "clusters",
            (SOURCE, TUNED),
            ("esc50",),
            assumed=("The paper names four of the eight classes, the other four are assumed.", _RECIPE),
        ),
    )
}


@dataclass(frozen=True)
class Settings:
    """Settings of a reproduction; any value but the defaults gives results that are not in the paper's setting.

    Attributes:
        ways: Numbers of ways that replace a target's; empty for the target's.
        shots: Numbers of shots that replace a target's; empty for the target's.
        protocol: Protocol with the number of queries and episodes and the seed.
        recipe: Name of the recipes of tuning and fine-tuning: ``paper``, or ``tiny``.
        input: Length of the model's input.
    """

    ways: tuple[int, ...] = ()
    shots: tuple[int, ...] = ()
    protocol: Protocol = PAPER
    recipe: Literal["paper", "tiny"] = "paper"
    input: Input = "native"

    def cells(self, target: Target) -> tuple[Cell, ...]:
        """Ways and shots of a target: each number of the one at the usual number of the other."""
        if not target.ways:
            return ()
        ways, shots = self.ways or target.ways, self.shots or target.shots
        usual = (
            PAPER.n_way if PAPER.n_way in ways else min(ways),
            PAPER.k_shot if PAPER.k_shot in shots else min(shots),
        )
        return tuple(dict.fromkeys([*((n, usual[1]) for n in ways), *((usual[0], k) for k in shots)]))

    def of_cell(self, cell: Cell) -> Protocol:
        """Protocol of a pair of ways and shots, named as the paper's if nothing else differs from it."""
        return self.protocol.changed(n_way=cell[0], k_shot=cell[1])


def find_targets(name: str) -> list[Target]:
    """Targets of a name: one, or all.

    Raises:
        UsageError: The target is unknown; the line suggests the nearest.
    """
    if name != "all" and name not in TARGETS:
        raise UsageError(name, "is no table or figure that can be reproduced", nearest(name, [*TARGETS, "all"]))
    return list(TARGETS.values()) if name == "all" else [TARGETS[name]]


def architecture(model: str) -> str:
    """Registered model that a target's name of a model stands for."""
    return TUNED if model in ARMS else model
