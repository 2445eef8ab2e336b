"""Errors that a user can meet. Each names a subject, a reason and a remedy, and carries the exit code of its family."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from threading import Lock
from typing import Any

from uamix_bench.util.text import visible

_LONGEST_CAUSE = 300  # characters
_LONGEST = 1_200  # characters of a reason, which may quote what a file holds
_CLOSE = 0.55  # difflib's ratio


class BenchError(Exception):
    """An expected failure, shown to the user as the single line ``subject: reason; remedy``.

    Args:
        subject: The file, option or name at fault.
        reason: The fault of the subject.
        remedy: The step that mends the fault; empty if the reason already names it.
    """

    exit_code = 1

    def __init__(self, subject: object, reason: str, remedy: str = "") -> None:
        self.subject = str(subject)
        self.reason = reason
        self.remedy = remedy
        shown = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]}..."
        line = f"{self.subject}: {shown}" + (f"; {remedy}" if remedy else "")
        super().__init__(visible(" ".join(line.split())))

    def __reduce__(self) -> tuple[type[BenchError], tuple[str, str, str]]:
        return type(self), (self.subject, self.reason, self.remedy)


class UsageError(BenchError):
    """A command, configuration or pair of results that makes no sense as given (exit code 2)."""

    exit_code = 2


class BadInputError(BenchError):
    """A checkpoint, sound, data set or result that is missing, unreadable, unsafe or not as claimed (exit code 3)."""

    exit_code = 3


class OwnCodeError(BadInputError):
    """An exception or an invalid return value of a user's own model or task (exit code 3)."""


class MachineError(BenchError):
    """A failure of the machine: disk, memory, permission, lock, network, a lost worker (exit code 4)."""

    exit_code = 4


class Stopped(BenchError):
    """An interrupt of long work. Finished work is kept; repeat the command to resume it (exit code 130 or 143)."""

    exit_code = 130


class RegressionFound(BenchError):
    """A comparison ended with a regression beyond the margin (exit code 5)."""

    exit_code = 5


def is_out_of_memory(error: BaseException) -> bool:
    """Test for an error of Python, torch or the library loader that means memory ran out, of the processor or a GPU."""
    words = str(error).lower()
    by_torch = any(said in words for said in ("defaultcpuallocator", "out of memory"))
    by_loader = any(said in words for said in ("cannot allocate memory", "failed to map segment"))  # of a library
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, SystemError) and address_limit() is not None)  # of C code that met it unprepared
        or (isinstance(error, RuntimeError) and by_torch)
        or (isinstance(error, ImportError | OSError) and by_loader)
    )


def address_limit() -> int | None:
    """Limit of this process's address space in bytes (``ulimit -v``); None if there is no limit."""
    try:
        import resource
    except ImportError:  # on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


@contextmanager
def own_code(what: str, kind: type) -> Iterator[None]:
    """Context that turns an exception of a user's own class into one line with the file, the line and the exception.

    Exceptions of the project's own classes pass unchanged.

    What the code prints goes to stderr: stdout is for results.

    Args:
        what: Name of the called method for the error line, such as ``tokens``.
        kind: The class whose code runs.

    Raises:
        OwnCodeError: The code ended the program, or raised an exception that is no BenchError and does not mean that
            memory ran out.
    """
    try:
        with _stdout_is_for_results():
            yield
    except BenchError:
        raise
    except (Exception, SystemExit) as error:
        bases = [
            base for base in kind.__mro__ if not base.__module__.startswith(("uamix_bench.", "torch.", "builtins"))
        ]
        if not bases or is_out_of_memory(error):
            raise
        raise own_fault(
            error, f"{what} of {kind.__name__}", [sys.modules.get(base.__module__) for base in bases]
        ) from error


_entering = Lock()
_redirects: list[redirect_stdout[Any]] = []  # one and the same, as often as it is entered


@contextmanager
def _stdout_is_for_results() -> Iterator[None]:
    """Redirects stdout to stderr. Of several threads, the first one in redirects it, the last one out restores it."""
    with _entering:
        redirect = _redirects[0] if _redirects else redirect_stdout(sys.stderr)
        if not _redirects:
            redirect.__enter__()
        _redirects.append(redirect)
    try:
        yield
    finally:
        with _entering:
            _redirects.pop()
            if not _redirects:
                redirect.__exit__(None, None, None)


def own_fault(error: BaseException, what: str, modules: Sequence[object]) -> OwnCodeError:
    """Error for an exception of a user's code. It names the innermost line in the folders of `modules`, if any."""
    folders = {os.path.dirname(path) for module in modules if (path := getattr(module, "__file__", None))}  # noqa: PTH120
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if os.path.dirname(frame.filename) in folders]  # noqa: PTH120
    place = (own or frames)[-1] if frames else None
    subject = f"{place.filename}:{place.lineno}" if place else what
    said = " ".join(str(error).split())[:_LONGEST_CAUSE]
    return OwnCodeError(subject, f"{what} raises {type(error).__name__}" + (f": {said}" if said else ""), "repair it")


def package_error(error: BaseException, importer: str = "uamix_bench") -> MachineError | None:
    """The error that blames an installed package for failing to import; None for any other error.

    Args:
        error: The exception of the failed import.
        importer: The requested module, such as a plugin's. Faults of its own package give None.
    """
    if not isinstance(error, Exception) or isinstance(error, BenchError):
        return None
    from importlib import metadata

    own = {"uamix_bench", _package(importer)}
    named = _package(error.name or "") if isinstance(error, ImportError) else ""
    distributions = metadata.packages_distributions()
    if isinstance(error, ModuleNotFoundError) and named not in (own | distributions.keys() | {""}):
        remedy = "install it, or repair the import"
        return MachineError(named, f"is not installed, and {importer} imports it", remedy)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "<module>"]
    at_fault = _package(frames[-1].f_globals["__name__"]) if frames else ""
    at_fault = named if at_fault in own else at_fault
    if at_fault in own or at_fault not in distributions:
        return None
    name = distributions[at_fault][0]
    beside = f" beside torch {metadata.version('torch')}" if name in ("torchvision", "torchaudio") else ""
    reason = f"does not load{beside} ({type(error).__name__}: {error})"
    return MachineError(f"{name} {metadata.version(name)}", reason, "install versions that fit, as in constraints.txt")


def optional(module: str, subject: str, extra: str) -> Any:
    """Imports a module of a package that one of the project's extras installs.

    Args:
        module: Name of the module.
        subject: What needs it, for the error line.
        extra: Name of the extra.

    Raises:
        MachineError: The package is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = _package(module)
        if _package(error.name or "") != package:
            raise
        reason = f"needs {package}, which is not installed"
        raise MachineError(subject, reason, f"pip install 'uamix-bench[{extra}]'") from error


def _package(module: str) -> str:
    return module.partition(".")[0]


def nearest(name: str, known: list[str]) -> str:
    """Returns a "did you mean ..." clause for an unknown name, or the list of known names if none is close."""
    close = similar(name, known)
    return f"did you mean '{close}'?" if close else f"known: {', '.join(sorted(known))}"


def similar(name: str, known: Sequence[str]) -> str | None:
    """The known name that is most similar to an unknown one, whatever the case of either; None if none is close."""
    import difflib

    spelt = {one.casefold(): one for one in reversed(known)}
    close = difflib.get_close_matches(name.casefold(), list(spelt), n=1, cutoff=_CLOSE)
    return spelt[close[0]] if close else None
