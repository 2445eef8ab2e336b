"""Folders, atomic writes, locks and digests: the functions that touch the disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from uamix_bench.util.errors import BadInputError, BenchError, MachineError, UsageError

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
LOCK = ".lock"  # of a training's folder
_TEMPORARY = ".tmp-"
_USE_S = 3_600.0  # resolution of the time of last use
_WAITING_S = 60.0  # between the lines of who waits for a lock


def home() -> Path:
    """Returns the folder that holds all files of the bench: ``UAMIX_BENCH_HOME``, or the platform's user cache folder.

    It holds ``data/``, ``checkpoints/``, ``results/`` and ``training/``. It also holds ``embeddings/`` and ``frames/``,
    which only save work. Nothing is created here.

    Raises:
        UsageError: ``UAMIX_BENCH_HOME`` is unset and the user has no home folder, or it begins with the home folder of
            an unknown user.
    """
    chosen = os.environ.get("UAMIX_BENCH_HOME")
    if chosen:
        return expanded(chosen)
    import platformdirs

    with contextlib.suppress(RuntimeError):  # so newer versions say that there is no home; older ones give "~/.cache"
        folder = Path(platformdirs.user_cache_dir("uamix-bench"))
        if folder.is_absolute():
            return folder
    raise UsageError("UAMIX_BENCH_HOME", "is not set, and this user has no home folder", "set it to a folder")


def expanded(text: str) -> Path:
    """Path of a user's text, with ``~`` expanded to a home folder.

    Raises:
        UsageError: The path begins with the home folder of an unknown user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(text, "begins with the home folder of a user who is not known here", "write it out") from error


def machine_error(path: Path, error: OSError) -> MachineError:
    """Translates an OSError met while writing `path` into a MachineError with its remedy."""
    if error.errno in _DISK_FULL:
        return MachineError(
            path, "no space left on the disk", "free some, or choose another folder with UAMIX_BENCH_HOME or -o"
        )
    reason = error.strerror or type(error).__name__
    return MachineError(path, f"cannot be written ({reason})", "check the permissions or choose another folder")


def make_folder(path: Path) -> Path:
    """Creates a folder and its parents.

    Raises:
        MachineError: The folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise machine_error(path, error) from error
    return path


def check_writable(folder: Path) -> None:
    """Makes sure, before any long work, that a file can be written to `folder`.

    Raises:
        MachineError: No file can be written there; the line names the cause.
    """
    with probe(folder):
        pass


@contextlib.contextmanager
def probe(folder: Path) -> Iterator[Path]:
    """Context in which a small file with a unique name exists in `folder`.

    Raises:
        MachineError: The file cannot be written; the line names the cause.
    """
    path = folder / f"{_TEMPORARY}probe-{uuid.uuid4().hex}"
    try:
        yield write_atomic(path, b"\0" * 4096)
    finally:
        with contextlib.suppress(OSError):  # the folder may not even be there
            path.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes | memoryview | Callable[[BinaryIO], None], durable: bool = True) -> Path:
    """Writes a file atomically: its name always holds either the old content or the whole new one.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and take the name in one step. A
    device or pipe, such as ``/dev/stdout``, is written to directly and is not replaced.

    Args:
        path: The final name; its folder is created.
        content: The bytes, or a function that writes them to an open binary file.
        durable: True waits until the bytes are on the disk. False suits many small files that can be computed again: a
            power cut, but no killed process, may leave an empty file.

    Returns:
        `path`.

    Raises:
        MachineError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    make_folder(path.parent)
    if _is_stream(path):
        return _write_into(path, content)
    temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        raise machine_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _is_stream(path: Path) -> bool:
    """Test for a name of a device, a pipe or an open file, which must not be replaced by another file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    folder = path.parent.resolve()
    open_file = path.is_symlink() and (folder == Path("/dev") or Path("/proc") in folder.parents)  # /dev/stdout
    return open_file or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _write_into(path: Path, content: bytes | memoryview | Callable[[BinaryIO], None]) -> Path:
    """Writes to a device or a pipe. A pipe without a reader is an error at once."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        os.set_blocking(descriptor, True)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - of a descriptor
            if callable(content):
                content(file)
            else:
                file.write(content)
    except OSError as error:
        raise machine_error(path, error) from error
    return path


