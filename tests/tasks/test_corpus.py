"""The training corpus: no number is spoken, and what validation hears no training clip has."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from uamix_bench.tasks import corpus, corpus_speech as speech

needs_espeak = pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")


def test_made_up_words_are_of_one_to_three_syllables() -> None:
    draw = np.random.default_rng(0)
    words = [speech.made_up_word(draw) for _ in range(200)]
    assert all(word.isalpha() for word in words)
    assert len(set(words)) > 150
    assert max(map(len, words)) <= 3 * 4 + 2


@needs_espeak
def test_numbers_and_letters_are_recognised_by_their_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "LANGUAGES", ("de", "en-us", "it"))
    speech.all_numbers.cache_clear()
    for language, words in {
        "en-us": "seven ate too sevenfold b",
        "de": "drei zwei siebenmal",
        "it": "nove otto",
    }.items():
        for word in words.split():
            (spoken,) = speech.phonemes(language, [word])
            assert speech.is_number(language, spoken), word
    assert not speech.is_number("de", *speech.phonemes("de", ["takobi"]))
    assert speech.espeak(speech.Voice("en-us", "f2"), "seven", 150, 50) is None
    speech.all_numbers.cache_clear()


@needs_espeak
def test_a_made_up_word_is_spoken_without_silence_around_it() -> None:
    samples = speech.espeak(speech.Voice("de", "f2"), "takobi", 150, 50)
    assert samples is not None
    assert 0.2 * 16_000 < len(samples) < 1.5 * 16_000
    assert min(abs(samples[0]), abs(samples[-1])) > 0.009 * np.abs(samples).max()


@pytest.mark.parametrize("text", ["Premere 1 per", "Ha due messaggi", "trentatré", "cento", "[toni]", "un secondo"])
def test_a_prompt_with_a_number_is_left_out(text: str) -> None:
    assert speech._ITALIAN_NUMBERS.search(text)
    assert not speech._ITALIAN_NUMBERS.search("Prego digitare la propria password seguita dal tasto cancelletto.")


def test_held_out_names_are_of_no_training_clip() -> None:
    names = [f"voice {number}" for number in range(23)]
    train, valid = corpus._held_out(names, False), corpus._held_out(names, True)
    assert not set(train) & set(valid)
    assert sorted(train + valid) == sorted(names)
    assert len(valid) == 5
