"""Survey of a folder whose faults were put there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from uamix_bench.data.survey import survey
from uamix_bench.data.task import load_task


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Two classes of three and two clips; one is silent, one is stereo and long, one is broken, two are equal."""
    random = np.random.default_rng(0)
    root = tmp_path / "faulty"
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
    soundfile.write(root / "a" / "0.wav", 0.1 * random.standard_normal(8_000), 16_000)
    soundfile.write(root / "a" / "1.wav", 0.1 * random.standard_normal((32_000, 2)), 8_000)
    soundfile.write(root / "a" / "2.wav", np.full(4_000, 0.25), 16_000)  # an offset is no sound
    (root / "b" / "0.wav").write_bytes((root / "a" / "0.wav").read_bytes())
    (root / "b" / "1.wav").write_bytes(b"RIFF")
    return root


def test_every_fault_is_found(faulty: Path, bench_home: Path) -> None:
    (faulty / "b" / "2.m4a").write_bytes(b"x")
    found = survey(load_task(f"{faulty}/", clip_seconds=2.0, keep_going=True))
    assert {label: size.clips for label, size in found.classes.items()} == {"a": 3, "b": 2}
    assert found.classes["a"].seconds == pytest.approx(0.5 + 4 + 0.25)
    assert found.usable == {"a": 3, "b": 1}
    assert found.fewest == 1
    assert found.groups is None
    assert [clip for clip, _ in found.unread] == ["b/2.m4a"]
    sounds = found.sounds
    assert sounds is not None
    assert sounds.lengths_s == (0.25, 0.5, 4.0)
    assert sounds.cut == 1
    assert sounds.rates == {8_000: 1, 16_000: 3}
    assert sounds.channels == {1: 3, 2: 1}
    assert sounds.silent == ("a/2.wav",)
    assert [(clip, label) for clip, label, _ in sounds.broken] == [("b/1.wav", "b")]
    assert sounds.equal == ((("a/0.wav", "b/0.wav"), ("a", "b")),)


def test_a_table_alone_is_counted_without_its_sounds(tmp_path: Path, bench_home: Path) -> None:
    listed = ["path,label,group,split"]
    for row in range(6):
        (tmp_path / f"{row}.wav").write_bytes(b"no sound")
        listed.append(f"{row}.wav,{'ab'[row % 2]},{row // 2},{'train' if row < 4 else 'test'}")
    (tmp_path / "list.csv").write_text("\n".join(listed))
    found = survey(load_task(str(tmp_path / "list.csv")), sounds=False)
    assert (found.sounds, found.groups, found.splits) == (None, 3, {"test": 2, "train": 4})
    assert found.classes["a"].seconds is None
