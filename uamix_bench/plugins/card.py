"""Cards: the facts about a model or a data set as data, read from the TOML beside its code. Free of torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from uamix_bench.util.errors import BadInputError
from uamix_bench.util.files import read_toml
from uamix_bench.util.text import LONGEST, UNFIT_PATTERN

Input = Literal["native", "official"]
Segments = Literal["first", "mean"]  # what of a clip longer than the task's clip length is heard

# Names become folders: every part between slashes begins with a letter or digit, so none is "..", hidden or empty.
_PART = r"[A-Za-z0-9][A-Za-z0-9._+\- ]*"
NAME_PATTERN = rf"^{_PART}(/{_PART})*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=80)]

Text = Annotated[str, Field(pattern=rf"^[^{UNFIT_PATTERN[1:-1]}]*$", max_length=LONGEST)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]


UNTRAINED = "none"  # alone in `pretrained_on`: the model was trained on no data; an empty list says nothing


def _alone(training: tuple[str, ...]) -> tuple[str, ...]:
    if UNTRAINED in training and len(training) > 1:
        raise ValueError(f"'{UNTRAINED}' stands alone, for a model that was trained on no data")
    return training


Training = Annotated[tuple[Text, ...], AfterValidator(_alone)]  # data sets that a model was trained on


def trained_on(training: tuple[str, ...]) -> str:
    """Names of a model's training data for tables; ``unknown`` if none is stated."""
    return ", ".join(training) or "unknown"


