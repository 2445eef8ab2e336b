"""Overlap of training data with tasks: what papers say of both, in the names that people use."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from uamix_bench.plugins import overlap as module, registry
from uamix_bench.plugins.card import DataSet
from uamix_bench.plugins.overlap import LEVELS, MARKS, MEANINGS, Overlap, known_data_sets, notes, overlap

OVERLAPS, MAY, NONE, UNKNOWN = "overlaps", "may overlap", "none", "unknown"


@pytest.mark.parametrize(
    ("training", "task", "level"),
    [
        # names as cards of the Hub and papers spell them
        (("speech_commands",), "speech-commands", OVERLAPS),
        (("google/speech_commands",), "speech-commands", OVERLAPS),
        (("SpeechCommands",), "speech-commands", OVERLAPS),
        (("ashraq/esc50",), "esc50", OVERLAPS),
        (("ESC-10",), "esc50", OVERLAPS),
        (("AudioSet-2M", "ESC 50"), "esc50", OVERLAPS),
        (("VoxCeleb1, dev",), "voxceleb1", OVERLAPS),
        (("VoxCeleb",), "voxceleb1", OVERLAPS),  # which is both of them
        (("local/birds@ab12",), "local/birds", OVERLAPS),
        # one source, and nothing that keeps the two apart
        (("FSD50K",), "fsdkaggle2018", MAY),
        (("Clotho",), "esc50", MAY),
        (("LAION-Audio-630K",), "esc50", MAY),
        (("AudioSet-2M",), "voxceleb1", MAY),
        (("AudioCaps",), "voxceleb1", MAY),  # of AudioSet, which is of YouTube
        (("VoxCeleb2",), "voxceleb1", MAY),
        (("superb",), "speech-commands", MAY),  # whose part is not said
        # sources that share nothing
        (("AudioSet-2M (through AudioMAE)", "AudioSet-20K"), "nsynth", NONE),
        (("AudioSet-2M",), "esc50", NONE),
        (("librispeech_asr",), "speech-commands", NONE),
        (("none",), "local/birds", NONE),
        # what is not known is said
        ((), "esc50", UNKNOWN),
        (("50 h of our own",), "esc50", UNKNOWN),
        (("AudioSet and 50 h of our own",), "esc50", UNKNOWN),
        (("AudioSet",), "local/birds", UNKNOWN),
        (("superb",), "nsynth", UNKNOWN),  # it holds more than is listed
        (("weights 0123456789ab", "AudioSet"), "esc50", UNKNOWN),
        # the bundled models: the classes of the generated training sounds are in no other split
        (("generated sounds (synthetic:train)",), "synthetic", NONE),
        (("synthetic:train@1",), "synthetic", NONE),
        (("synthetic:test@1",), "synthetic", OVERLAPS),
        (("synthetic",), "synthetic", OVERLAPS),
        (("synthetic speech",), "synthetic", UNKNOWN),
        (("synthetic mixtures",), "esc50", UNKNOWN),
        (("musical instruments",), "instruments", UNKNOWN),
        (("generated sounds (synthetic:train)",), "esc50", NONE),
    ],
)
def test_the_level_follows_from_documented_facts(training: tuple[str, ...], task: str, level: str) -> None:
    found = overlap(training, task)
    assert found.level == level, found.why
    assert found.why


def test_what_bundled_weights_were_trained_on_is_apart_from_the_bundled_sounds() -> None:
    from uamix_bench.tasks.synthesis import classes

    train, test = ({one.label for one in classes(split)} for split in ("train", "test"))
    assert train
    assert not train & test
    for _, weights in registry.bundled_weights().values():
        assert overlap(weights.pretrained_on, "synthetic").level == NONE


def test_more_training_data_never_lowers_the_level() -> None:
    known = [one.names[0] for one in known_data_sets()]
    for task in registry.tasks():
        for name in known:
            alone = LEVELS.index(overlap((name,), task).level)
            assert LEVELS.index(overlap((name, "AudioSet"), task).level) >= alone


def test_every_data_set_has_a_source_and_a_name_of_its_own() -> None:
    listed = known_data_sets()
    names = [re.sub("[^a-z0-9]", "", name.lower()) for one in listed for name in {*one.names}]
    for one in listed:
        assert one.source
        assert one.origins
    own = [name for name in names if names.count(name) > 1]
    assert not set(own) - {"audioset2m", "audioset20k", "as2m", "as20k", "vggsound", "acav100m", "laionaudio630k"}
    with pytest.raises(ValidationError, match="need a source"):
        DataSet(names=("x",), origins=("YouTube",))


def test_a_stranger_s_card_is_believed_where_no_registered_task_states_it() -> None:
    facts = DataSet(names=("Barks",), origins=("Freesound",), source="our page")
    assert overlap(("Barks of 2024",), "barks", facts).level == OVERLAPS
    assert overlap(("FSD50K",), "barks", facts).level == MAY
    assert overlap(("FSD50K",), "barks").level == UNKNOWN
    assert overlap(("FSD50K",), "esc50", DataSet(names=("x",))).level == MAY  # the registered card is not replaced


def test_notes_name_models_and_tasks_once_the_gravest_first() -> None:
    trained, unknown = Overlap(level="overlaps", why="trained on X"), Overlap(level="unknown", why="not stated")
    found = [("a", "x", unknown), ("b", "x", trained), ("c", "x", unknown), ("c", "y", unknown)]
    lines = notes([*found, ("d", "x", Overlap(level="none"))])
    assert [line.split(": ")[0] for line in lines] == ["† b on x", "? a, c on x; c on y"]
    assert set(MARKS) == set(LEVELS)
    assert set(MEANINGS) == set(module.MARKS) - {"none"}
