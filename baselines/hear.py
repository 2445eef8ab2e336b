"""Models with HEAR's common API: a module with ``load_model`` and ``get_scene_embeddings``, and weights of its own.

The API (hearbenchmark.com/hear-api.html): ``load_model(model_file_path)`` gives an object with ``sample_rate`` and
``scene_embedding_size``; ``get_scene_embeddings(audio, model)`` takes clips (n, samples) in [-1, 1] and gives (n, D).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uamix_bench.models.checkpoint import read_checkpoint
from uamix_bench.models.model import AudioModel, Origin
from uamix_bench.models.own_weights import label
from uamix_bench.plugins import registry
from uamix_bench.plugins.card import ModelCard, read_card
from uamix_bench.util.errors import BadInputError, BenchError, UsageError, is_out_of_memory, own_fault
from uamix_bench.util.files import expanded

_TORCH = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
_WEIGHTS = (*_TORCH, ".onnx", ".tflite", ".pb", ".h5", ".npz", ".npy", ".msgpack")  # that packages bring along
_EQUAL = 1e-5  # of the largest value, as in the contract suite
_PROOF_SECONDS = (1.0, 2.5)


class HearModel(AudioModel):
    """A module's scene embeddings, one clip a call unless `together` is asked for and holds.

    Args:
        module: The module.
        model: Result of its ``load_model``.
        min_seconds: Length in seconds that shorter clips are zero-padded to.
        together: Whether clips of one length share a call.
    """

    card = read_card(Path(__file__).with_suffix(".toml"), ModelCard)
    poolings = ("scene",)

    def __init__(self, module: Any, model: Any, min_seconds: float, together: bool) -> None:
        super().__init__()
        self.module = module
        self.model = model  # registered where it is a torch module
        self.together = together
        self.sample_rate = int(model.sample_rate)
        self.embedding_dim = int(model.scene_embedding_size)
        self.shortest = max(1, round(min_seconds * self.sample_rate))

    @classmethod
    def from_reference(cls, reference: str, min_seconds: float = 1.0, together: bool = False) -> HearModel:
        """Imports a module and loads its model.

        Args:
            reference: ``MODULE`` or ``MODULE=WEIGHTS``; MODULE is a dotted name or the path of a Python file.
            min_seconds: Length in seconds that shorter clips are zero-padded to.
            together: Whether clips of one length share a call, which is tried out here.

        Raises:
            UsageError: An argument has no valid value.
            BadInputError: The weights are missing or unsafe, the module does not have the API, or clips that share a
                call change each other's embeddings.
            MachineError: The module is not installed, or a package that it needs.
            OwnCodeError: The module raises an error.
        """
        if isinstance(min_seconds, bool | str) or not 0 <= min_seconds <= 60:
            raise UsageError(f"--model-arg min_seconds={min_seconds}", "is no length from 0 to 60 seconds")
        if not isinstance(together, bool):
            raise UsageError(f"--model-arg together={together}", "is neither true nor false")
        name, separator, path_text = reference.partition("=")
        weights = expanded(path_text) if separator else None
        if weights is not None and not weights.exists():
            raise BadInputError(weights, "no such file", "check --model hear:MODULE=WEIGHTS")
        if weights is not None and weights.suffix in _TORCH:
            read_checkpoint(weights)  # an unsafe file is refused before a stranger's code opens it
        module = registry.import_module(name, "hear:FILE.py")
        for function in ("load_model", "get_scene_embeddings"):
            if not callable(getattr(module, function, None)):
                remedy = "name the module that has load_model and get_scene_embeddings"
                raise BadInputError(f"hear:{name}", f"has no {function}, which HEAR's common API asks for", remedy)
        with _strangers(module, "load_model"):
            loaded = module.load_model(str(weights)) if weights is not None else module.load_model()
        sizes = [getattr(loaded, size, None) for size in ("sample_rate", "scene_embedding_size")]
        if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
            reason = "gives a model without sample_rate and scene_embedding_size as whole numbers"
            raise BadInputError(f"load_model of {name}", reason, "see HEAR's common API")
        model = cls(module, loaded, float(min_seconds), together)
        model.state()
        model.arguments = {"min_seconds": float(min_seconds)}
        code = Path(str(module.__file__)).absolute()
        files = dict(_files(weights, code, model))
        called = label(weights, name) if weights is not None else code.stem if name.endswith(".py") else name
        where = f"{code}" if name.endswith(".py") else name
        tail = f"={weights.absolute()}" if weights is not None else ""
        model.origin = Origin(called, f"hear:{where}{tail}", files, code=(code,))
        if not files and not model.state_dict():
            model.metadata["remarks"] = "its weights are not seen and not in its identity; give hear:MODULE=WEIGHTS"
        if together:
            model._prove()
        return model

    def frontend(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S, 1), zero-padded to the shortest length, and the samples (B,) that the module gets."""
        counts = lengths.clamp_min(self.shortest)
        padded = nn.functional.pad(waveforms, (0, max(0, int(counts.max()) - waveforms.shape[1])))
        return padded.unsqueeze(-1), counts

    def tokens(self, spectrogram: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Scene embeddings as one token of each clip (B, 1, D), and their mask (B, 1)."""
        counts: list[int] = lengths.tolist()
        alone = [[row] for row in range(len(counts))]
        groups = [[row for row, own in enumerate(counts) if own == count] for count in sorted(set(counts))]
        scenes = spectrogram.new_zeros(len(counts), self.embedding_dim)
        for group in groups if self.together else alone:
            scenes[group] = self._scenes(spectrogram[group, : counts[group[0]], 0])
        return scenes.unsqueeze(1), torch.ones(len(counts), 1, dtype=torch.bool, device=lengths.device)

    def token_columns(self, samples: int) -> int:
        """Samples that the module gets."""
        return max(samples, self.shortest)

    def _scenes(self, clips: Tensor) -> Tensor:
        """Scene embeddings (n, D) of clips (n, S) of one length."""
        with _strangers(self.module, "get_scene_embeddings"):
            given = self.module.get_scene_embeddings(clips, self.model)
        scenes = torch.as_tensor(given, dtype=torch.float32, device=clips.device)
        self._must(scenes.shape == (len(clips), self.embedding_dim), "get_scene_embeddings", scenes, "(n, D)")
        return scenes

    @torch.inference_mode()
    def _prove(self) -> None:
        """Refuses a module that gives a clip another embedding beside other clips of its length."""
        for seconds in _PROOF_SECONDS:
            samples = max(self.shortest, round(seconds * self.sample_rate))
            noise = torch.rand(3, samples, generator=torch.Generator().manual_seed(0)) - 0.5
            clips = noise * torch.tensor([0.02, 0.8, 0.2])[:, None]
            alone = torch.cat([self._scenes(clip[None]) for clip in clips])
            apart = float((self._scenes(clips) - alone).abs().max() / alone.abs().max().clamp_min(1e-30))
            if not apart <= _EQUAL:
                reason = f"gives clips other embeddings together than alone ({apart:.1e} of the largest value)"
                raise BadInputError(f"hear:{self.module.__name__}", reason, "omit --model-arg together=true")


def _files(weights: Path | None, code: Path, model: nn.Module) -> Iterator[tuple[str, Path]]:
    """Files that a model's weights are in, by name: those given, or, if no tensors are seen, those of its package."""
    if weights is not None and weights.is_file():
        yield "", weights
        return
    if weights is None and (model.state_dict() or not (code.parent / "__init__.py").is_file()):
        return
    folder = weights or code.parent
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (weights is not None or path.suffix in _WEIGHTS):
            yield path.relative_to(folder).as_posix(), path


@contextmanager
def _strangers(module: Any, function: str) -> Iterator[None]:
    """Tells what a stranger's module raises in one line with its place; what it prints goes to stderr."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except BenchError:
        raise
    except (Exception, SystemExit) as error:  # of any kind
        if is_out_of_memory(error):
            raise
        raise own_fault(error, f"{function} of {module.__name__}", [module]) from error
