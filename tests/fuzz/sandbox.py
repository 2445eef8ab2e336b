"""A child process that reads hostile input and is watched: time, memory, exceptions, and every file it writes."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from uamix_bench.util.errors import BenchError
from uamix_bench.util.text import UNFIT

HANG_S = 10.0
MEMORY_BYTES = 2 * 2**30
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
_FORBIDDEN = {"os.system", "os.exec", "socket.connect", "socket.bind", "subprocess.Popen"}


class Told(NamedTuple):
    """How an input ended: what the reader returned, or the exit code and line of the error it refused it with."""

    value: Any = None
    code: int = 0
    line: str = ""


class Sandbox:
    """Runs one function on input after input in a process of its own, which is replaced where an input ends it.

    Args:
        work: Called in the child with what `ask` is given; it may return what can be pickled.
        folder: The only folder below which anything may be written.
        programs: Whether other programs may be started (the command line asks git for its revision).
    """

    def __init__(self, work: Callable[..., Any], folder: Path, programs: bool = False) -> None:
        self._work, self._folder, self._programs = work, folder.resolve(), programs
        self._process: Any = None

    def ask(self, *arguments: Any) -> Told:
        """Hands the child one input.

        Raises:
            AssertionError: It hung, crashed, took too much memory, raised what is no documented error, or touched what
                is none of its business.
        """
        if self._process is None:
            context = multiprocessing.get_context("fork")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=self._serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        try:
            self._pipe.send(arguments)
            self._wait()
            told, misdeeds, peak = self._pipe.recv()
        except AssertionError:
            self.close()
            raise
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode
            self.close()
            raise AssertionError(f"the process died with exit code {code}") from None
        if peak > MEMORY_BYTES:
            self.close()  # its peak stays what it is
        assert isinstance(told, Told), told
        assert peak <= MEMORY_BYTES, f"took {peak / 2**20:.0f} MiB"
        assert not misdeeds, misdeeds
        assert not UNFIT.search(told.line), told.line
        assert len(told.line) < 2_000, told.line
        return told

    def close(self) -> None:
        """Ends the child."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def _wait(self) -> None:
        """Waits for an answer: ten seconds of the child's own time, for others may have the machine."""
        begun_s = self._busy_s()
        for _ in range(int(10 * HANG_S)):
            if self._pipe.poll(HANG_S / 10):
                return
            assert self._busy_s() - begun_s < HANG_S, f"works for more than {HANG_S:g} s"
        raise AssertionError(f"waits for more than {HANG_S**2:g} s")

    def _busy_s(self) -> float:
        """Processor time of the child; where the system does not tell, the clock's."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return time.monotonic()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _serve(self, pipe: Connection) -> None:
        sys.dont_write_bytecode = True
        os.chdir(self._folder)
        tempfile.tempdir = str(self._folder)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        before, misdeeds = _peak_bytes(), watch(self._folder, self._programs)
        if sys.platform == "linux":
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES, resource.RLIM_INFINITY))
        while True:
            arguments = pipe.recv()
            told: Told | str
            try:
                told = Told(self._work(*arguments))
            except BenchError as error:
                told = Told(code=error.exit_code, line=str(error))
            except BaseException:
                told = traceback.format_exc()
            pipe.send((told, list(misdeeds), _peak_bytes() - before))
            misdeeds.clear()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def watch(folder: Path, programs: bool) -> list[str]:
    """Notes, from now on, whatever this process changes outside `folder`, starts or connects to."""
    misdeeds: list[str] = []

    def outside(path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False  # a descriptor, opened before
        text = os.fsdecode(path)
        return text != os.devnull and not Path(os.path.realpath(text)).is_relative_to(folder)

    def see(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = bool(set(mode or "") & set("wxa+")) or bool((flags or 0) & _WRITES)
            if writes and outside(path):
                misdeeds.append(f"writes {path!r}")
        elif event in _CHANGES:
            misdeeds.extend(f"{event} {path!r}" for path in arguments[:2] if outside(path))
        elif event in _FORBIDDEN and not (programs and event == "subprocess.Popen"):
            misdeeds.append(f"{event} {arguments!r}")

    sys.addaudithook(see)
    return misdeeds
