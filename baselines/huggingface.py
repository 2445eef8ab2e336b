"""Audio encoders of the transformers library, from the Hugging Face Hub or a folder, by a table of families.

Tensors are read from safetensors files and handed to transformers, which opens no weights file itself. Code of a
repository runs only on request, of one commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from uamix_bench.baselines.huggingface_families import FAMILIES, Encoder, Remote
from uamix_bench.models import hub
from uamix_bench.models.checkpoint import read_checkpoint
from uamix_bench.models.model import AudioModel, Origin
from uamix_bench.plugins.card import ModelCard, read_card
from uamix_bench.util.arrays import Floats
from uamix_bench.util.errors import BadInputError, MachineError, UsageError, nearest, optional
from uamix_bench.util.text import fit

_TOKENIZER = "tokenizer.json"  # as all JSON of the folder it enters the model's digest
_UNUSED = frozenset({"masked_spec_embed"})  # in training alone
_UNSAID = frozenset({"none", "unknown"})  # in place of the name of a data set


class TextSide:
    """CLAP's text encoder with its projection, and its tokenizer.

    Args:
        model: The transformers model, in eval mode.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.requires_grad_(False)
        self.tokenizer = tokenizer

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], device: torch.device) -> Floats:
        """Embeds texts of one number of tokens together, so that none is padded.

        Args:
            texts: Texts, C of them.
            device: Device of the computation.

        Returns:
            Embeddings of unit length in the space that sounds and texts share, (C, D) float32.
        """
        self.model.to(device)
        tokens = [self.tokenizer(text)["input_ids"] for text in texts]
        found: list[Floats] = [np.zeros(0, np.float32)] * len(texts)
        for length in sorted(set(map(len, tokens))):
            rows = [row for row, ids in enumerate(tokens) if len(ids) == length]
            ids = torch.tensor([tokens[row] for row in rows], device=device)
            embedded = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).text_embeds
            unit = nn.functional.normalize(embedded.float(), dim=-1).cpu().numpy()
            for row, one in zip(rows, unit, strict=True):
                found[row] = one
        return np.stack(found)


