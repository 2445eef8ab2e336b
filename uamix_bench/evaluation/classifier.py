"""Fitted classifier over a frozen encoder (`Classifier`): it predicts, is written to a folder, and is read from one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from uamix_bench.data import audio
from uamix_bench.data.sound_files import sound_files
from uamix_bench.records.classifier_file import NONE_OF_THESE, ClassifierFile
from uamix_bench.records.record import read_json
from uamix_bench.records.results import other_model
from uamix_bench.scoring.calibration import probabilities
from uamix_bench.scoring.classifiers import Fitted
from uamix_bench.scoring.space import Space
from uamix_bench.scoring.typical import Typical
from uamix_bench.util import files
from uamix_bench.util.arrays import Floats
from uamix_bench.util.errors import BadInputError, UsageError
from uamix_bench.util.progress import SILENT, Progress

if TYPE_CHECKING:
    from uamix_bench.models.model import AudioModel


_FACTS, _WEIGHTS = "classifier.json", "classifier.safetensors"
_LARGEST = 64 * 2**20  # bytes of the facts
_PROBE_S = 1.0
_SAME = {"float32": 1e-3, "bf16": 5e-2}  # of the probe's length: what machines and batches differ by, with room
_SETTINGS = ("input", "pooling", "dtype")  # of a model, beside what `other_model` compares
_REMEDY = "fit it again, or give the encoder that it was fitted on"


class Prediction(NamedTuple):
    """Label of a sound, or of a window of a long one.

    Attributes:
        path: Path of the sound.
        start_s: Start of the window in seconds.
        end_s: End of the window in seconds.
        label: Name of the class, or ``none of these``.
        score: Probability of the nearest class, if the classifier is calibrated; else how much its score exceeds that
            of the next class, in units of the classifier's own.
        nearest: Name of the nearest class.
    """

    path: str
    start_s: float
    end_s: float
    label: str
    score: float
    nearest: str


class Predictions(NamedTuple):
    """Predictions, and the sounds that were skipped, each with the reason."""

    rows: tuple[Prediction, ...]
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Classifier:
    """A classifier fitted to embeddings of labelled clips, with the encoder that makes them.

    Attributes:
        model: Encoder; its weights are not changed.
        facts: Facts of the fit.
        fitted: Fitted weights.
        probe: Embedding of a fixed sound, (D,) float32, by which a changed encoder is noticed.
        typical: Places of the classes, by which a sound that is none of them is told; None without a calibration.
    """

    model: AudioModel
    facts: ClassifierFile
    fitted: Fitted
    probe: Floats
    typical: Typical | None = None

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the class slots."""
        return list(self.facts.classes)

    def predict(
        self,
        sounds: Sequence[str | Path],
        *,
        windows: bool = True,
        keep_going: bool = False,
        batch_size: int = 16,
        cache: bool = True,
        progress: Progress = SILENT,
    ) -> Predictions:
        """Labels sounds.

        A sound longer than the clips of the task is labelled window by window, each as long as those clips; a rest of
        less than half a window is left out. A classifier that was fitted to means over all windows hears sounds so.

        Args:
            sounds: Paths of sound files, of folders of them, and of lists.
            windows: False labels only the first window of each sound: what an evaluation hears of it.
            keep_going: Whether broken sounds are skipped.
            batch_size: Number of windows embedded at once, at most.
            cache: Whether embeddings are looked up and kept, as in an evaluation.
            progress: Progress display.

        Raises:
            BadInputError: A sound is missing or broken.
        """
        from uamix_bench.embeddings.embedding import embed

        data = sound_files(sounds, self.facts.task.clip_seconds, keep_going)
        every = np.arange(len(data.table))
        found = embed(
            self.model,
            data,
            every,
            batch_size=batch_size,
            segments=self.facts.segments,
            cache=cache,
            keep_going=keep_going,
            progress=progress,
        )
        paths = [Path(path) for path in data.table["path"]]
        heard = [row for row in every.tolist() if found.valid[row]]
        rows: list[Prediction] = []
        with progress.bar("labelling", len(heard)) as advance:
            for row in heard:
                spans, vectors = self._windows(paths[row], found.vectors[row], windows, batch_size)
                rows += self._label(paths[row], spans, vectors)
                advance(1, "")
        unread = [(one.clip, one.reason) for one in data.unread]
        return Predictions(tuple(rows), (*unread, *((one.clip, one.reason) for one in found.skipped)))

    def predict_embeddings(self, vectors: Floats) -> tuple[list[str], npt.NDArray[np.float64]]:
        """Nearest class of each embedding (n, D) float32, and the scores (n,), as in :class:`Prediction`."""
        slots, scores = self.fitted.predict(np.ascontiguousarray(vectors, np.float32))
        rows = np.arange(len(slots))
        if self.facts.calibration is not None:
            sure = probabilities(scores, self.facts.calibration.temperature)[rows, slots]
        else:
            others = scores.copy()
            others[rows, slots] = -np.inf
            sure = scores[rows, slots] - others.max(axis=1)
        return [self.classes[slot] for slot in slots.tolist()], sure

    def save(self, folder: str | Path) -> Path:
        """Writes the classifier to a folder, as JSON and safetensors; one that is there is replaced.

        Raises:
            MachineError: The folder cannot be written.
        """
        place = files.make_folder(Path(folder))
        files.write_atomic(place / _WEIGHTS, packed(self.fitted, self.probe, self.typical))
        files.write_json(place / _FACTS, self.facts.model_dump(mode="json"))
        return place

    def _windows(
        self, path: Path, first: Floats, windows: bool, batch_size: int
    ) -> tuple[list[tuple[float, float]], Floats]:
        """Times in seconds of the windows of a sound, and their embeddings; that of the first one is given."""
        seconds, rate = self.facts.task.clip_seconds, self.model.sample_rate
        length = audio.probe(path).duration_s
        if self.facts.segments == "mean":
            return [(0.0, length)], first[None]
        spans, vectors = [(0.0, min(length, seconds))], [first[None]]
        if windows and length >= 1.5 * seconds:
            rest = islice(audio.segments(path, rate, seconds), 1, None)
            for waves in _batches(rest, batch_size):
                starts = [seconds * (len(spans) + place) for place in range(len(waves))]
                spans += [(start, start + len(wave) / rate) for start, wave in zip(starts, waves, strict=True)]
                vectors.append(np.asarray(self.model.embed(waves, rate), np.float32))
        return spans, np.concatenate(vectors)

    def _label(self, path: Path, spans: Sequence[tuple[float, float]], vectors: Floats) -> Iterator[Prediction]:
        unlike = np.zeros(len(vectors), np.bool_)
        if self.typical is not None and self.facts.calibration is not None:
            unlike = self.typical.strangeness(self.fitted.space(vectors)) > self.facts.calibration.threshold
        found = zip(spans, unlike.tolist(), *self.predict_embeddings(vectors), strict=True)
        for (start, end), none, nearest, score in found:
            yield Prediction(str(path), start, end, NONE_OF_THESE if none else nearest, float(score), nearest)


