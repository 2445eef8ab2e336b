"""Embedding a task: right vectors, in the order asked for, each content once, whatever breaks meanwhile."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
import types
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from uamix_bench.data import audio
from uamix_bench.data.clip_table import ClipTable
from uamix_bench.data.sound import Sound
from uamix_bench.data.task import Task, TaskData
from uamix_bench.embeddings import batching, embedding
from uamix_bench.embeddings.cache import EmbeddingCache
from uamix_bench.embeddings.embedding import Embeddings, embed
from uamix_bench.embeddings.model_key import model_key
from uamix_bench.models.loading import load_model
from uamix_bench.models.model import AudioModel
from uamix_bench.plugins.card import ModelCard, Segments, TaskCard
from uamix_bench.scoring.health import check
from uamix_bench.storage.digests import FileDigests
from uamix_bench.util import threads
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.progress import Progress

RATE = 8_000
WINDOW = 800  # samples in a token of the fake model


class Moments(AudioModel):
    """Mean, mean square and first sample; batches are recorded."""

    card = ModelCard(name="moments", title="moments", licence="none", sample_rate=RATE, embedding_dim=3, parameters=1)
    sample_rate = RATE
    embedding_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.batches: list[list[int]] = []
        self.requires_grad_(False)

    def token_columns(self, samples: int) -> int:
        return -(-samples // WINDOW)

    def embed(self, waveforms: Sequence, sample_rate: int) -> np.ndarray:
        assert sample_rate == RATE
        self.batches.append([len(wave) for wave in waveforms])
        return super().embed(waveforms, sample_rate)

    def frontend(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = waveforms[:, :1].expand_as(waveforms)
        return torch.stack([waveforms, waveforms.square(), first], dim=2) * self.scale, lengths

    def tokens(self, spectrogram: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return spectrogram, torch.arange(spectrogram.shape[1]) < lengths[:, None]

    @property
    def clips(self) -> int:
        return sum(map(len, self.batches))


class Bench(Task):
    """A task of a folder of sounds."""

    card = TaskCard(
        name="bench", title="bench", licence="none", version="1", clip_seconds=1.5, label="none", group="none"
    )


def task(paths: Sequence[Path]) -> TaskData:
    names = [path.name for path in paths]
    table = ClipTable.of_rows((name, str(path), "x", name, "") for name, path in zip(names, paths, strict=True))
    return TaskData(Bench(), Bench.card, paths[0].parent, table)


def sound(path: Path, seconds: float, seed: int, rate: int = RATE) -> Path:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate))
    soundfile.write(path, samples + seed / 1_000, rate)
    return path


@pytest.fixture
def sounds(tmp_path: Path) -> list[Path]:
    """40 sounds of 0.1 to 2.05 seconds; the task crops at 1.5."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    return [sound(folder / f"{index:02}.wav", 0.1 + 0.05 * index, index) for index in range(40)]


def expected(paths: Sequence[Path]) -> np.ndarray:
    """The fake model's embeddings, by numpy alone."""
    waves = [soundfile.read(path, dtype="float64")[0][: round(1.5 * RATE)] for path in paths]
    return np.array([[wave.mean(), (wave**2).mean(), wave[0]] for wave in waves])


def assert_right(done: Embeddings, paths: Sequence[Path]) -> None:
    assert done.vectors.dtype == np.float32
    assert done.vectors.flags.c_contiguous
    assert done.valid.all()
    assert not done.skipped
    np.testing.assert_allclose(done.vectors, expected(paths), atol=1e-6)


@pytest.mark.parametrize("cache", [True, False])
def test_vectors_come_in_the_order_asked_for(sounds: list[Path], bench_home: Path, cache: bool) -> None:
    rows = np.random.default_rng(0).integers(0, 40, 100)  # some never, some often
    model = Moments()
    assert_right(embed(model, task(sounds), rows, cache=cache), [sounds[row] for row in rows])
    assert model.clips == len(set(rows.tolist()))
    assert bench_home.exists() == cache


