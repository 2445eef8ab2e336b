"""The protocol: settings for drawing and scoring episodes as data, and the published ones."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from uamix_bench.plugins.card import Count, Frozen, Segments, Text
from uamix_bench.scoring.classifiers import CLASS_NAMES, CLASSIFIERS
from uamix_bench.util.errors import nearest

ALL_CLASSES = 2**31 - 1  # ways of a protocol for all classes with enough clips, whose number a clip table tells
# Fields younger than the first records: left out at these values, so that no id moves.
_LATER: dict[str, object] = {"neighbors": 1, "template": None}


class Protocol(Frozen):
    """Settings for drawing and scoring episodes, stored unchanged in every result.

    The defaults are the paper's: 600 episodes of 5 classes, 1 support and 15 queries a class, nearest
    centroid. The name is a label and does not change the draw. Classes with fewer than `min_clips` clips are left out,
    and in any case those with fewer than k_shot + n_query. A common `min_clips` lets the protocols of a sweep over
    shots draw from the same classes (`uamix_bench.scoring.sweep`).

    Without supports (`k_shot` 0) the classifier is ``class-names``: a query gets the class whose name, put into
    `template` for ``{}``, the model's text side embeds nearest by cosine.

    Raises:
        pydantic.ValidationError: A field is out of range or unknown.
    """

    name: Annotated[Text, Field(min_length=1)] = "paper"
    n_way: Annotated[int, Field(ge=2, lt=2**31)] = 5
    k_shot: Annotated[int, Field(ge=0, lt=2**31)] = 1
    n_query: Annotated[int, Field(ge=1, lt=2**31)] = 15
    episodes: Annotated[int, Field(ge=1, lt=2**31)] = 600
    seed: Count = 0
    classifier: str = "nearest-centroid"
    group_disjoint: bool = False
    min_clips: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    segments: Segments = "first"
    neighbors: Annotated[int, Field(ge=1, lt=2**31)] = 1
    template: Text | None = None

    @property
    def cell(self) -> str:
        """Ways and shots in words, such as ``5-way 1-shot``."""
        return f"{self.n_way}-way {self.k_shot}-shot"

    @property
    def scored_by(self) -> str:
        """Classifier in words, with its number of neighbors or its template."""
        if self.template is not None:
            return f"{self.classifier} in '{self.template}'"
        return self.classifier + (f" of {self.neighbors} neighbors" if self.neighbors > 1 else "")

    def differences(self, *without: str) -> list[str]:
        """Differences from the paper's protocol besides ways and shots, in words; `without` names fields left out."""
        usual = PAPER if self.k_shot else ZERO_SHOT
        words = {
            "name": "" if self.name in (PAPER.name, "custom") else self.name,
            "n_query": f"{self.n_query:,} {'query' if self.n_query == 1 else 'queries'}",
            "episodes": f"{self.episodes:,} episode{'s' * (self.episodes != 1)}",
            "seed": f"seed {self.seed}",
            "classifier": self.classifier,
            "template": f"template '{self.template}'",
            "neighbors": f"{self.neighbors} neighbors",
            "group_disjoint": "group-disjoint",
            "min_clips": f"classes of {self.min_clips} clips",
            "segments": f"segments {self.segments}",
        }
        told = [name for name in words if name not in without and getattr(self, name) != getattr(usual, name)]
        return [words[name] for name in told if words[name]]

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = serialize(self)
        return {name: value for name, value in document.items() if name not in _LATER or value != _LATER[name]}

    @model_validator(mode="after")
    def _neighbors_are_there(self) -> Self:
        if self.neighbors > 1 and self.classifier != "knn":
            raise ValueError(f"neighbors are of the classifier knn, not of {self.classifier}")
        if self.neighbors > max(1, self.n_way * self.k_shot):
            raise ValueError(f"{self.neighbors} neighbors, but {self.n_way * self.k_shot} supports in an episode")
        return self

    @model_validator(mode="after")
    def _no_supports_by_class_names(self) -> Self:
        if (self.k_shot == 0) != (self.classifier == CLASS_NAMES) or (self.k_shot == 0) != (self.template is not None):
            raise ValueError(f"k_shot 0, the classifier {CLASS_NAMES} and a template belong together")
        if self.template is not None and self.template.count("{}") != 1:
            raise ValueError("the template has {} once, in place of a class name")
        return self

    def changed(self, **fields: Any) -> Protocol:
        """This protocol with other values, under the name of a published protocol only if it still is one.

        PAPER and METAAUDIO keep their names if only ways, shots and `min_clips` differ. Otherwise they are ``custom``,
        and ``metaaudio-custom``.

        Raises:
            pydantic.ValidationError: A field is out of range or unknown.
        """
        made = Protocol(**{**self.model_dump(), **fields})
        unsaid = ("n_way", "k_shot", "min_clips", *(() if made.k_shot else ("classifier", "template")))
        free = {name: getattr(made, name) for name in unsaid}
        for published, custom in ((PAPER, "custom"), (METAAUDIO, f"{METAAUDIO.name}-custom")):
            if self.name == published.name and made != published.model_copy(update=free):
                return made.model_copy(update={"name": custom})
        return made

    @property
    def fewest_clips(self) -> int:
        """Number of clips that a class needs to be drawn."""
        return max(max(self.k_shot, 1) + self.n_query, self.min_clips or 0)

    @field_validator("classifier")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in (*CLASSIFIERS, CLASS_NAMES):
            raise ValueError(f"no classifier '{name}'; {nearest(name, list(CLASSIFIERS))}")
        return name


PAPER = Protocol()

TEMPLATE = "This is a sound of {}."  # the default of transformers' pipeline "zero-shot-audio-classification"
ZERO_SHOT = Protocol(k_shot=0, classifier=CLASS_NAMES, template=TEMPLATE)

# MetaAudio (Heggan et al. 2022): 10,000 test episodes, 5-way, 1 (or 5) shot, 1 query a class, 1.96 x std / sqrt(n), of
# the classes in `TaskCard.metaaudio`. Its learners are many: the classifier here is the bench's own default.
METAAUDIO = Protocol(name="metaaudio", n_query=1, episodes=10_000)
