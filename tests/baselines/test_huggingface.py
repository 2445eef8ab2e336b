"""Models of transformers: each clip gets what the plain call of the library gives for it alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from uamix_bench import load_model
from uamix_bench.models.contract import check

from . import huggingface as small

pytest.importorskip("transformers", reason="transformers is not installed (the extra hf)")

Floats = npt.NDArray[np.float32]
WAVES = [kind for kind, (_, reads, *_) in small.KINDS.items() if reads == "Wav2Vec2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a test asked for the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


def sounds(rate: int, seconds: tuple[float, ...] = (0.5, 0.93, 0.25)) -> list[Floats]:
    generator = np.random.default_rng(3)
    return [(0.1 * generator.standard_normal(round(rate * one)) + 0.05).astype(np.float32) for one in seconds]


def plain(kind: str, clip: Floats) -> Any:
    """What the family's documentation does with one clip."""
    model, extractor = small.whole(kind), small.extractor(kind)
    given = extractor(clip, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    with torch.inference_mode():
        if kind in ("whisper", "moonshine"):
            return model.encoder(next(iter(given.values())), output_hidden_states=True)
        if kind.startswith("clap"):
            return model.get_audio_features(**given)
        if kind == "ast":
            return model(given["input_values"], output_hidden_states=True)
        return model(**given, output_hidden_states=True)


def near(found: Any, expected: Any) -> bool:
    one, other = np.asarray(found), np.asarray(expected)
    return one.shape == other.shape and float(np.abs(one - other).max()) <= 1e-5 * float(np.abs(other).max())


@pytest.mark.parametrize("kind", [*WAVES, "wav2vec2-bert"])
def test_every_clip_gets_what_the_plain_call_gives_it_alone(kind: str, root: Path) -> None:
    model = load_model(f"hf:{small.folder(kind, root)}", device="cpu")
    clips = sounds(small.RATE)
    together = model.embed(clips, small.RATE)
    for clip, found in zip(clips, together, strict=True):
        tokens = plain(kind, clip).last_hidden_state[0]
        if kind == "wav2vec2-bert":  # the half pair of an odd number of frames is masked
            tokens = tokens[: (1 + (len(clip) - 400) // 160) // 2]
        assert near(found, tokens.mean(dim=0))


@pytest.mark.parametrize("kind", ["wav2vec2-group", "wav2vec2-layer", "sew", "whisper", "ast"])
def test_layers_are_the_hidden_states_of_the_plain_call(kind: str, root: Path) -> None:
    path = small.folder(kind, root)
    clip = sounds(small.RATE)[0]
    states = plain(kind, clip).hidden_states
    own = {"whisper": len(clip) // 320, "ast": None}.get(kind, states[0].shape[1])
    expected = {str(number): state[0] for number, state in enumerate(states)}
    expected["mean"] = torch.stack(states).mean(dim=0)[0]
    for layer, tokens in expected.items():
        model = load_model(f"hf:{path}", device="cpu", layer=layer, input="official" if kind == "ast" else "native")
        kept = tokens[2:] if kind == "ast" else tokens[:own]
        assert near(model.embed([clip], small.RATE)[0], kept.mean(dim=0))
        assert model.identity is not None
        assert model.identity.layer == layer


def test_official_ast_is_the_plain_call_and_its_special_tokens_are_two(root: Path) -> None:
    path = small.folder("ast", root)
    clips = sounds(small.RATE)
    for pooling in ("mean", "cls"):
        model = load_model(f"hf:{path}", device="cpu", input="official", pooling=pooling)
        for clip, found in zip(clips, model.embed(clips, small.RATE), strict=True):
            output = plain("ast", clip)
            expected = output.pooler_output[0] if pooling == "cls" else output.last_hidden_state[0, 2:].mean(dim=0)
            assert np.abs(found - expected.numpy()).max() < 1e-4 * expected.abs().max()


def test_native_ast_is_a_plain_model_of_the_clips_own_length(root: Path) -> None:
    import transformers

    model = load_model(f"hf:{small.folder('ast', root)}", device="cpu")
    whole, extractor = small.whole("ast"), small.extractor("ast")
    for clip in sounds(small.RATE):
        frames = 1 + (len(clip) - 400) // 160
        columns = (frames - 16) // 10 + 1
        config = transformers.ASTConfig(**{**small.KINDS["ast"][2], "max_length": frames})
        cropped = transformers.ASTModel(config).eval()
        state = whole.state_dict()
        positions = state["embeddings.position_embeddings"]
        grid = positions[0, 2:].reshape(5, 12, 32)[:, :columns].reshape(-1, 32)
        state["embeddings.position_embeddings"] = torch.cat([positions[:, :2], grid[None]], dim=1)
        cropped.load_state_dict(state)
        extractor.max_length = frames
        with torch.inference_mode():
            given = extractor(clip, sampling_rate=small.RATE, return_tensors="pt")["input_values"]
            expected = cropped(given).last_hidden_state[0, 2:].mean(dim=0)
        assert np.abs(model.embed([clip], small.RATE)[0] - expected.numpy()).max() < 1e-4 * expected.abs().max()


def test_whisper_counts_a_clips_own_tokens_alone(root: Path) -> None:
    path = small.folder("whisper", root)
    clips = [*sounds(small.RATE), *sounds(small.RATE, (2.5,)), np.full(1, 0.1, np.float32)]
    native = load_model(f"hf:{path}", device="cpu").embed(clips, small.RATE)
    official = load_model(f"hf:{path}", device="cpu", input="official").embed(clips, small.RATE)
    for clip, own, all_of_it in zip(clips, native, official, strict=True):
        tokens = plain("whisper", clip).last_hidden_state[0]
        assert near(own, tokens[: -(-len(clip) // 320)].mean(dim=0))
        assert near(all_of_it, tokens.mean(dim=0))


@pytest.mark.parametrize("kind", ["clap", "clap-fusion"])
def test_clap_gives_the_audio_features_of_one_fixed_crop(kind: str, root: Path) -> None:
    path = small.folder(kind, root)
    clips = sounds(48_000, (0.3, 1.0, 1.7))
    model = load_model(f"hf:{path}", device="cpu")
    assert (model.sample_rate, model.poolings[0]) == (48_000, "projection")
    found = model.embed(clips, 48_000)
    assert np.array_equal(found, model.embed(clips, 48_000))
    mean = load_model(f"hf:{path}", device="cpu", pooling="mean").embed(clips, 48_000)
    for clip, one, pooled in zip(clips, found, mean, strict=True):
        output = plain(kind, clip[:48_000])  # all of it where it is not longer
        assert near(one, output.pooler_output[0])
        assert near(pooled, output.last_hidden_state[0].flatten(1).mean(dim=1))


@pytest.mark.parametrize("kind", list(small.KINDS))
def test_every_family_keeps_to_the_contract(kind: str, root: Path) -> None:
    model = load_model(f"hf:{small.folder(kind, root)}", device="cpu")
    failed = [outcome for outcome in check(model) if not outcome.passed]
    assert not failed