def load_classifier(
    folder: str | Path,
    model: AudioModel | str | None = None,
    *,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> Classifier:
    """Reads a classifier from a folder, with its encoder.

    Args:
        folder: Folder that `Classifier.save` wrote.
        model: Encoder, or its name as `load_model` takes it; by default the name in the folder.
        checkpoint: Weights of the encoder, if they do not come with its name.
        device: Device of the encoder.
        trust_remote_code: Whether code that comes with an encoder from a reference may run.

    Raises:
        BadInputError: The folder holds no classifier, its files disagree, or the encoder is not the one that the
            classifier was fitted on: other weights, code, settings, or another embedding of the same sound.
        UsageError: The encoder's weights are not given.
    """
    from uamix_bench.models.loading import load_model
    from uamix_bench.models.model import AudioModel

    place = Path(folder)
    facts = _facts(place / _FACTS)
    fitted, probe, typical = _unpacked(place / _WEIGHTS, facts)
    if not isinstance(model, AudioModel):
        wanted = facts.model
        try:
            model = load_model(
                model or facts.encoder,
                checkpoint,
                device=device,
                input=wanted.input,
                pooling=wanted.pooling,
                dtype="bf16" if wanted.dtype == "bf16" else "float32",
                label=wanted.name,
                layer=wanted.layer,
                trust_remote_code=trust_remote_code,
            )
        except UsageError as error:
            weights = f" (SHA-256 {wanted.weights_sha256[:12]}...)" if wanted.weights_sha256 else ""
            remedy = f"give its encoder, {wanted.name}{weights}, with --model NAME=PATH"
            raise UsageError(place, f"its encoder is not found: {error}", remedy) from error
    _check_encoder(place, facts, model, probe)
    return Classifier(model, facts, fitted, probe, typical)


def probe_embedding(model: AudioModel) -> Floats:
    """Embedding (D,) float32 of a fixed sound: a second that sweeps from 50 Hz to a quarter of the sample rate."""
    time = np.arange(round(_PROBE_S * model.sample_rate)) / model.sample_rate
    top = model.sample_rate / 4
    sweep = 0.3 * np.sin(2 * np.pi * (50 * time + (top - 50) * time**2 / (2 * _PROBE_S)))
    embedded: Floats = np.asarray(model.embed([sweep.astype(np.float32)], model.sample_rate), np.float32)[0]
    return embedded


def embedding_key(model: AudioModel) -> dict[str, object]:
    """All that may change the embeddings of a model, as plain data."""
    from uamix_bench.embeddings.model_key import model_key

    return asdict(model_key(model))


def packed(fitted: Fitted, probe: Floats, typical: Typical | None) -> bytes:
    """Content of ``classifier.safetensors``."""
    from safetensors.numpy import save

    tensors = {"weights": fitted.weights, "slots": fitted.slots, "probe": probe}
    tensors |= {} if fitted.biases is None else {"biases": fitted.biases}
    tensors |= {} if typical is None else typical._asdict()
    tensors |= {f"offset.{place}": offset for place, offset in enumerate(fitted.space.offsets)}
    return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})