class Frozen(BaseModel):
    """Base of facts as data: frozen, without unknown fields."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")


class Card(Frozen):
    """Facts that cards of models and tasks share."""

    name: Name
    title: str
    licence: str
    citation: str = ""


class RemoteFile(Frozen):
    """A file that the authors publish. `page` is for a person to open when `url` cannot be fetched directly."""

    name: str
    url: str | None = None
    page: str | None = None
    sha256: str | None = None
    md5: str | None = None
    bytes: int | None = None
    parts: tuple[str, ...] = Field(default=(), description="names of the files that it is published in, cut, in order")
    note: str = ""


class WeightsFile(RemoteFile):
    """A file of weights that the authors publish, and the evidence that the adapter reads it correctly.

    `evidence` is ``goldens`` if tests compare embeddings with the output of the authors' own code for a file of this
    layout. It is ``parsed`` if the file is read as that code reads it, but no output of that code was at hand.
    """

    evidence: Literal["goldens", "parsed"] | None = None


class Weights(Frozen):
    """Weights that come with the package: their id, the file beside the card, their licence and training data.

    `good_at` and `weak_at` say in a sentence each what measurements on sounds of no training found.
    """

    id: Name
    file: str
    licence: str
    pretrained_on: Training
    note: str = ""
    pooling: str = Field(default="", description="pooling by default, in place of the model's own")
    good_at: str = ""
    weak_at: str = ""
    demonstration: bool = True


class ModelCard(Card):
    """A pretrained audio model. `parameters` counts the encoder used for embeddings; None leaves it unstated.

    `pretrained_on` is empty if the training data is unknown, and `UNTRAINED` alone for a model without training.
    A card with a `reference` is of many models, each given as ``NAME:REFERENCE`` and with sizes of its own.
    """

    paper: str = ""
    reference: str = Field(default="", description="form of what follows NAME: to say which model")
    sample_rate: int = Field(gt=0, description="Hz")
    embedding_dim: int = Field(gt=0)
    parameters: int | None = Field(default=None, ge=0)
    parameters_published: str = ""
    pretrained_on: Training = ()
    needs_weights: bool = True
    default_weights: str | None = None
    files: tuple[WeightsFile, ...] = ()
    weights: tuple[Weights, ...] = ()
    beside: tuple[str, ...] = Field(default=(), description="files beside the weights that are read with them")

    @model_validator(mode="after")
    def _knows_its_default(self) -> ModelCard:
        if self.default_weights not in (None, *(weights.id for weights in self.weights)):
            raise ValueError(f"default_weights '{self.default_weights}' are not among the weights")
        return self


_ABSENT_IF_UNSET = frozenset({"layer", "repository", "remote_code", "arguments", "given"})


class ModelIdentity(Frozen):
    """Identity of the model that gave an embedding: all that may change the embedding, and facts for the reader.

    Attributes:
        name: Name of the model in results.
        adapter_version: Version of the adapter. For the project's own adapters it stands for their code.
        weights_sha256: SHA-256 of the file or folder that the model was loaded from. Without one: SHA-256 of the
            tensors for a class that is not the project's own, else None.
        source_sha256: SHA-256 of the code of a class that is not the project's own, with all that it imports from files
            beside it; None for the project's own.
        metadata_sha256: SHA-256 of the canonical JSON of the metadata of a class that is not the project's own; None
            for the project's own.
        recipe_sha256: SHA-256 of the recipe that the weights were tuned by.
        parent_sha256: SHA-256 of the weights that tuning began from.
        layer: Name of the pooled layer if the model lets one choose; absent, like all that follow, if unset.
        repository: ID@COMMIT of the repository that the model comes from.
        remote_code: True if code of that repository computed the embeddings.
        arguments: The model's own arguments, each as KEY=VALUE, sorted.
        given: True if the embeddings were made elsewhere and read from a file, whose digest is `weights_sha256`.
    """

    name: Name
    adapter_version: Text
    weights_sha256: Sha256 | None
    parameters: Count
    embedding_dim: int = Field(gt=0, lt=2**53)
    input: Input
    pooling: Text
    dtype: Text
    source_sha256: Sha256 | None = None
    metadata_sha256: Sha256 | None = None
    recipe_sha256: Sha256 | None = None
    parent_sha256: Sha256 | None = None
    train_seed: Count | None = None
    pretrained_on: Training = ()
    licence: Text = ""
    layer: Text | None = None
    repository: Text | None = None
    remote_code: bool = False
    arguments: tuple[Text, ...] = ()
    given: bool = False

    @property
    def shown(self) -> str:
        """Name for tables, which marks embeddings that were made elsewhere."""
        return f"{self.name} (given)" if self.given else self.name

    @model_serializer(mode="wrap")
    def _without_unset(self, given: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = given(self)
        return {name: value for name, value in fields.items() if value or name not in _ABSENT_IF_UNSET}


class Supervised(Frozen):
    """Splits of a data set for training on its labels: training and test clips, or folds."""

    train: tuple[str, ...] = Field(default=(), description="splits that train")
    validation: tuple[str, ...] = Field(default=(), description="splits that choose; they neither train nor test")
    test: tuple[str, ...] = ()
    folds: tuple[str, ...] = Field(default=(), description="splits of which each is tested once, by the others")
    label: str = Field(default="", description="what is predicted, where it is not the few-shot label")
    group: str = Field(default="", description="what the interval is clustered by, where it is not the few-shot group")
    recipe: str = Field(default="", description="the fine-tuning recipe that is taken by default")

    @model_validator(mode="after")
    def _says_how(self) -> Supervised:
        if bool(self.folds) == bool(self.train and self.test):
            raise ValueError("name either the splits train and test, or the folds")
        return self


FIELD = re.compile(r"\{([^{}]*)\}")  # of a template


class Layout(Frozen):
    """Layout of a data set that is read by its card alone, without a reader of its own.

    Values are templates: ``{name}`` stands for a column of the `list` or, without one, for a part of `path`, which is
    then the pattern of the files' names. A field of a pattern stands for one or more characters except ``/``. Without
    `list` and `path`, the sub-folders of the root are the classes. A list without `path` has the columns of a user's
    own CSV.
    """

    list: str = Field(default="", description="CSV, JSONL or parquet file of the clips, below the root")
    path: str = Field(default="", description="path of a clip's file, below the root")
    label: str = ""
    group: str = Field(default="", description="what must not stand on both sides of an episode; empty: the clip")
    split: str = ""
    start: str = Field(default="", description="time of a segment's first sample, in seconds")
    end: str = Field(default="", description="time behind a segment's last sample, in seconds")
    labels: dict[str, str] = Field(default={}, description="class by label, for labels that are codes")
    leave_out: tuple[str, ...] = Field(default=(), description="labels whose clips do not belong to the task")

    @model_validator(mode="after")
    def _is_whole(self) -> Layout:
        for name in ("list", "path"):
            value = getattr(self, name)
            if value.startswith("/") or "\\" in value or ".." in value.split("/"):
                raise ValueError(f"{name}: must lie below the data set's root, with '/' between folders")
        if self.templates and not self.path:
            raise ValueError(f"{next(iter(self.templates))}: is a template, and there is none for path")
        if self.path and not self.label:
            raise ValueError("label: is missing beside path")
        if bool(self.start) != bool(self.end):
            raise ValueError("start and end: a segment has both")
        known = fields(self.path)
        if self.path and not self.list and len(set(known)) < len(known):
            raise ValueError("path: names a field twice")
        lost = (
            [] if self.list else [one for text in self.templates.values() for one in fields(text) if one not in known]
        )
        if lost:
            raise ValueError(f"path: has no field {{{lost[0]}}}, which another template names")
        return self

    @property
    def templates(self) -> dict[str, str]:
        """Templates that are set, by column of the clip table."""
        names = ("path", "label", "group", "split", "start", "end")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


def fields(template: str) -> tuple[str, ...]:
    """Names of the fields in a template of a `Layout`, in order."""
    return tuple(FIELD.findall(template))


class DataSet(Frozen):
    """Documented facts about a data set, by which training data are found to overlap with a task.

    Attributes:
        names: Names that it goes by, its usual one first: in papers, on model cards, as an id of the Hub.
        within: Data sets that hold it, whole or in part.
        origins: Collections and data sets that its sounds were taken from, such as Freesound.
        apart: Names of training data documented to share no sound with it, such as another split.
        source: Publication that states this.
    """

    names: tuple[Text, ...] = Field(min_length=1)
    within: tuple[Text, ...] = ()
    origins: tuple[Text, ...] = ()
    apart: tuple[Text, ...] = ()
    source: str = ""

    @model_validator(mode="after")
    def _is_documented(self) -> DataSet:
        if (self.within or self.origins or self.apart) and not self.source:
            raise ValueError("within, origins and apart need a source")
        return self


class TaskCard(Card):
    """A labelled data set, as a few-shot task."""

    aliases: tuple[Name, ...] = Field(default=(), description="other names for --task; results carry `name`")
    version: str
    description: str = ""
    clip_seconds: float = Field(gt=0)
    label: str
    group: str
    splits: tuple[str, ...] | None = Field(default=None, description="splits that episodes draw from; None is all")
    folder: str = Field(default="", description="what the official archives unpack to")
    holds: tuple[str, ...] = Field(default=(), description="files and folders, below the root, of a whole copy")
    metaaudio: tuple[str, ...] | None = Field(default=None, description="the test classes of MetaAudio's split")
    data: DataSet | None = Field(default=None, description="its names and origins, to find overlap with training data")
    supervised: Supervised | None = Field(default=None, description="its splits for fine-tuning; None is folds drawn")
    classes: int | None = None
    clips: int | None = None
    home: str = ""
    files: tuple[RemoteFile, ...] = ()
    demonstration: bool = False
    bundled: bool = Field(default=False, description="its clips come with the package")
    layout: Layout | None = Field(default=None, description="how the card alone reads it; None if a reader does")
    unverified: str = Field(default="", description="why the layout is not verified; empty if a copy was read by it")


AnyCard = TypeVar("AnyCard", bound=Card)


def read_card(path: Path, kind: type[AnyCard]) -> AnyCard:
    """Reads a card from TOML.

    Raises:
        BadInputError: The file is missing or not TOML, or a field is missing or invalid; the line names the field.
    """
    try:
        return kind.model_validate(read_toml(path))
    except OSError as error:
        raise BadInputError(path, f"no card ({error.strerror})", "put NAME.toml beside the module") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = f"field '{'.'.join(map(str, first['loc']))}': " if first["loc"] else ""
        raise BadInputError(path, field + first["msg"].removeprefix("Value error, "), "correct the card") from error
    except ValueError as error:
        raise BadInputError(path, f"is not valid TOML ({error})", "correct the card") from error