def write_json(path: Path, document: Any) -> Path:
    """Writes `document` as indented strict JSON (no NaN), atomically."""
    return write_atomic(path, (json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Reads a small JSON object; empty if there is no file.

    Raises:
        BadInputError: The file holds no JSON object.
        MachineError: The file cannot be read.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise BadInputError(path, "is not the JSON that was written there", "remove it")
    return document


@contextlib.contextmanager
def locked(path: Path, say: Callable[[str], None] | None) -> Iterator[None]:
    """Lock between processes and threads on one file. The others wait, with a line now and then, or are refused.

    The lock of a dead process is released.

    Args:
        path: Path of the lock file.
        say: Receiver of the line that this process waits; None raises an error instead of waiting.

    Raises:
        MachineError: The lock cannot be made, or another process has it and `say` is None.
    """
    import filelock

    lock = filelock.FileLock(path)
    patience_s = 0.0
    try:
        while not lock.is_locked:
            try:
                lock.acquire(timeout=patience_s)
            except filelock.Timeout:
                if say is None:
                    reason = "another process is at work in this folder"
                    raise MachineError(path.parent, reason, "wait until it ends, or choose another folder") from None
                say(f"waiting for another process that holds {path}")
                patience_s = _WAITING_S
    except (OSError, NotImplementedError) as error:
        raise machine_error(path, error if isinstance(error, OSError) else OSError(str(error))) from error
    try:
        yield
    finally:
        lock.release()


def note_use(path: Path) -> None:
    """Sets a file's modification time, which pruning reads, to now; a time less than an hour old stays."""
    with contextlib.suppress(OSError):
        if abs(time.time() - path.stat().st_mtime) > _USE_S:
            os.utime(path)


def sweep(folder: Path, older_than_s: float = 86_400.0) -> None:
    """Removes temporary files that killed processes left in `folder` more than `older_than_s` seconds ago."""
    now = time.time()
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        try:
            if now - leftover.stat().st_mtime > older_than_s:
                leftover.unlink()
        except OSError:
            continue  # another process swept it first


def canonical_json(document: Any) -> bytes:
    """Encodes plain data as the JSON text that digests are computed from: sorted keys, no spaces, no NaN, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def digest(document: Any) -> str:
    """Returns the SHA-256 (hex) of the canonical JSON of `document`."""
    return hashlib.sha256(canonical_json(document)).hexdigest()


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file.

    Raises:
        BadInputError: The path is not a regular file.
        OSError: The file cannot be read.
        ValueError: The text is not TOML, is nested too deeply, or holds numbers of thousands of digits.
    """
    import tomllib

    try:
        return tomllib.loads(regular(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 (hex) of a file's bytes.

    Raises:
        BenchError: The file cannot be read.
    """
    try:
        with regular(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def regular(path: Path) -> Path:
    """Returns `path` if it is a regular file or a folder. Reading a pipe or a device may never end.

    Raises:
        BadInputError: The path is a pipe, a device or a socket.
        OSError: The path does not exist.
    """
    if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
        raise BadInputError(path, "is not a regular file", "give the path of one")
    return path


def unreadable(path: Path, error: OSError) -> BenchError:
    """Translates an OSError met while reading `path` into a BadInputError or MachineError."""
    if isinstance(error, FileNotFoundError):
        return BadInputError(path, "no such file", "check the path")
    if isinstance(error, IsADirectoryError):
        return BadInputError(path, "is a folder, not a file", "name the file in it")
    return MachineError(path, f"cannot be read ({error.strerror or type(error).__name__})", "check the permissions")


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable if the file system can sync a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # network file systems refuse it; the rename stands all the same
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