class HuggingFace(AudioModel):
    """A model of one of the families, or one whose own code may run."""

    card = read_card(Path(__file__).with_suffix(".toml"), ModelCard)
    packages = ("transformers",)

    def __init__(self, encoder: Encoder) -> None:
        layers = ["last", "mean", *map(str, range(encoder.depth + 1))] if encoder.one_width else ["last"]
        self.layer_choices = tuple(layers)
        self.poolings = encoder.poolings
        super().__init__()
        self.encoder = encoder
        self.model: nn.Module = encoder.model
        self.sample_rate = encoder.sample_rate
        self._text_side: Callable[[], TextSide] | None = None

    @property
    def embedding_dim(self) -> int:  # type: ignore[override]
        """D under the chosen pooling and layer."""
        return self.encoder.width(self.pooling, self.layer or "last")

    def frontend(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features of each clip alone, by the model's extractor.

        Args:
            waveforms: (B, S) float32 in [-1, 1] at the model's rate.
            lengths: (B,) samples.

        Returns:
            (B, T, ...) float32, zero past a clip's own, and (B,) the counts that its family cuts them by.
        """
        clips = [clip[:length].cpu().numpy() for clip, length in zip(waveforms, lengths.tolist(), strict=True)]
        inputs, counts = zip(*(self.encoder.inputs(clip, self._official) for clip in clips), strict=True)
        padded = pad_sequence(list(inputs), batch_first=True).float()
        return padded.to(waveforms.device), torch.tensor(counts, device=waveforms.device)

    def tokens(self, spectrogram: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes clips of one count together, so that none is padded.

        Args:
            spectrogram: (B, T, ...) float32 of `frontend`.
            lengths: (B,) its counts.

        Returns:
            Tokens (B, L, D) of the chosen layer, and their mask (B, L) bool.
        """
        encoded: list[Tensor] = [spectrogram] * len(lengths)
        for count in sorted(set(lengths.tolist())):
            rows = (lengths == count).nonzero().flatten().tolist()
            together = self.encoder.tokens(spectrogram[rows], count, self.layer or "last")
            for row, one in zip(rows, together, strict=True):
                encoded[row] = one
        own = torch.tensor([len(one) for one in encoded], device=lengths.device)
        tokens = pad_sequence(encoded, batch_first=True)
        return tokens, torch.arange(tokens.shape[1], device=lengths.device) < own[:, None]

    def pool(self, tokens: Tensor, mask: Tensor, how: str) -> Tensor:
        """Pools tokens (B, L, D), where mask (B, L) is True, into (B, D) as the family does."""
        return self.encoder.pool(tokens, mask, how, lambda some, own: super(HuggingFace, self).pool(some, own, "mean"))

    def token_columns(self, samples: int) -> int:
        """A number that is equal for clips that are encoded together."""
        return self.encoder.columns(samples, self._official)

    @property
    def reads_texts(self) -> bool:
        """True for a family with a text side, under the pooling into the space that it shares with sounds."""
        return self._text_side is not None and self.pooling == "projection"

    @property
    def no_texts(self) -> str:
        """Reason why the model reads no texts."""
        if self._text_side is None:
            return super().no_texts
        return f"reads texts under --pooling projection alone, not {self.pooling}"

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Embeds texts into the space of `projection`; (C, D) float32 of unit length.

        Raises:
            UsageError: The model has no text side.
            BadInputError: Its tokenizer or tensors are missing, or no text can be embedded.
        """
        if self._text_side is None or not self.reads_texts:
            return super().embed_texts(texts)
        return self._text_side().embed(texts, self.device)

    @property
    def _official(self) -> bool:
        return self.input == "official"

    @classmethod
    def from_reference(cls, reference: str, trust_remote_code: bool = False) -> HuggingFace:
        """Builds the model of an id of the Hub, or of a folder.

        Raises:
            UsageError: Its family is not known, or its code would have to run.
            BadInputError: It is not there, is damaged, or has no safetensors.
            MachineError: The Hub cannot be reached, or transformers is not installed.
        """
        transformers = optional("transformers", "--model hf:...", "hf")
        found = hub.find(reference, trust_remote_code)
        config = found.json("config.json")
        kind = str(config.get("model_type"))
        own = kind not in FAMILIES
        if own and not (trust_remote_code and config.get("auto_map")):
            raise _unknown(reference, kind, bool(config.get("auto_map")))
        with _quiet(transformers.utils.logging):
            encoder = (_remote if own else _known)(transformers, found, config)
        model = cls(encoder)
        if not own and FAMILIES[kind].texts:
            model._text_side = cache(partial(_texts, transformers, found, config))
        if broken := next((name for name, value in model.state_dict().items() if not value.isfinite().all()), None):
            raise BadInputError(found.reference, f"{broken} holds values that are not finite", "get the file again")
        pretrained_on, licence = _stated(found)
        model.state(pretrained_on=pretrained_on, licence=licence)
        files = found.files if own else {name: path for name, path in found.files.items() if path.suffix != ".py"}
        model.origin = Origin(found.name, f"hf:{found.reference}", files, found.repository, own)
        return model


def _unknown(reference: str, kind: str, has_code: bool) -> UsageError:
    known = f"known: {', '.join(sorted(FAMILIES))}"
    near = nearest(kind, sorted(FAMILIES))
    remedy = known if near.startswith("known") else f"{near} {known}"
    if has_code:
        remedy += f"; or run the code that comes with it: {hub.CODE} with hf:ID@ and the full commit hash"
    return UsageError(f"--model hf:{reference}", f"is of the family '{kind}', which is not known here", remedy)


def _known(transformers: Any, found: hub.Snapshot, config: dict[str, Any]) -> Encoder:
    """Builds a model of a known family."""
    family = FAMILIES[config["model_type"]]
    with _said_of(found):
        model = _filled(attrgetter(family.model)(transformers), found, config, family.part, family.prefixes)
        extractor = getattr(transformers, family.extractor).from_pretrained(found.folder, local_files_only=True)
    return family.encoder(model, extractor)


def _texts(transformers: Any, found: hub.Snapshot, config: dict[str, Any]) -> TextSide:
    """Builds the text side of a model, from the files that its audio side was read from."""
    if not (found.folder / _TOKENIZER).is_file():
        raise BadInputError(found.reference, f"has no {_TOKENIZER}, so no class name can be read", "get it whole")
    with _quiet(transformers.utils.logging), _said_of(found):
        model = _filled(getattr(transformers, FAMILIES[config["model_type"]].texts), found, config, "text_config")
        tokenizer = transformers.AutoTokenizer.from_pretrained(found.folder, local_files_only=True)
    return TextSide(model, tokenizer)


def _filled(
    kind: Any, found: hub.Snapshot, config: dict[str, Any], part: str, prefixes: tuple[str, ...] = ()
) -> nn.Module:
    """A class of transformers by a part of the configuration, or all of it, filled with the tensors that were read."""
    settings = kind.config_class.from_dict(config.get(part, {}) if part else config)
    if part:  # what the whole says of the size that its parts share
        settings.projection_dim = config.get("projection_dim", settings.projection_dim)
    model, loaded = kind.from_pretrained(
        None, config=settings, state_dict=_tensors(found, prefixes), dtype=torch.float32, output_loading_info=True
    )
    _whole(found, loaded)
    filled: nn.Module = model.eval()
    return filled


def _tensors(found: hub.Snapshot, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """All tensors of the files, copied; where there are `prefixes`, those under the first that is there, without it."""
    stored = {name: value for path in found.weights for name, value in read_checkpoint(path, part=True).tensors.items()}
    tensors = {name: value.clone() for name, value in stored.items()}  # off the mapped files, which may be replaced
    for prefix in prefixes:
        if any(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return tensors


def _remote(transformers: Any, found: hub.Snapshot, config: dict[str, Any]) -> Encoder:
    """Builds a model by the code that comes with it."""
    extractor_file = found.folder / "preprocessor_config.json"
    beside = hub.read_object(extractor_file).get("auto_map", {}) if extractor_file.is_file() else {}
    for name in {**config["auto_map"], **beside}.values():
        if "--" in str(name):
            reason = f"names code of another repository ({name}), of which no commit is given"
            raise BadInputError(found.reference, reason, "use a model whose code lies beside it")
    if any(not path.name.endswith(".safetensors") for path in found.weights):
        raise BadInputError(found.reference, "has no safetensors", "convert it where you trust it")
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": True}
    with _said_of(found):
        model, loaded = transformers.AutoModel.from_pretrained(
            found.folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
        )
        extractor = transformers.AutoFeatureExtractor.from_pretrained(found.folder, **options)
    _whole(found, loaded)
    return Remote(model.eval(), extractor)


def _whole(found: hub.Snapshot, loaded: dict[str, Any]) -> None:
    """Refuses a model of which tensors are missing, which transformers would draw at random."""
    missing = sorted(name for name in loaded["missing_keys"] if name.rpartition(".")[2] not in _UNUSED)
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise BadInputError(found.reference, f"lacks {len(missing)} tensors of the encoder ({shown})", "get it whole")


def _stated(found: hub.Snapshot) -> tuple[tuple[str, ...], str]:
    """The data sets and the licence that the head of README.md states: (), and ``not stated``, where it does not."""
    import yaml

    try:
        text = (found.folder / "README.md").read_text(encoding="utf-8", errors="replace")
        head = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else {}
    except (OSError, IndexError, yaml.YAMLError):
        head = {}
    facts = head if isinstance(head, dict) else {}
    named = facts.get("datasets") or ()
    listed = [named] if isinstance(named, str) else named if isinstance(named, list) else ()
    datasets = tuple(dict.fromkeys(fit(one) for one in listed if isinstance(one, str) and one not in _UNSAID))
    licence = facts.get("license")
    return datasets, fit(licence) if isinstance(licence, str) else "not stated"


@contextmanager
def _said_of(found: hub.Snapshot) -> Iterator[None]:
    """Tells as bad input what transformers raises of a model's files."""
    try:
        yield
    except (BadInputError, MachineError, MemoryError):
        raise
    except Exception as error:  # of many kinds
        said = " ".join(str(error).split())[:200]
        raise BadInputError(
            found.reference, f"is not read by transformers ({type(error).__name__}: {said})", "restore its files"
        ) from error


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Silences what transformers tells of loading: what matters of it is an error here."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