@pytest.mark.usefixtures("bench_home")
def test_the_second_run_embeds_nothing(sounds: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = embed(Moments(), task(sounds), np.arange(40))
    assert first.embedded_clips == 40
    monkeypatch.setattr(audio, "read", None)
    model = Moments()
    second = embed(model, task(sounds), np.arange(40)[::-1])
    assert (second.embedded_clips, model.clips) == (0, 0)
    np.testing.assert_array_equal(second.vectors, first.vectors[::-1])
    assert second.keys == first.keys[::-1]


@pytest.mark.usefixtures("bench_home")
def test_only_what_is_asked_for_and_new_is_decoded(sounds: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    real = audio.read
    monkeypatch.setattr(
        audio, "read", lambda sound, *args, **options: read.append(Path(sound.path)) or real(sound, *args, **options)
    )
    embed(Moments(), task(sounds), np.array([3, 7]))
    assert sorted(read) == [sounds[3], sounds[7]]
    assert embed(Moments(), task(sounds), np.array([7, 8, 3])).embedded_clips == 1
    assert read[2:] == [sounds[8]]


@pytest.mark.usefixtures("bench_home")
@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("held", [1_000, 10**9])
def test_batches_need_no_padding(
    sounds: list[Path], batch_size: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "_HELD", held)
    model = Moments()
    assert_right(embed(model, task(sounds), np.arange(40), batch_size=batch_size), sounds)
    for batch in model.batches:
        assert len(batch) <= batch_size
        assert len({model.token_columns(samples) for samples in batch}) == 1
    if batch_size == 64 and held > 1_000:
        assert len(model.batches) == 15  # 0.1 to 1.5 s in tokens of 0.1 s


@pytest.mark.usefixtures("bench_home")
def test_a_real_encoder_gives_each_clip_what_it_gets_alone(sounds: list[Path]) -> None:
    model = load_model("random", device="cpu")
    chosen = sounds[:12]
    done = embed(model, task(chosen), np.arange(12), batch_size=5)
    for path, vector in zip(chosen, done.vectors, strict=True):
        samples = audio.read(path, model.sample_rate, max_seconds=1.5).samples
        np.testing.assert_allclose(vector, model.embed([samples], model.sample_rate)[0], atol=1e-5)
    assert check(done.vectors, done.keys, done.silent).verdict == "green"


@pytest.mark.usefixtures("bench_home")
def test_one_content_is_embedded_once(sounds: list[Path]) -> None:
    copy = sounds[0].with_name("copy.wav")
    copy.write_bytes(sounds[5].read_bytes())
    paths = [*sounds[:8], copy]
    done = embed(Moments(), task(paths), np.arange(9))
    assert_right(done, paths)
    assert done.embedded_clips == 8
    assert done.keys[8] == done.keys[5]
    assert len(set(done.keys)) == 8


@pytest.mark.usefixtures("bench_home")
def test_a_sound_that_changes_is_embedded_again(sounds: list[Path]) -> None:
    embed(Moments(), task(sounds), np.arange(40))
    sound(sounds[4], 0.3, 99)
    done = embed(Moments(), task(sounds), np.arange(40))
    assert_right(done, sounds)
    assert done.embedded_clips == 1


@pytest.mark.usefixtures("bench_home")
@pytest.mark.parametrize("segments", ["first", "mean"])
def test_a_sound_that_changes_while_it_is_embedded_is_refused(
    sounds: list[Path], monkeypatch: pytest.MonkeyPatch, segments: Segments
) -> None:
    """Between its digest and its decoding: its embedding must not be kept for the sound that was digested."""
    before = sounds[7].read_bytes()
    digest = embedding.sound_digests

    def digest_first(*arguments: Any, **options: Any) -> FileDigests:
        found = digest(*arguments, **options)
        sounds[3].touch()  # by itself no change
        sound(sounds[7], 0.45, 99)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(embedding, "sound_digests", digest_first)
        with pytest.raises(BadInputError, match=r"07\.wav: changed while it was read"):
            embed(Moments(), task(sounds), np.arange(40), segments=segments)
    sounds[7].write_bytes(before)
    assert_right(embed(Moments(), task(sounds), np.arange(20)), sounds[:20])


@pytest.mark.usefixtures("bench_home")
def test_silence_is_known_with_and_without_the_cache(tmp_path: Path) -> None:
    paths = [sound(tmp_path / "a noise.wav", 0.2, 0)]
    for name, level in (("b zero", 0.0), ("c constant", 0.25)):
        paths.append(tmp_path / f"{name}.wav")
        soundfile.write(paths[-1], np.full(2_000, level), RATE)
    for embedded in (3, 0):
        done = embed(Moments(), task(paths), np.arange(3))
        assert done.silent.tolist() == [False, True, True]
        assert done.embedded_clips == embedded


def break_some(sounds: list[Path]) -> list[int]:
    """Breaks five sounds, each in a way of its own; returns which."""
    sounds[30].write_bytes(b"")
    sounds[3].write_bytes(b"<!doctype html><p>not found")
    sounds[11].unlink()
    sounds[20].write_bytes(sounds[20].read_bytes()[:-4_000])
    soundfile.write(sounds[25], np.array([0.0, np.nan, 0.1]), RATE, subtype="FLOAT")
    return [3, 11, 20, 25, 30]


@pytest.mark.usefixtures("bench_home")
def test_all_broken_clips_are_named_at_once(sounds: list[Path]) -> None:
    broken = break_some(sounds)
    with pytest.raises(BadInputError) as raised:
        embed(Moments(), task(sounds), np.arange(40))
    line = str(raised.value)
    assert "\n" not in line
    assert line.startswith("5 of 40 clips: broken (")
    assert [str(sounds[index]) in line for index in broken] == [True, True, True, False, False]
    assert "no such file" in line
    assert "; and 2 more)" in line
    assert "--keep-going" in line


@pytest.mark.usefixtures("bench_home")
def test_one_broken_clip_is_the_subject(sounds: list[Path]) -> None:
    sounds[1].write_bytes(b"")
    with pytest.raises(BadInputError) as raised:
        embed(Moments(), task(sounds), np.arange(40))
    assert raised.value.subject == str(sounds[1])
    assert raised.value.exit_code == 3
    assert_right(embed(Moments(), task(sounds), np.arange(2, 40)), sounds[2:])  # what is not asked for may be broken


@pytest.mark.usefixtures("bench_home")
def test_a_clip_that_hangs_its_decoder_is_broken(sounds: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that hang each is named, the others are embedded, and nothing is kept of the two."""
    release, lines = threading.Event(), []
    real = audio.read

    def read(sound: Sound, *arguments: object, **options: object) -> object:
        if sound.path.endswith(("07.wav", "21.wav")):
            release.wait()
        return real(sound, *arguments, **options)  # type: ignore[arg-type]

    for name, seconds in (("SLOW_S", 0.1), ("PATIENCE_S", 0.5), ("_PARTING_S", 0.1)):
        monkeypatch.setattr(threads, name, seconds)
    progress = Progress()
    monkeypatch.setattr(progress, "say", lines.append)
    with monkeypatch.context() as patch:
        patch.setattr(audio, "read", read)
        with pytest.raises(BadInputError, match=r"2 of 40 clips: broken .*07.wav: is not decoded after .*21.wav"):
            embed(Moments(), task(sounds), np.arange(40), progress=progress)
        done = embed(Moments(), task(sounds), np.arange(40), keep_going=True, progress=progress)
    release.set()
    assert any(line.startswith(f"{sounds[7]}: still decoding after") for line in lines)
    assert [clip for clip, _ in done.skipped] == ["07.wav", "21.wav"]
    assert np.flatnonzero(~done.valid).tolist() == [7, 21]
    again = embed(Moments(), task(sounds), np.arange(40))
    assert_right(again, sounds)
    assert again.embedded_clips == 2


@pytest.mark.usefixtures("bench_home")
def test_keep_going_sets_broken_clips_aside(sounds: list[Path]) -> None:
    right = expected(sounds)
    broken = break_some(sounds)
    copy = sounds[0].with_name("copy.wav")
    copy.write_bytes(sounds[3].read_bytes())  # broken twice
    for embedded in (35, 0):
        done = embed(Moments(), task([*sounds, copy]), np.arange(41), keep_going=True)
        assert np.flatnonzero(~done.valid).tolist() == [*broken, 40]
        assert [skipped.clip for skipped in done.skipped] == [*(sounds[index].name for index in broken), "copy.wav"]
        assert all(skipped.reason and str(sounds[0].parent) not in skipped.reason for skipped in done.skipped)
        np.testing.assert_allclose(done.vectors[done.valid], right[done.valid[:40]], atol=1e-6)
        assert not done.vectors[~done.valid].any()
        assert done.embedded_clips == embedded


class Fails(Moments):
    """Ends in the middle."""

    how = "raise"
    after = 20

    def embed(self, waveforms: Sequence, sample_rate: int) -> np.ndarray:
        if self.clips >= self.after:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt
        return super().embed(waveforms, sample_rate)


@pytest.mark.usefixtures("bench_home")
def test_an_interrupted_run_continues(sounds: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        embed(Fails(), task(sounds), np.arange(40), batch_size=2)
    monkeypatch.setattr(Fails, "after", 99)
    done = embed(Fails(), task(sounds), np.arange(40), batch_size=2)
    assert done.embedded_clips == 20
    assert_right(done, sounds)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("bench_home")
def test_a_killed_run_continues(sounds: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_KEPT_EVERY", 6)
    child = os.fork()
    if not child:
        Fails.how = "kill"
        torch.set_num_threads(1)  # OpenMP's other threads did not come along
        signal.alarm(120)
        try:
            embed(Fails(), task(sounds), np.arange(40), batch_size=2)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    monkeypatch.setattr(Fails, "after", 99)
    done = embed(Fails(), task(sounds), np.arange(40), batch_size=2)
    assert done.embedded_clips == 40 - 18
    assert not done.warnings
    assert_right(done, sounds)


def test_an_unwritable_cache_is_a_warning(sounds: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UAMIX_BENCH_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setattr("uamix_bench.storage.digests._RACY_S", -60.0)
    done = embed(Moments(), task(sounds), np.arange(40))
    assert_right(done, sounds)
    assert len(done.warnings) == 2
    assert all("goes on" in line for line in done.warnings)


@pytest.mark.usefixtures("bench_home")
def test_a_damaged_cache_is_computed_again(sounds: list[Path]) -> None:
    model = Moments()
    embed(model, task(sounds), np.arange(40))
    (shard,) = EmbeddingCache(model_key(model)).folder.glob("*.shard")
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    for embedded in (1, 0):
        done = embed(Moments(), task(sounds), np.arange(40))
        assert_right(done, sounds)
        assert done.embedded_clips == embedded
        assert len(done.warnings) == embedded


@pytest.mark.usefixtures("bench_home")
def test_embeddings_that_are_not_finite_are_given_and_not_kept(sounds: list[Path]) -> None:
    model = Moments()
    model.scale.fill_(torch.inf)
    for _ in range(2):
        done = embed(model, task(sounds), np.arange(40))
        assert done.embedded_clips == 40
        assert check(done.vectors, done.keys, done.silent).verdict == "red"


@pytest.mark.usefixtures("bench_home")
def test_a_model_that_gives_another_shape_is_named(sounds: list[Path]) -> None:
    class Lies(Moments):
        def embed(self, waveforms: Sequence, sample_rate: int) -> np.ndarray:
            return super().embed(waveforms, sample_rate)[:1]  # would broadcast

    with pytest.raises(BadInputError, match=r"moments: has shape \(1, 3\) where \(\d+, 3\) is due"):
        embed(Lies(), task(sounds), np.repeat(np.arange(40), 2))


@pytest.mark.usefixtures("bench_home")
def test_two_classes_of_one_file_share_nothing(sounds: list[Path]) -> None:
    class Unlike(Moments):
        """Another class of this file, with the same card and weights."""

        def pool(self, tokens: torch.Tensor, mask: torch.Tensor, how: str) -> torch.Tensor:
            return super().pool(tokens, mask, how) + 1

    embed(Moments(), task(sounds), np.arange(4))
    assert embed(Unlike(), task(sounds), np.arange(4)).embedded_clips == 4


@pytest.mark.usefixtures("bench_home")
def test_what_may_change_embeddings_changes_the_key(sounds: list[Path]) -> None:
    model = Moments()
    before = asdict(model_key(model))
    embed(model, task(sounds), np.arange(40))

    def changed() -> set[str]:
        now = asdict(model_key(model))
        return {name for name in before if now[name] != before[name]}

    assert not changed()
    model.scale.mul_(2)  # as tuning does, whatever the file said
    assert changed() == {"state_sha256"}
    np.testing.assert_allclose(embed(model, task(sounds), np.arange(40)).vectors, 2 * expected(sounds), atol=1e-6)
    model.scale.div_(2)
    for name, value in (("pooling", "cls"), ("input", "official"), ("sample_rate", 1), ("embedding_dim", 1)):
        old = getattr(model, name)
        setattr(model, name, value)
        assert changed() == {name}
        setattr(model, name, old)
    model.adapter_version = "2"
    assert changed() == {"adapter_version"}


def test_weights_with_a_known_file_are_watched_too() -> None:
    model = load_model("random", device="cpu")
    assert model_key(model).source_sha256 is None  # the project's own code has a version
    model.identity = model.identity.model_copy(update={"weights_sha256": "c" * 64})
    first = model_key(model)
    assert first.weights_sha256 == "c" * 64
    next(model.parameters())[0, 0] += 1
    assert model_key(model).state_sha256 != first.state_sha256
    model.identity = model.identity.model_copy(update={"name": "other", "dtype": "bf16"})
    assert model_key(model).dtype == "bfloat16"


ADAPTER = """
    from uamix_bench.baselines.random import RandomEncoder
    import {helper}
    class Mine(RandomEncoder):
        def pool(self, tokens, mask, how):
            return super().pool(tokens, mask, how) * {factor}
"""


def stranger(folder: Path, factor: int, helper: str = "math") -> AudioModel:
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(textwrap.dedent(ADAPTER.format(factor=factor, helper=helper)))
    return load_model(f"{folder / 'mine.py'}:Mine", device="cpu")


def test_a_strangers_code_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    one = stranger(tmp_path / "a", 1)
    two = stranger(tmp_path / "b", 22)  # of the same name, and imported under it
    same = stranger(tmp_path / "c", 22)
    keys = [model_key(model) for model in (one, two, same)]
    assert keys[0].source_sha256 != keys[1].source_sha256
    assert keys[1].fingerprint == keys[2].fingerprint
    assert asdict(keys[0]) | {"source_sha256": None} == asdict(keys[1]) | {"source_sha256": None}


def test_what_a_stranger_imports_from_beside_is_part_of_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "mine_helper.py").write_text("LEVEL = 1")
    first = model_key(stranger(tmp_path, 1, "mine_helper"))
    (tmp_path / "mine_helper.py").write_text("LEVEL = 2")
    assert model_key(stranger(tmp_path, 1, "mine_helper")).source_sha256 != first.source_sha256
    monkeypatch.delitem(sys.modules, "mine_helper")


def test_code_typed_at_a_prompt_is_not_cached(sounds: list[Path], bench_home: Path) -> None:
    module = types.ModuleType("prompt")
    exec(
        "class Typed(Moments):\n    def layers(self):\n        return []",
        {"Moments": Moments, "__name__": "prompt"},
        vars(module),
    )
    for _ in range(2):
        done = embed(module.Typed(), task(sounds), np.arange(5))
        assert_right(done, sounds[:5])
        assert done.embedded_clips == 5
        assert "not in a file" in done.warnings[0]
    assert {shard.parent.name for shard in bench_home.rglob("*.shard")} <= {"files"}  # digests of the sounds, at most


# --- the mean over segments


def by_segment(path: Path, seconds: float = 1.5) -> np.ndarray:
    """The fake model's embedding of every segment by hand: whole ones, and a remainder of half of one or more."""
    wave, size = soundfile.read(path, dtype="float64")[0], round(seconds * RATE)
    parts = [wave[start : start + size] for start in range(0, len(wave), size)]
    if len(parts) > 1 and 2 * len(parts[-1]) < size:
        parts.pop()
    return np.mean([[part.mean(), (part**2).mean(), part[0]] for part in parts], axis=0)


@pytest.mark.usefixtures("bench_home")
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_segments_are_averaged_as_by_hand(tmp_path: Path, batch_size: int) -> None:
    lengths_s = [0.4, 1.5, 2.2, 2.3, 3.0, 5.9, 16.4, 1.4, 31.0, 4.5]
    paths = [sound(tmp_path / f"{index}.wav", seconds, index) for index, seconds in enumerate(lengths_s)]
    rows, model = np.array([3, 0, 6, 1, 2, 4, 5, 9, 8, 7, 3]), Moments()
    done = embed(model, task(paths), rows, batch_size=batch_size, segments="mean")
    np.testing.assert_allclose(done.vectors, [by_segment(paths[row]) for row in rows], atol=1e-6)
    assert done.embedded_clips == len(paths)
    assert model.clips == sum([1, 1, 1, 2, 2, 4, 11, 1, 21, 3])  # segments of each length
    assert max(map(len, model.batches)) <= batch_size
    again = embed(model, task(paths), rows, segments="mean")
    assert again.embedded_clips == 0
    assert np.array_equal(again.vectors, done.vectors)
    first = embed(model, task(paths), rows)  # never from the other rule's cache
    np.testing.assert_allclose(first.vectors, expected([paths[row] for row in rows]), atol=1e-6)
    assert first.embedded_clips == len(paths)
    assert not set(first.keys) & set(done.keys)


@pytest.mark.usefixtures("bench_home")
def test_a_real_encoder_averages_segments_as_by_hand(tmp_path: Path) -> None:
    model = load_model("uamix-tiny")
    data = task([sound(tmp_path / f"{index}.wav", seconds, index) for index, seconds in enumerate((0.5, 3.1, 4.0))])
    done = embed(model, data, np.arange(3), segments="mean")
    for row, count in enumerate((1, 2, 3)):
        path = Path(data.table["path"][row])
        parts = [
            audio.read(path, model.sample_rate, max_seconds=1.5, offset=1.5 * index).samples for index in range(count)
        ]
        alone = np.concatenate([model.embed([part], model.sample_rate) for part in parts]).mean(axis=0)
        np.testing.assert_allclose(done.vectors[row], alone, atol=1e-5 * np.abs(alone).max())


@pytest.mark.usefixtures("bench_home")
def test_a_clip_whose_later_segments_are_broken_is_set_aside(tmp_path: Path) -> None:
    paths = [sound(tmp_path / f"{index}.flac", 30.0, index) for index in range(3)]
    paths[1].write_bytes(paths[1].read_bytes()[: paths[1].stat().st_size * 3 // 4])
    rows = np.arange(3)
    with pytest.raises(BadInputError, match=r"1\.flac.*--keep-going"):
        embed(Moments(), task(paths), rows, segments="mean")
    done = embed(Moments(), task(paths), rows, segments="mean", keep_going=True)
    assert done.valid.tolist() == [True, False, True]
    np.testing.assert_allclose(done.vectors[[0, 2]], [by_segment(paths[row]) for row in (0, 2)], atol=1e-6)
    assert [clip for clip, _ in done.skipped] == ["1.flac"]


@pytest.mark.usefixtures("bench_home")
def test_silence_is_the_whole_clips(tmp_path: Path) -> None:
    for name, starts in (("late.wav", 4.0), ("never.wav", 99.0)):
        wave = 0.1 * (np.arange(round(6.0 * RATE)) > starts * RATE) * np.sin(np.arange(round(6.0 * RATE)))
        soundfile.write(tmp_path / name, wave, RATE)
    paths = [tmp_path / "late.wav", tmp_path / "never.wav"]
    assert embed(Moments(), task(paths), np.arange(2)).silent.tolist() == [True, True]
    assert embed(Moments(), task(paths), np.arange(2), segments="mean").silent.tolist() == [False, True]
