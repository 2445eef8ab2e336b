"""Frames on the disk: decoded once, by whichever process, continued after a kill, damage found, nothing broken kept."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from uamix_bench.embeddings import housekeeping
from uamix_bench.models.frontend import KaldiFbank
from uamix_bench.tuning import decoding
from uamix_bench.tuning.data import Frames, load_frames
from uamix_bench.tuning.sounds import find_data
from uamix_bench.util import threads
from uamix_bench.util.errors import BadInputError, MachineError, Stopped
from uamix_bench.util.progress import Progress

FBANK = KaldiFbank(16_000, window="hanning")


class Heard(Progress):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """150 short sounds, more than two blocks; the third is broken."""
    rng = np.random.default_rng(0)
    made = tmp_path / "sounds"
    (made / "deep" / "er").mkdir(parents=True)
    for number in range(150):
        place = made / ("deep/er" if number % 2 else "")
        soundfile.write(place / f"{number:03d}.wav", rng.normal(0, 0.1, 1_600 + 40 * number), 16_000)
    (made / "002.wav").write_bytes((made / "002.wav").read_bytes()[:2_000])
    return made


def load(folder: Path, **options: object) -> Frames:
    return load_frames(find_data(str(folder)), FBANK, 16_000, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Own:
    """A user's own front end, whose code no digest knows."""

    num_mel_bins: int = 128

    def __call__(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return FBANK(waveforms, lengths)


def test_frames_of_a_user_s_own_front_end_are_not_stored(folder: Path, bench_home: Path) -> None:
    data = find_data(str(folder))
    assert same(load_frames(data, Own(), 16_000), load_frames(data, FBANK, 16_000))
    assert len(list((bench_home / "frames").iterdir())) == 1


def store(home: Path) -> Path:
    (found,) = (home / "frames").iterdir()
    return found


def same(one: Frames, other: Frames) -> bool:
    arrays = ("values", "first", "count", "recordings")
    return one.skipped == other.skipped and all(np.array_equal(getattr(one, a), getattr(other, a)) for a in arrays)


def test_frames_are_those_of_the_front_end_and_broken_clips_are_named(folder: Path, bench_home: Path) -> None:
    heard = Heard()
    frames = load(folder, progress=heard)
    assert len(frames) == 149
    ((clip, reason),) = frames.skipped
    assert clip == "002.wav"
    assert "truncated" in reason
    assert heard.lines == ["skipped 1 of 150 clips that cannot be read", f"skipped 002.wav: {reason}"]
    wave, _ = soundfile.read(folder / "003.wav" if (folder / "003.wav").exists() else folder / "deep/er/003.wav")
    values, _ = FBANK(torch.from_numpy(wave).float()[None], torch.tensor([len(wave)]))
    clips = [clip for clip in find_data(str(folder)).table["clip"] if clip != "002.wav"]
    row = clips.index("deep/er/003.wav")
    mine = frames.values[frames.first[row] : frames.first[row] + frames.count[row]]
    np.testing.assert_allclose(mine.astype(np.float32), values[0].numpy(), atol=0.01)


def test_a_second_time_nothing_is_decoded_and_the_file_is_mapped(
    folder: Path, bench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(folder)
    monkeypatch.setattr(decoding, "read", lambda *_, **__: pytest.fail("decoded twice"))
    again = load(folder)
    assert same(first, again)
    assert isinstance(again.values.base, np.memmap)


SCRIPT = """
from uamix_bench.models.frontend import KaldiFbank
from uamix_bench.tuning.data import load_frames
from uamix_bench.tuning.sounds import find_data
print(len(load_frames(find_data({folder!r}), KaldiFbank(16_000, window="hanning"), 16_000, workers=2)))
"""


def test_workers_give_the_same_bits_in_a_script_without_a_main_guard_too(
    folder: Path, bench_home: Path, tmp_path: Path
) -> None:
    load(folder, workers=1)
    written = [(store(bench_home) / name).read_bytes() for name in ("values", "journal")]
    (store(bench_home) / "journal").unlink()
    (tmp_path / "script.py").write_text(SCRIPT.format(folder=str(folder)))
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("149\n", "")
    assert [(store(bench_home) / name).read_bytes() for name in ("values", "journal")] == written


@pytest.mark.parametrize("stop_after", [1, 2])
def test_decoding_that_is_stopped_continues(stop_after: int, folder: Path, bench_home: Path) -> None:
    asked = iter(range(1, 9))
    with pytest.raises(Stopped, match=f"stopped after {64 * stop_after} of 150 clips"):
        load(folder, stop=lambda: next(asked) >= stop_after)
    begun = (store(bench_home) / "values").read_bytes()
    frames = load(folder)
    whole = (store(bench_home) / "values").read_bytes()
    assert whole.startswith(begun)
    assert len(whole) > len(begun)
    assert len(frames) == 149


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_decoding_that_is_killed_continues_to_the_same_frames(folder: Path, bench_home: Path) -> None:
    whole = load(folder)
    for path in store(bench_home).iterdir():
        path.unlink()
    rng = np.random.default_rng(0)
    for _ in range(6):
        child = os.fork()
        if not child:
            torch.set_num_threads(1)
            load(folder)
            os._exit(0)
        time.sleep(float(rng.uniform(0.01, 0.25)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert same(whole, load(folder))


@pytest.mark.parametrize(
    "damage",
    [
        lambda values, journal: values.write_bytes(values.read_bytes()[:-1_000]),
        lambda values, journal: values.write_bytes(b"\0" + values.read_bytes()[1:]),
        lambda values, journal: values.unlink(),
        lambda values, journal: journal.write_bytes(journal.read_bytes()[:-30]),
        lambda values, journal: journal.write_bytes(b"[]\n" + journal.read_bytes()),
        lambda values, journal: journal.write_bytes(journal.read_bytes() * 2),
        lambda values, journal: journal.unlink(),
    ],
    ids=["cut values", "flipped value", "no values", "torn line", "foreign line", "line too many", "no journal"],
)
def test_damage_is_decoded_anew(damage: object, folder: Path, bench_home: Path) -> None:
    whole = load(folder)
    damage(store(bench_home) / "values", store(bench_home) / "journal")  # type: ignore[operator]
    assert same(whole, load(folder))


def test_another_sound_or_front_end_is_other_frames(folder: Path, bench_home: Path) -> None:
    first = load(folder)
    soundfile.write(folder / "000.wav", np.zeros(2_000), 16_000)
    changed = load(folder)
    assert changed.sha256 == first.sha256  # the table is the same
    assert changed.sounds_sha256 != first.sounds_sha256
    load_frames(find_data(str(folder)), KaldiFbank(16_000, window="povey"), 16_000)
    assert len(list((bench_home / "frames").iterdir())) == 3


def test_a_front_end_without_a_name_is_kept_nowhere(folder: Path, bench_home: Path) -> None:
    data = find_data(str(folder))
    frames = load_frames(data, lambda waves, lengths: FBANK(waves, lengths), 16_000)
    assert not (bench_home / "frames").exists()
    assert same(frames, load(folder))


def test_no_sound_that_can_be_read_is_an_error(bench_home: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.wav").write_bytes(b"RIFFnothing")
    with pytest.raises(BadInputError, match="no clip can be read"):
        load(tmp_path / "a")


@pytest.mark.over_3s
def test_a_worker_that_dies_is_said_and_loses_nothing(
    folder: Path, bench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load(folder)
    (store(bench_home) / "journal").unlink()
    monkeypatch.setattr(decoding, "is_own", lambda kind: True)  # the project's own front ends go to workers
    with pytest.raises(MachineError, match="killed or crashed"):
        load_frames(find_data(str(folder)), _Deadly(16_000), 16_000, workers=2)
    assert same(whole, load(folder))


class _Deadly(KaldiFbank):
    """Ends its process."""

    def __call__(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        os._exit(3)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name, seconds in (
        (threads, "SLOW_S", 0.1),
        (threads, "PATIENCE_S", 0.5),
        (threads, "_PARTING_S", 0.1),
        (decoding, "_PATIENCE_S", 1.0),
    ):
        monkeypatch.setattr(owner, name, seconds)


def test_a_file_that_hangs_its_decoder_is_named_and_loses_nothing(
    folder: Path, bench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the third block: the two before are kept, and it is not set aside for ever."""
    clips = find_data(str(folder)).table["path"].tolist()
    release, heard, real = threading.Event(), Heard(), decoding.read
    with monkeypatch.context() as patch:
        impatient(patch)
        patch.setattr(
            decoding, "read", lambda path, *a, **b: (str(path) == clips[140] and release.wait(), real(path, *a, **b))[1]
        )
        with pytest.raises(MachineError, match=f"{clips[140]}: is not decoded after 60 s"):
            load(folder, progress=heard)
    release.set()
    assert f"{clips[140]}: still decoding after 10 s" in heard.lines
    assert len((store(bench_home) / "journal").read_text().splitlines()) == 2
    assert len(load(folder)) == 149


def test_a_worker_that_hangs_is_said_and_ended(folder: Path, bench_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    impatient(monkeypatch)
    monkeypatch.setattr(decoding, "is_own", lambda kind: True)  # the project's own front ends go to workers
    with pytest.raises(MachineError, match=r"a process that decodes does not answer for 1 s .*--workers 1"):
        load_frames(find_data(str(folder)), _Hanging(16_000), 16_000, workers=2, progress=heard)
    assert "or one of the 63 after it: still decoding" in heard.lines[0]
    assert not multiprocessing.active_children()


class _Hanging(KaldiFbank):
    """Never returns."""

    def __call__(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        while True:
            time.sleep(60)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_the_process_that_began_it(
    number: signal.Signals, folder: Path, bench_home: Path, tmp_path: Path
) -> None:
    """One in the middle of a block too; to an interrupt of the whole group no worker adds a word."""
    module = tmp_path / "endless.py"
    module.write_text(
        "import pathlib, time\nfrom uamix_bench.models.frontend import KaldiFbank\n"
        "class Endless(KaldiFbank):\n"
        "    def __call__(self, waveforms, lengths):\n"
        f"        pathlib.Path({str(tmp_path)!r}, 'begun').touch()\n"
        "        time.sleep(1_000)\n"
    )
    script = SCRIPT.format(folder=str(folder)).replace('KaldiFbank(16_000, window="hanning")', "Endless(16_000)")
    (tmp_path / "script.py").write_text("from endless import Endless\n" + script)
    with subprocess.Popen(
        [sys.executable, tmp_path / "script.py"], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
        errors = process.communicate(timeout=60)[1]
    assert errors.count("Traceback") == (number == signal.SIGINT), errors
    while time.monotonic() < deadline and (left := _of_session(process.pid)):
        time.sleep(0.05)
    assert not left


def _of_session(session: int) -> list[str]:
    """The processes of a session, by its leader's number, that are not dead."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = stat.read_text().rpartition(")")
            fields = rest.split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(name)
    return found


def test_the_journal_says_what_was_skipped(folder: Path, bench_home: Path) -> None:
    load(folder)
    lines = [json.loads(line) for line in (store(bench_home) / "journal").read_text().splitlines()]
    assert [len(line["count"]) for line in lines] == [64, 64, 22]
    assert sum(len(line["skipped"]) for line in lines) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="a small file system needs root")
def test_a_full_disk_is_one_line_and_keeps_what_was_decoded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_disk: Path
) -> None:
    monkeypatch.setenv("UAMIX_BENCH_HOME", str(small_disk))
    with pytest.raises(MachineError, match="no space left"):
        load(folder)
    assert list(small_disk.glob("frames/*/journal"))
    monkeypatch.setenv("UAMIX_BENCH_HOME", str(tmp_path / "roomy"))
    assert len(load(folder)) == 149


def test_frames_of_use_are_marked_so_that_pruning_spares_them(folder: Path, bench_home: Path) -> None:
    load(folder)
    for path in store(bench_home).iterdir():
        os.utime(path, (1e9, 1e9))
    (holding,) = (one for one in housekeeping.holdings() if one.kind == "frames")
    assert holding.used == 1e9
    frames = load(folder)
    (holding,) = (one for one in housekeeping.holdings() if one.kind == "frames")
    assert abs(holding.used - time.time()) < 60
    before = np.array(frames.values)
    assert [piece.path for piece in housekeeping.prune([holding])] == [holding.folder]
    np.testing.assert_array_equal(frames.values, before)  # mapped, and gone from the folder
    assert same(load(folder), frames)
