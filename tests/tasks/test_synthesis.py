"""The synthetic sounds: their splits, their samples on every machine, and what their labels are worth."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from uamix_bench.tasks import synthesis
from uamix_bench.tasks.synthesis import FAMILIES, SoundClass, classes, encode_wav, render
from uamix_bench.tasks.synthesis_signal import Draw, fft_size, filtered, impulses, wave as tone
from uamix_bench.tasks.synthetic import Synthetic

GOLDEN = Path(__file__).with_name(
    "synthesis_golden.csv"
)  # columns: split, label, clip, length, 8 evenly spaced samples
HELD_OUT = {"pluck", "bird"}


def first_of_each_family() -> list[SoundClass]:
    found: dict[str, SoundClass] = {}
    for split in ("test", "valid"):
        for sound_class in classes(split):
            found.setdefault(sound_class.family, sound_class)
    return list(found.values())


def golden_row(sound_class: SoundClass, clip: int) -> list[str]:
    """The row of a clip in GOLDEN; a new VERSION needs the file written anew from these."""
    samples = render(sound_class, clip)
    places = np.linspace(0, len(samples) - 1, 10).astype(int)[1:-1]
    return [sound_class.split, sound_class.label, str(clip), str(len(samples)), *map(str, samples[places])]


def statistics(samples: np.ndarray) -> np.ndarray:
    """Spectral feature that forgets level and length: mean and deviation over time of 24 log bands."""
    frames = np.lib.stride_tricks.sliding_window_view(samples / 32_768, 512)[::256] * np.hanning(512)
    power = np.abs(np.fft.rfft(frames)[:, 1:]) ** 2
    edges = np.unique(np.geomspace(2, 256, 26).astype(int))
    bands = np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e-6)
    bands -= bands.mean()
    return np.concatenate([bands.mean(axis=0), bands.std(axis=0)])


def test_the_splits_have_their_classes_and_share_none() -> None:
    by_split = {split: classes(split) for split in ("train", "valid", "test")}
    assert {split: len(found) for split, found in by_split.items()} == {"train": 400, "valid": 24, "test": 64}
    labels = Counter(found.label for split in by_split.values() for found in split)
    assert set(labels.values()) == {1}
    families = {split: {found.family for found in split_classes} for split, split_classes in by_split.items()}
    assert families["test"] - families["train"] - families["valid"] == HELD_OUT
    assert families["valid"] - families["train"] - families["test"] == {"bubbles"}
    assert set().union(*families.values()) == set(FAMILIES)
    assert len(families["train"]) >= 12
    with pytest.raises(ValueError, match="not in"):
        classes("dev")


@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_classes_of_a_family_overlap(family: str) -> None:
    centres = synthesis._centres(family)
    apart = np.abs(centres[:, None] - centres).max(axis=2) + np.eye(len(centres))
    assert apart.min() > 2 * 0.04  # the cubes of half width 0.04 around the centres are disjoint
    assert centres.shape == (sum(FAMILIES[family].counts), FAMILIES[family].traits)


def test_golden_samples_within_one_step() -> None:
    with GOLDEN.open(newline="") as file:
        rows = list(csv.reader(file))
    seen = {(row[0], row[1]) for row in rows}
    assert seen == {(found.split, found.label) for found in first_of_each_family()}
    for row, sound_class in zip(rows, first_of_each_family(), strict=True):
        now = golden_row(sound_class, int(row[2]))
        assert now[:4] == row[:4]
        assert np.abs(np.array(now[4:], dtype=int) - np.array(row[4:], dtype=int)).max() <= 1, row[1]


def test_a_clip_depends_only_on_its_arguments() -> None:
    wanted = [(sound_class, clip) for sound_class in first_of_each_family() for clip in (0, 7)]
    before = [render(*pair) for pair in wanted]
    np.random.seed(5)  # noqa: NPY002 - the global generator must not matter
    after = [render(*pair) for pair in reversed(wanted)][::-1]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    some = classes("test")[0]
    assert not np.array_equal(render(some, 0)[:4000], render(some, 1)[:4000])
    assert not np.array_equal(render(some, 0)[:4000], render(some, 0, seed=1)[:4000])


@pytest.mark.parametrize("sound_class", first_of_each_family(), ids=lambda found: found.family)
def test_length_level_and_traits(sound_class: SoundClass) -> None:
    for clip in range(8):
        samples = render(sound_class, clip)
        assert samples.dtype == np.int16
        assert 0.3 <= len(samples) / 16_000 <= 2.0
        peak = np.abs(samples.astype(int)).max()
        assert 32_767 * 10 ** (-16.1 / 20) < peak <= 32_767
        assert np.mean(np.abs(samples.astype(int)) >= peak) < 0.01  # no flat tops
        assert np.std(samples) > peak / 100  # not one click in silence
    family = FAMILIES[sound_class.family]
    draw = Draw("any", np.full(family.traits, 0.5))
    assert np.isfinite(family.synthesise(draw, 8000)).all()
    if sound_class.family != "mixture":  # its parts differ in theirs
        assert draw.traits_read == family.traits


def test_clips_of_a_class_are_closer_than_clips_of_a_family() -> None:
    better = []
    for name in FAMILIES:
        found = [c for split in ("test", "valid") for c in classes(split) if c.family == name]
        features = np.array([[statistics(render(c, clip)) for clip in range(6)] for c in found])  # (C, 6, D)
        flat = features.reshape(-1, features.shape[2])
        distance = np.linalg.norm(flat[:, None] - flat, axis=2)
        label = np.repeat(np.arange(len(found)), 6)
        same = label[:, None] == label
        within = distance[same & ~np.eye(len(flat), dtype=bool)].mean()
        better.append(distance[~same].mean() > 1.05 * within)
    assert np.mean(better) > 0.75


def test_normals_are_normal_and_uniforms_uniform() -> None:
    draw = Draw("moments", np.empty(0))
    normals, uniforms = draw.normals(100_000), draw.uniforms(100_000)
    assert abs(normals.mean()) < 0.015
    assert abs(normals.std() - 1) < 0.01
    assert abs(np.mean(normals**4) - 2.7) < 0.1  # 3 - 1.2 / 4: a sum of four uniforms
    assert (uniforms >= 0).all()
    assert (uniforms < 1).all()
    assert np.abs(np.histogram(uniforms, 10, (0, 1))[0] / 10_000 - 1).max() < 0.05


def test_signal_helpers() -> None:
    spectrum = np.abs(np.fft.rfft(tone(np.full(16_000, 500.0), np.array([1.0, 0, 0.5]))))
    assert sorted(np.argsort(spectrum)[-2:]) == [500, 1500]
    np.testing.assert_allclose(spectrum[1500] / spectrum[500], 0.5, rtol=1e-3)
    clicks = impulses(np.array([-1.0, 10.25 / 16_000, 9.0]), np.ones(3), 32)
    np.testing.assert_allclose(clicks[[10, 11]], [0.75, 0.25], atol=1e-9)
    assert clicks.sum() == pytest.approx(1)
    assert [fft_size(n) for n in (1000, 1024, 1025, 1536, 1537)] == [1024, 1024, 1536, 1536, 2048]
    sound = np.random.Generator(np.random.PCG64(1)).normal(size=999)
    np.testing.assert_allclose(filtered(sound, np.ones_like), sound, atol=1e-12)


def test_the_task_lists_every_clip_and_renders_only_what_is_missing(tmp_path: Path) -> None:
    task = Synthetic()
    table = task.clips(tmp_path)
    assert len(set(table["clip"])) == len(table)
    assert table.sizes("split") == {"train": 20_000, "valid": 960, "test": 2560}
    test = table.take(table["split"] == "test")
    assert (len(set(test["label"])), len(test)) == (task.card.classes, task.card.clips)
    rows = test.take([0, 41, 2559])
    task.materialise(rows)
    for path, label in zip(rows["path"], rows["label"], strict=True):
        with wave.open(path) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
            stored = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        sound_class = next(c for c in classes("test") if c.label == label)
        np.testing.assert_array_equal(stored, render(sound_class, int(Path(path).stem)))
    assert sorted(str(path) for path in tmp_path.rglob("*") if path.is_file()) == sorted(rows["path"])
    Path(rows["path"][0]).write_bytes(b"kept")
    task.materialise(rows)
    assert Path(rows["path"][0]).read_bytes() == b"kept"
    Path(rows["path"][1]).write_bytes(b"")
    task.materialise(rows)
    assert Path(rows["path"][1]).stat().st_size > 44


@pytest.mark.over_3s
def test_processes_render_the_same_files_for_a_script_without_a_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""
from pathlib import Path
from uamix_bench import load_task
data = load_task("synthetic", {str(tmp_path)!r})
data.task.materialise(data.table.take(slice(301)))
print(len(data.table))
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("2560\n", "")
    rows = Synthetic().clips(tmp_path / "synthetic").to_pandas().query("split == 'test'").sort_values("clip").iloc[:301]
    row = rows.iloc[277]
    family, number = row["label"].rsplit("-", 1)
    expected = encode_wav(render(SoundClass(row["label"], family, "test", int(number)), 277 % 40))
    assert Path(row["path"]).read_bytes() == expected
    assert all(Path(path).stat().st_size > 44 for path in rows["path"])


def test_encode_wav_round_trip() -> None:
    samples = np.array([0, 1, -1, 32_767, -32_768], dtype=np.int16)
    with wave.open(io.BytesIO(encode_wav(samples))) as file:
        np.testing.assert_array_equal(np.frombuffer(file.readframes(5), dtype="<i2"), samples)