def _check_encoder(place: Path, facts: ClassifierFile, model: AudioModel, probe: Floats) -> None:
    if model.identity is None:
        raise ValueError("the model has no identity: load it with load_model")
    changes = [f"{what} {there}, where it was {here}" for what, here, there in other_model(facts.model, model.identity)]
    changes += [
        f"{name} {getattr(model.identity, name)}, where it was {getattr(facts.model, name)}"
        for name in _SETTINGS
        if getattr(model.identity, name) != getattr(facts.model, name)
    ]
    if not changes:
        now = embedding_key(model)
        changes = [name for name in now if facts.embedding.get(name) != now[name]]
    if changes:
        raise BadInputError(place, f"its encoder is another now ({'; '.join(changes)})", _REMEDY)
    gap = float(np.linalg.norm(probe_embedding(model) - probe)) / max(float(np.linalg.norm(probe)), 1e-30)
    if not gap <= _SAME[model.identity.dtype]:
        reason = f"its encoder embeds the same sound otherwise now (by {gap:.1%} of the embedding's length)"
        raise BadInputError(place, reason, _REMEDY)


def _facts(path: Path) -> ClassifierFile:
    if not path.exists():
        raise BadInputError(path.parent, f"holds no {_FACTS}", "give a folder that 'uamix-bench fit --out' wrote")
    text, _ = read_json(path, _LARGEST)
    try:
        return ClassifierFile.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))[:200]
        raise BadInputError(path, f"{field}: {first['msg']}", "fit it again") from error


def _unpacked(path: Path, facts: ClassifierFile) -> tuple[Fitted, Floats, Typical | None]:
    """Weights, probe and places of the classes of a folder.

    Raises:
        BadInputError: The file is not the one that the facts are of, or its tensors do not fit one another.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        content = files.regular(path).read_bytes()
    except OSError as error:
        raise files.unreadable(path, error) from error
    if hashlib.sha256(content).hexdigest() != facts.weights_sha256:
        raise BadInputError(path, f"is not the file that {_FACTS} was written with", "copy the folder whole")
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise BadInputError(path, f"is no safetensors file ({error})", "fit it again") from error
    size, weights = facts.model.embedding_dim, tensors.get("weights", np.zeros(0))
    offsets = tuple(tensors[name] for name in sorted(tensors) if name.startswith("offset."))
    slots, probe, biases = tensors.get("slots"), tensors.get("probe"), tensors.get("biases")
    whole = slots is not None and probe is not None and weights.shape == (len(slots), size) and probe.shape == (size,)
    whole = whole and all(offset.shape == (size,) for offset in offsets)
    whole = whole and (biases is None or biases.shape == weights.shape[:1])
    ways = len(facts.classes)
    centres, radii, typical = tensors.get("centres"), tensors.get("radii"), None
    if facts.calibration is not None and centres is not None and radii is not None:
        whole = whole and centres.shape == (ways, size) and radii.shape == (ways,)
        typical = Typical(centres, radii)
    whole = whole and (typical is None) == (facts.calibration is None)
    if not whole or slots is None or probe is None or set(slots.tolist()) != set(range(ways)):
        raise BadInputError(path, "its tensors do not fit one another", "fit it again")
    space = Space(facts.unit_first, offsets, facts.unit_last)
    voters = min(facts.neighbors, len(slots)) if facts.classifier == "knn" else 1
    return Fitted(space, weights, biases, slots, facts.unit, voters), probe, typical


def _batches(waves: Iterator[Floats], most: int) -> Iterator[list[Floats]]:
    """Waves in order, equal lengths together, so that nothing is padded."""
    for _, alike in groupby(waves, key=len):
        while batch := list(islice(alike, most)):
            yield batch
