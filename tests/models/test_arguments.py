"""A model's own arguments: their values and texts, and what a model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from uamix_bench import AudioModel, load_model
from uamix_bench.baselines.logmel import LogMelStatistics
from uamix_bench.embeddings.model_key import model_key
from uamix_bench.models.arguments import canonical, parsed
from uamix_bench.models.contract import check
from uamix_bench.util.errors import UsageError

VALUES = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8))


class Scaled(LogMelStatistics):
    """Log-mel statistics, times a gain."""

    card = LogMelStatistics.card

    def __init__(self, gain: float = 1.0, how: str = "plain") -> None:
        super().__init__()
        self.gain = gain

    def pool(self, *arguments: Any) -> Any:
        return self.gain * super().pool(*arguments)


class Read(Scaled):
    card = LogMelStatistics.card.model_copy(update={"needs_weights": True})

    @classmethod
    def from_checkpoint(cls, path: Path, gain: float = 1.0) -> AudioModel:
        return cls(gain)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["width", "how", "n"]), VALUES))
def test_the_texts_of_arguments_are_read_as_they_were(arguments: dict[str, Any]) -> None:
    again = parsed(canonical(arguments))
    assert again == arguments
    assert {key: type(value) for key, value in again.items()} == {key: type(value) for key, value in arguments.items()}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1", 1), ("1.5", 1.5), ("True", True), ("false", False), ('"1"', "1"), ("x=y", "x=y"), ("", "")),
        *((text, text) for text in ("NaN", "1e999", "null", "[1]")),
    ],
)
def test_values_are_numbers_true_false_or_text(text: str, value: object) -> None:
    assert parsed([f"a={text}"]) == {"a": value}


@pytest.mark.parametrize("texts", [["gain"], ["=1"], ["a b=1"], ["a=1", "a=2"]])
def test_what_is_no_argument_is_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="--model-arg"):
        parsed(texts)


def test_arguments_reach_the_model_and_are_part_of_what_it_is(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).uniform(-0.1, 0.1, 8_000).astype(np.float32)
    (tmp_path / "any.pth").touch()
    plain = load_model(Scaled, device="cpu")
    for model in (
        load_model(Scaled, device="cpu", arguments={"gain": 2}),
        load_model(Read, tmp_path / "any.pth", device="cpu", arguments={"gain": 2}),
    ):
        assert np.array_equal(model.embed([wave], 16_000), 2 * plain.embed([wave], 16_000))
        assert model.identity is not None
        assert model.identity.arguments == ("gain=2",)
    doubled = load_model(Scaled, device="cpu", arguments={"gain": 2})
    assert model_key(doubled).fingerprint != model_key(plain).fingerprint
    assert plain.identity is not None
    assert "arguments" not in plain.identity.model_dump()
    assert [outcome for outcome in check(doubled) if not outcome.passed] == []


@pytest.mark.parametrize("name", [Scaled, "logmel", "uamix-tiny"])
def test_an_argument_that_a_model_does_not_take_is_refused(name: Any) -> None:
    with pytest.raises(UsageError, match="--model-arg gian: is no argument of") as caught:
        load_model(name, device="cpu", arguments={"gian": 2})
    assert ("did you mean 'gain'?" in str(caught.value)) == (name is Scaled)
