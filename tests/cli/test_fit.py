"""``fit`` and ``predict`` from the terminal."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import soundfile

from .conftest import RATE, Bench

MINE = """
import torch
from uamix_bench import AudioModel

class Mine(AudioModel):
    sample_rate, embedding_dim = 16_000, 8

    def frontend(self, waveforms, lengths):
        frames = waveforms[:, : waveforms.shape[1] // 400 * 400].unflatten(1, (-1, 400))
        return torch.fft.rfft(frames).abs()[..., :8] * SCALE, lengths // 400

    def tokens(self, spectrogram, lengths):
        return spectrogram, torch.arange(spectrogram.shape[1]) < lengths[:, None]
"""


def test_a_folder_is_fitted_and_labels_what_comes_later(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    done = bench("fit", "-m", "logmel", "-t", sounds, "-o", tmp_path / "clf")
    assert done.code == 0, done.err
    assert "none: probabilities take 20 clips of each class, and one class has 8" in done.out
    assert f"uamix-bench predict {tmp_path / 'clf'} SOUNDS..." in done.out
    done = bench("predict", tmp_path / "clf", sounds / "low", sounds / "top" / "0.wav", "-o", tmp_path / "out.csv")
    assert done.code == 0, done.err
    assert "scores are no probabilities" in done.err
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert list(rows[0]) == ["path", "start_s", "end_s", "label", "score", "nearest"]
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert len(rows) == 9
    assert rows[-1] == {**rows[-1], "path": str(sounds / "top" / "0.wav"), "start_s": "0.000", "end_s": "0.250"}
    shown = bench("predict", tmp_path / "clf", sounds / "low")
    assert shown.out.splitlines()[0].split() == ["sound", "from", "s", "to", "s", "label", "lead"]
    assert "replaced" not in done.err
    items = bench("predict", tmp_path / "clf", sounds / "low", "--json").envelope
    assert items["score"] == "lead over the next class"
    assert {row["label"] for row in items["items"]} <= {"low", "mid", "high", "top"}


def test_another_classifier_in_the_folder_is_replaced_with_a_word(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    fit = ("fit", "-m", "logmel", "-t", sounds, "-o", tmp_path / "clf")
    assert "replaced" not in bench(*fit).err
    assert f"replaced the classifier that was in {tmp_path / 'clf'}" in bench(*fit, "--classifier", "l2n").err


def test_an_episode_is_fitted_with_the_options_of_fewshot(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    options = ("-m", "logmel", "-t", sounds, "--n", 3, "--k", 2, "--q", 4, "--episodes", 9, "--seed", 3)
    (record,) = bench("fewshot", *options, "--json").envelope["results"]
    (made,) = bench("fit", *options, "--episode", 8, "-o", tmp_path / "clf", "--json").envelope["items"]
    assert made["episode"]["digest"] == record["episodes"]["digest"]
    right = 0
    for label, clips in zip(made["classes"], made["episode"]["query"], strict=True):
        given = [sounds / clip for clip in clips]
        found = bench("predict", tmp_path / "clf", *given, "--first", "--json").envelope["items"]
        right += sum(row["label"] == label for row in found)
    assert right == record["episodes"]["correct"][8]


def test_broken_sounds_are_named_or_set_aside(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    bench("fit", "-m", "logmel", "-t", sounds, "-o", tmp_path / "clf")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    given = ("predict", tmp_path / "clf", tmp_path / "broken.wav", sounds / "low" / "0.wav")
    done = bench(*given)
    assert done.code == 3
    assert "broken.wav" in done.error
    kept = bench(*given, "--keep-going", "--json")
    assert kept.code == 6
    assert len(kept.envelope["items"]) == 1
    assert "broken.wav" in kept.envelope["skipped"][0][0]


def test_a_class_cannot_have_the_label_of_strange_sounds(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    for label, given in (("none of these", "low"), ("high", "high")):
        (tmp_path / "odd" / label).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "odd" / label / f"{number}.wav").write_bytes((sounds / given / f"{number}.wav").read_bytes())
    for more in ((), ("--episode", "0", "--n", "2", "--q", "1")):
        refused = bench("fit", "-m", "logmel", "-t", tmp_path / "odd", "-o", tmp_path / "clf", *more)
        assert refused.code == 2
        assert "has a class 'none of these'" in refused.error


def test_an_edited_encoder_is_refused(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(MINE.replace("SCALE", "1.0"))
    assert bench("fit", "-m", f"{code}:Mine", "-t", sounds, "-o", tmp_path / "clf").code == 0
    lost = bench("predict", tmp_path / "clf", sounds / "low")
    assert lost.code in (2, 3)
    assert "mine.py" in lost.error
    again = ("predict", tmp_path / "clf", sounds / "low", "--model", f"{code}:Mine")
    assert bench(*again).code == 0
    code.write_text(MINE.replace("SCALE", "2.0"))
    done = bench(*again)
    assert done.code == 3
    assert "its encoder is another now (code" in done.error


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["fit", "-t", "{sounds}", "-m", "logmel,random"], 2, "--model: names 2, and a classifier is of one; give one"),
        (["fit", "-t", "{sounds}", "--n", "3"], 2, "--n: is of an episode; give --episode too"),
        (["fit", "-t", "{sounds}", "--protocol", "metaaudio"], 2, "--protocol: is of an episode"),
        (["fit", "-t", "{sounds}", "-o", "{sounds}"], 2, "holds other files (high, low, mid and 1 more); name a new"),
        (["demo", "-o", "{sounds}"], 2, "holds other files (high, low, mid and 1 more); name a new folder"),
        (["fit", "-t", "{sounds}", "--classifier", "svm"], 2, "did you mean 'logistic-regression'?"),
        (["fit", "-t", "{sounds}", "-m", "logmel", "--k", "9"], 2, "is more than the 8 clips of a class"),
        (["fit", "-t", "{sounds}", "-m", "logmel", "--episode", "0"], 2, "5-way episodes need 5 classes"),
        (["fit", "-t", "{sounds}", "-o", "clf.json"], 2, "is named like a file"),
        (["fit", "-t", "{sounds}", "-m", "logmel", "-o", "/dev/null/x"], 4, "/dev/null"),
        (["predict", "nowhere", "{sounds}", "-o", "/dev/null/x.csv"], 4, "/dev/null"),
        (["predict", "nowhere", "{sounds}"], 3, "holds no classifier.json"),
        (["predict", "nowhere"], 2, "SOUNDS: none is given"),
    ],
)
def test_mistakes_are_one_line(
    bench: Bench,
    sounds: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = bench(*(part.format(sounds=sounds) for part in arguments))
    assert done.code == code
    assert line in done.error
    assert not (tmp_path / "uamix-classifier").exists()


def test_sounds_of_other_forms_are_found(
    bench: Bench, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bench("fit", "-m", "logmel", "-t", sounds, "-o", "clf")
    (tmp_path / "flat").mkdir()
    wave, _ = soundfile.read(sounds / "low" / "1.wav")
    soundfile.write(tmp_path / "flat" / "a.flac", wave, RATE)
    (tmp_path / "list.txt").write_text("flat/a.flac\n")
    for given in ("flat", "list.txt", "flat/a.flac"):
        (row,) = bench("predict", "clf", given, "--json").envelope["items"]
        assert row["path"].endswith("flat/a.flac")


def test_a_list_of_segments_is_no_list_of_recordings(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    assert bench("fit", "-m", "logmel", "-t", sounds, "--out", tmp_path / "clf").code == 0
    (tmp_path / "parts.csv").write_text(f"path,start,end\n{next(sounds.rglob('*.wav'))},0,0.1\n")
    done = bench("predict", tmp_path / "clf", tmp_path / "parts.csv")
    assert done.code == 2
    assert "lists segments or rows of files, and whole files are labelled; name the recordings themselves" in done.error
