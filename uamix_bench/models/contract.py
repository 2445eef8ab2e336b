"""Contract tests for a model: the suite that ``uamix-bench models check`` runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from uamix_bench.models.convert import save
from uamix_bench.models.loading import build, load_model
from uamix_bench.models.model import AudioModel
from uamix_bench.models.tunable import lacks
from uamix_bench.plugins.card import ModelCard
from uamix_bench.util.arrays import Floats
from uamix_bench.util.errors import BadInputError, OwnCodeError, UsageError, own_code

EQUAL = 1e-5  # of the largest value: what "the same embedding" means
_SAME_SIZE = 0.01  # of the card's parameters: patches of another shape differ by less, another encoder by more
_CHEAP = 20_000_000  # parameters: above it the files that the round trip writes take seconds
_TONE_HZ, _TONE_RATES = 440.0, (8_000, 16_000, 44_100)
_LONG_S = 15.0  # longer than the windows that encoders crop a clip to
_HONEST = 0.5  # of what a wrong claim changes: the most that a right one may


@dataclass(frozen=True)
class Check:
    """Outcome of one check.

    Attributes:
        name: Name of the check.
        passed: True if the model passed the check.
        reason: Cause of the failure; a note or nothing if the check passed.
        remedy: Remedy for the failure; empty if the check passed.
    """

    name: str
    passed: bool
    reason: str = ""
    remedy: str = ""


class _Broken(Exception):
    """Failure of a check; the text is the reason."""


def check(model: AudioModel) -> list[Check]:
    """Runs the suite on a model with its present weights, input length and pooling.

    The model is left unchanged. The suite embeds some fifty clips of about a second, two of 15 s and one of 60 s. That
    takes seconds for a small model; a ViT-B takes as long as for two and a half minutes of sound.

    Args:
        model: Model from :func:`uamix_bench.load_model`, or any other in eval mode.

    Returns:
        One outcome per check, in the order of the suite. A check that raises any error has failed. If the model's own
        code raises an error or returns an invalid value, that check is the last.

    Raises:
        UsageError: The embeddings were made elsewhere, so that there is no model to check.
    """
    if model.origin is not None and model.origin.given:
        raise UsageError(model.origin.reference, "holds embeddings, and no model to check", "use it with fewshot")
    outcomes = []
    for name, test, remedy in _SUITE:
        try:
            outcomes.append(_outcome(model, name, test, remedy))
        except OwnCodeError as error:  # which the other checks would meet again
            return [*outcomes, Check(name, False, f"{error.subject}: {error.reason}", error.remedy)]
    return outcomes


def _outcome(model: AudioModel, name: str, test: Callable[[AudioModel], str], remedy: str) -> Check:
    try:
        return Check(name, True, test(model))
    except (MemoryError, OwnCodeError):
        raise
    except _Broken as broken:
        return Check(name, False, str(broken), remedy)
    except Exception as error:  # whatever a stranger's model raises
        return Check(name, False, f"raises {type(error).__name__}: {' '.join(str(error).split())[:300]}", remedy)


# --- sounds and comparisons


def _sounds(model: AudioModel, seconds: Sequence[float] = (0.5, 1.3, 0.9)) -> list[Floats]:
    """Clips of these lengths in seconds: noise of rising level, from a fixed seed."""
    generator = np.random.default_rng(0)
    lengths = [round(length * model.sample_rate) for length in seconds]
    noise = [generator.standard_normal(length) * np.linspace(0.02, 0.2, length) for length in lengths]
    return [clip.astype(np.float32) for clip in noise]


def _tone(rate: int) -> Floats:
    """One second of a 440 Hz tone with partials to 3.1 kHz, which every sample rate can hold, fading in and out."""
    time = np.arange(rate) / rate
    partials = _TONE_HZ * np.arange(2, 8)
    tone = np.sin(2 * np.pi * _TONE_HZ * time) + 0.1 * np.sin(2 * np.pi * np.outer(partials, time)).sum(axis=0)
    faded: Floats = (0.3 * np.sin(np.pi * time) ** 2 * tone).astype(np.float32)
    return faded


def _embed(model: AudioModel, waves: Sequence[Floats], rate: int | None = None) -> Floats:
    given: Floats = np.asarray(model.embed(waves, model.sample_rate if rate is None else rate))
    return given


def _apart(one: Floats, other: Floats) -> float:
    """Largest absolute difference, as a share of the largest absolute value of `one`."""
    return float(np.abs(one - other).max() / max(float(np.abs(one).max()), 1e-30))


def _must_equal(one: Floats, other: Floats, what: str) -> None:
    difference = _apart(one, other)
    if not difference <= EQUAL:  # a NaN is no equality either
        raise _Broken(f"{what}: {difference:.1e} of the largest value, more than {EQUAL:.0e}")


def _encodes(model: AudioModel) -> bool:
    """Test for a model that has tokens; one that overrides `embed` may have none."""
    return type(model).tokens is not AudioModel.tokens


# --- the checks: each returns a note, or raises


def _shape(model: AudioModel) -> str:
    sounds = _sounds(model)
    given = model.embed(sounds, model.sample_rate)
    if not isinstance(given, np.ndarray):
        raise _Broken(f"embed returns {type(given).__name__}, not a numpy array")
    if given.shape != (len(sounds), model.embedding_dim) or given.dtype != np.float32:
        wanted = f"({len(sounds)}, embedding_dim {model.embedding_dim}) float32"
        raise _Broken(f"embed gives {given.shape} {given.dtype} for {len(sounds)} clips, not {wanted}")
    if not np.isfinite(given).all():
        raise _Broken("the embedding of noise holds NaN or infinite values")
    if np.asarray(model.embed([], model.sample_rate)).shape != (0, model.embedding_dim):
        raise _Broken("no clips do not give (0, embedding_dim)")
    return ""


def _frozen(model: AudioModel) -> str:
    _embed(model, _sounds(model)[:1])
    if learning := [name for name, parameter in model.named_parameters() if parameter.requires_grad]:
        raise _Broken(f"{len(learning)} parameters require a gradient ({learning[0]})")
    if training := [name or "the model" for name, module in model.named_modules() if module.training]:
        raise _Broken(f"{training[0]} is in training mode")
    return ""


def _deterministic(model: AudioModel) -> str:
    sounds = _sounds(model)
    first = _embed(model, sounds)
    _must_equal(first, _embed(model, sounds), "the same clips give another embedding the second time")
    _must_equal(first, _embed(model, sounds[::-1])[::-1], "the same clips in another order give another embedding")
    long = _sounds(model, (_LONG_S,))
    _must_equal(_embed(model, long), _embed(model, long), f"a clip of {_LONG_S:g} s gives another the second time")
    return ""


def _batch(model: AudioModel) -> str:
    sounds = _sounds(model)
    alone = [_embed(model, [clip])[0] for clip in sounds]
    for size in (len(sounds), 16):
        rows = [row % len(sounds) for row in range(size)]
        for row, together in zip(rows, _embed(model, [sounds[row] for row in rows]), strict=True):
            seconds = len(sounds[row]) / model.sample_rate
            what = f"a clip of {seconds:.1f} s gets another embedding in a batch of {size} of other lengths"
            _must_equal(alone[row], together, what)
    return ""


def _padding(model: AudioModel) -> str:
    short, long, other = _sounds(model)
    first = _embed(model, [short, long])[0]
    _must_equal(first, _embed(model, [short, -long[::-1]])[0], "the samples of a longer clip in the batch matter")
    _must_equal(first, _embed(model, [short, np.tile(other, 3)])[0], "the length of a longer clip in the batch matters")
    return ""


def _extremes(model: AudioModel) -> str:
    rate = model.sample_rate
    noise = np.random.default_rng(1).uniform(-0.1, 0.1, 60 * rate).astype(np.float32)
    clips = {
        "silence": np.zeros(rate, np.float32),
        "10 ms": noise[: rate // 100],
        "one sample": noise[:1],
        "60 s": noise,
    }
    for name, clip in clips.items():
        try:
            given = _embed(model, [clip])
        except OwnCodeError as error:
            raise OwnCodeError(error.subject, f"{error.reason} (for {name})", error.remedy) from error
        except Exception as error:
            raise _Broken(f"{name} raises {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
        if given.shape != (1, model.embedding_dim) or not np.isfinite(given).all():
            raise _Broken(f"{name} gives NaN or infinite values" if given.ndim == 2 else f"{name} gives {given.shape}")
    return ""


def _refuses(model: AudioModel) -> str:
    for value in (np.nan, np.inf):
        clip = _sounds(model)[0]
        clip[7] = value
        try:
            model.embed([clip], model.sample_rate)
        except OwnCodeError:
            raise
        except BadInputError:
            continue
        except Exception as error:
            raise _Broken(f"a sample of {value} raises {type(error).__name__}, not BadInputError") from error
        raise _Broken(f"a sample of {value} is embedded")
    return ""


def _rates(model: AudioModel) -> str:
    honest = [_embed(model, [_tone(rate)], rate) for rate in _TONE_RATES]
    right = max(_distance(honest[1], other) for other in (honest[0], honest[2]))
    wrong = _distance(honest[1], _embed(model, [_tone(_TONE_RATES[1])], _TONE_RATES[0]))
    if wrong <= EQUAL:
        raise _Broken("a wrong sample rate changes nothing")
    if right > _HONEST * wrong:
        found = f"a tone at 8, 16 and 44.1 kHz moves the embedding by {right:.1%}, a wrong rate by {wrong:.1%}"
        raise _Broken(found)
    return f"8, 16, 44.1 kHz: {right:.1%} apart; a wrong rate: {wrong:.1%}"


def _distance(one: Floats, other: Floats) -> float:
    """Euclidean distance, as a share of the norm of `one`."""
    return float(np.linalg.norm(one - other) / max(float(np.linalg.norm(one)), 1e-30))


def _columns(model: AudioModel) -> str:
    if not _encodes(model):
        return "no tokens"
    samples = model.sample_rate
    with own_code("token_columns", type(model)):
        one = model.token_columns(1)
    if not isinstance(one, int):
        raise _Broken(f"token_columns gives {one!r} for one sample, not an int")
    nearby = [samples + samples * percent // 100 for percent in range(-20, 21)]
    with own_code("token_columns", type(model)):
        alike = [count for count in nearby if model.token_columns(count) == model.token_columns(samples)]
    lengths = [min(alike), samples, max(alike)]
    waves = [0.1 * torch.sin(torch.arange(count, device=model.device) * 0.2) for count in lengths]
    together = _mask(model, waves)
    equal = f"{min(alike)} and {max(alike)} samples have equal token_columns"
    for place, wave in enumerate(waves):
        alone = _mask(model, [wave])[0]
        if (alone.shape, int(alone.sum())) != (together[place].shape, int(together[place].sum())):
            padded = f"{int((~together).sum())} of their {together.numel()} tokens are padding"
            own = f"a clip of {len(wave)} has {int(alone.sum())} of {len(alone)} alone"
            raise _Broken(f"{equal}, but {padded}, and {own}")
    if not bool((together == together[0]).all()):
        raise _Broken(f"{equal}, but {int((~together).sum())} of their {together.numel()} tokens are padding")
    masked = int((~together[0]).sum())
    return f"{masked} of {together.shape[1]} tokens of a window are masked" if masked else ""


def _mask(model: AudioModel, waves: Sequence[Tensor]) -> Tensor:
    """Mask (B, L) of the tokens of waveforms in one batch."""
    lengths = torch.tensor([len(wave) for wave in waves], device=model.device)
    padded = nn.utils.rnn.pad_sequence(list(waves), batch_first=True)
    with torch.inference_mode():
        return model.call_tokens(*model.call_frontend(padded, lengths))[1]


def _walkable(model: AudioModel) -> str:
    layers = model.call_layers()
    if not layers:
        return "no layers(): can be evaluated, not fine-tuned" if list(model.parameters()) else ""
    if not _encodes(model):
        raise _Broken("has layers() but no tokens()")
    parts = set(model.modules())
    if foreign := [index for index, layer in enumerate(layers) if layer not in parts]:
        raise _Broken(f"layer {foreign[0]} is no module of the model")
    walked = [parameter for layer in layers for parameter in layer.parameters()]
    if len(walked) != len(set(walked)):
        raise _Broken("a parameter belongs to two layers")
    if empty := [index for index, layer in enumerate(layers) if not list(layer.parameters())]:
        raise _Broken(f"layer {empty[0]} has no parameters")
    calls: list[nn.Module] = []
    hooks = [layer.register_forward_hook(lambda module, *_: calls.append(module)) for layer in layers]
    try:
        _embed(model, _sounds(model)[:1])
    finally:
        for hook in hooks:
            hook.remove()
    called = list(dict.fromkeys(calls))
    if called != [layer for layer in layers if layer in called]:
        raise _Broken("the layers run in another order than layers() gives")
    return f"{len(layers)} layers"


def _tuned(model: AudioModel) -> str:
    missing = lacks(model)
    return f"not with tune and pretrain: lacks {missing}" if missing else "with tune and pretrain"


def _poolings(model: AudioModel) -> str:
    chosen, clip = model.pooling, _sounds(model)[:1]
    if chosen not in model.poolings:
        raise _Broken(f"pooling '{chosen}' is not among poolings ({', '.join(model.poolings)})")
    try:
        for how in model.poolings:
            model.pooling = how
            given = _embed(model, clip)
            if given.shape != (1, model.embedding_dim) or not np.isfinite(given).all():
                raise _Broken(
                    f"'{how}' gives {given.shape}, embedding_dim says {model.embedding_dim}, or is not finite"
                )
    except BadInputError as error:
        raise _Broken(f"'{model.pooling}' is offered and refused: {error.reason}") from error
    finally:
        model.pooling = chosen
    return ", ".join(model.poolings)


def _card(model: AudioModel) -> str:
    card = getattr(model, "card", None)
    if not isinstance(card, ModelCard):
        raise _Broken("is no ModelCard")
    chosen, default = model.pooling, model.poolings[0]
    model.pooling = default
    dim = model.embedding_dim
    model.pooling = chosen
    counted = sum(parameter.numel() for parameter in model.parameters())
    if card.needs_weights and dim != card.embedding_dim:
        return f"weights of another size than the card's ({counted:,} parameters, dimension {dim})"
    if dim != card.embedding_dim:
        raise _Broken(f"embedding_dim is {card.embedding_dim:,}, the model's under '{default}' {dim:,}")
    if model.sample_rate != card.sample_rate and not card.needs_weights:
        raise _Broken(f"sample_rate is {card.sample_rate}, the model's {model.sample_rate}")
    if card.parameters is None:
        return f"{counted:,} parameters"
    slack = _SAME_SIZE * card.parameters if card.needs_weights else 0
    if abs(counted - card.parameters) > slack:
        raise _Broken(f"parameters is {card.parameters:,}, the model has {counted:,}")
    return f"{counted:,} parameters"


def _rebuilt(model: AudioModel) -> str:
    if not model.card.needs_weights:
        again = build(type(model), None, model.arguments)
        return _must_hold(model, again, "untrained() builds another model each time")
    if model.source is not None and model.card.reference:
        arguments, trusted = dict(model.source.arguments), model.source.trust_remote_code
        again = load_model(model.source.name, device="cpu", trust_remote_code=trusted, arguments=arguments)
        return _must_hold(model, again, "another model is read each time")
    if model.loaded_from is not None and not model.loaded_from.is_file():  # a folder, or what the adapter finds by it
        again = build(type(model), model.loaded_from, model.arguments)
        return _must_hold(model, again, "from_checkpoint reads another model each time") or "read again from its folder"
    if sum(parameter.numel() for parameter in model.parameters()) > _CHEAP:
        return f"not tried above {_CHEAP:,} parameters"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(model, path)
        return _must_hold(
            model, build(type(model), path, model.arguments), "from_checkpoint reads another model from its state"
        )


def _must_hold(model: AudioModel, other: AudioModel, reason: str) -> str:
    one, two = model.state_dict(), other.state_dict()
    if one.keys() != two.keys():
        raise _Broken(f"{reason} ({min(one.keys() ^ two.keys())} is in one only)")
    for name, value in one.items():
        if not _same(value, two[name]):
            raise _Broken(f"{reason} ({name} differs)")
    return ""


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())


_SUITE: tuple[tuple[str, Callable[[AudioModel], str], str], ...] = (
    ("embedding", _shape, "make pool() return (B, embedding_dim) float32, and embedding_dim say what it returns"),
    ("frozen", _frozen, "load it with load_model, and leave requires_grad_ and train() alone in embed"),
    ("determinism", _deterministic, "draw nothing at random and keep no state between calls"),
    ("batch", _batch, "mask what lies past a clip's own length: in attention, convolutions, norms and pooling"),
    ("padding", _padding, "mask what lies past a clip's own length: in attention, convolutions, norms and pooling"),
    ("extremes", _extremes, "pad short clips to one window, cut or chunk long ones, and keep logarithms off zero"),
    ("bad samples", _refuses, "leave the check of samples to AudioModel.embed, or raise BadInputError as it does"),
    ("sample rate", _rates, "leave resampling to AudioModel.embed: state sample_rate, and take samples at it"),
    ("token columns", _columns, "give clips equal token_columns only where they have equally many tokens"),
    ("layers", _walkable, "return the stem first, then the blocks in the order in which they run, or nothing"),
    ("tuning", _tuned, "make fbank and normalise give what the encoder takes"),
    ("poolings", _poolings, "list in poolings only what this model's pool() can do, the default first"),
    ("card", _card, "correct the card"),
    ("rebuilding", _rebuilt, "keep all that the model is in its state_dict and metadata, and seed what is drawn"),
)
