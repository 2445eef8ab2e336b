"""Writing to what is no file: a device stays a device, and a pipe that nobody reads is not waited for."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from uamix_bench.util.errors import MachineError
from uamix_bench.util.files import write_atomic

CONTENT = bytes(range(256)) * 1_000  # more than a pipe holds


def test_a_pipe_gets_the_content_and_stays_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "read").open("wb") as out, subprocess.Popen(["cat", tmp_path / "pipe"], stdout=out) as reader:
        held = os.open(tmp_path / "pipe", os.O_WRONLY)  # waits until it is read
        write_atomic(tmp_path / "pipe", CONTENT)
        os.close(held)
        reader.wait(30)
    assert (tmp_path / "read").read_bytes() == CONTENT
    assert (tmp_path / "pipe").is_fifo()
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "read"}


def test_a_pipe_that_nobody_reads_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MachineError, match="pipe: cannot be written"):
        write_atomic(tmp_path / "pipe", CONTENT)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(("minor", "error"), [(3, None), (7, "no space left on the disk")])
def test_a_device_stays_a_device(tmp_path: Path, minor: int, error: str | None) -> None:
    """Linux's null and full; a rename would put a file in their place wherever root runs the command."""
    try:
        os.mknod(tmp_path / "device", stat.S_IFCHR | 0o666, os.makedev(1, minor))
        (tmp_path / "device").read_bytes() if minor == 3 else None
    except OSError as refused:
        pytest.skip(f"no device of one's own: {refused}")
    if error is None:
        write_atomic(tmp_path / "device", CONTENT)
    else:
        with pytest.raises(MachineError, match=error):
            write_atomic(tmp_path / "device", CONTENT)
    assert (tmp_path / "device").is_char_device()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_an_open_file_may_be_named(tmp_path: Path) -> None:
    """What /dev/stdout leads to, which is a link to a file where the output of a command goes to one."""
    path = Path("/proc/self/fd/1")
    code = f"import pathlib, uamix_bench.util.files as f; f.write_atomic(pathlib.Path({str(path)!r}), b'x')"
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_bytes() == b"x"
    assert len(list(tmp_path.iterdir())) == 1
