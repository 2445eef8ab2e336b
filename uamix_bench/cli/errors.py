"""End of a command: exit code, one line on stderr, one JSON envelope on stdout. Nothing heavy is imported here."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click

from uamix_bench.util.errors import BenchError, MachineError, UsageError, address_limit, is_out_of_memory, package_error

EXIT_CODES = {
    0: "done",
    1: "internal error; please report it",
    2: "usage, configuration, or results that are not comparable",
    3: "bad input: a checkpoint, sound, data set or result; unhealthy embeddings",
    4: "environment: disk, memory, permission, lock, network, a lost worker",
    5: "regression found",
    6: "finished, but something was skipped (--keep-going)",
    130: "interrupted (143: terminated); repeat the command to resume",
}
_OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENOMEM}


@dataclass
class Session:
    """State of a command that the end of the program reads.

    Attributes:
        json: Whether stdout gets the envelope.
        verbose: Whether errors show their traceback.
        command: Name of the command.
        key: Name of the items in the envelope.
        items: Items that the command found, as plain data; None if it did not run.
        facts: Facts on all items together, by their name in the envelope.
    """

    json: bool = False
    verbose: bool = False
    command: str | None = None
    key: str = "items"
    items: list[Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def begin(self, command: str, key: str = "items") -> list[Any]:
        """Opens the list of items that the envelope will show."""
        self.command, self.key, self.items = command, key, []
        return self.items


class Terminated(BaseException):
    """Request to end the process (SIGTERM)."""


def guarded(run: Callable[[list[str], Session], int], argv: list[str] | None) -> int:
    """Runs a command and turns any error into a line, an envelope and an exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    session = Session(json="--json" in arguments, verbose=not {"-v", "--verbose"}.isdisjoint(arguments))
    failure: dict[str, Any] | None = None
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or file that cannot show a character still gets the rest
            stream.reconfigure(errors="backslashreplace")
    with _terminable(), warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            code = run(arguments, session)
        except click.exceptions.Exit as end:
            code = end.exit_code
        except BrokenPipeError:
            return _hang_up()
        except BaseException as error:
            try:
                code, failure = _describe(error)
            except MemoryError as lack:  # which the first error was a sign of
                code, failure = _describe(lack)
            if session.verbose:
                import traceback

                traceback.print_exception(error)
            _complain(failure)
        try:
            if session.json and (failure or session.items is not None):
                print(_envelope(session, failure))
            sys.stdout.flush()
        except BrokenPipeError:
            return _hang_up()
        except OSError as error:
            code, failure = _describe(error)
            _complain(failure)
    return code


def _complain(failure: dict[str, Any]) -> None:
    """Prints why a command failed, unless stderr cannot be written (a file on a full disk)."""
    with suppress(OSError):
        print(f"uamix-bench: error: {failure['message']}", file=sys.stderr)


def _describe(error: BaseException) -> tuple[int, dict[str, Any]]:
    """Returns the exit code, and the error as the envelope shows it."""
    if is_out_of_memory(error):
        limit = address_limit()
        within = "" if limit is None else f" within the limit of {limit / 2**20:,.0f} MiB of addresses"
        remedy = "use a smaller --batch-size or --device cpu" if limit is None else "raise it (ulimit -v)"
        error = MachineError("memory", f"there is not enough of it{within}", remedy)
    elif isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        name = error.filename or "the system"
        error = MachineError(name, error.strerror or type(error).__name__, "free space or check the permissions")
    elif isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # whatever asked whether it is a file
        name = f"{str(error.filename)[:40]}..."
        error = UsageError(name, "is longer than a file's name may be", "check the option")
    else:
        error = package_error(error) or error
    subject = reason = remedy = ""
    if isinstance(error, BenchError):
        code, subject, reason, remedy, message = error.exit_code, error.subject, error.reason, error.remedy, str(error)
    elif isinstance(error, click.ClickException):
        code, reason = error.exit_code, error.format_message()
        context = getattr(error, "ctx", None)
        remedy = f"see '{context.command_path} --help'" if context else ""
        message = f"{reason.rstrip('.')}; {remedy}" if remedy else reason
    elif isinstance(error, (KeyboardInterrupt, click.Abort, Terminated)):
        code = 143 if isinstance(error, Terminated) else 130
        reason, remedy = "interrupted", "finished work is kept: repeat the command to resume"
        message = f"{reason}; {remedy}"
    else:
        code, reason = 1, f"internal error: {type(error).__name__}: {error}"
        remedy = "please report it with what 'uamix-bench env' and this command with -v print"
        message = f"{reason}; {remedy}"
    message = " ".join(message.split())
    return code, {"exit_code": code, "subject": subject, "reason": reason, "remedy": remedy, "message": message}


def _envelope(session: Session, failure: dict[str, Any] | None) -> str:
    found = {session.key: session.items or [], **session.facts}
    envelope = {"schema_version": 1, "command": session.command, **found, "error": failure}
    readable = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    return json.dumps(envelope, allow_nan=False, ensure_ascii=not readable)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"uamix-bench: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _nowhere() -> TextIO:
    """Replacement of a stream that was closed before the program began."""
    return Path(os.devnull).open("w", encoding="utf-8")


def _hang_up() -> int:
    """Success after the reader of stdout has left; stdout is replaced, so that the final flush raises no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


@contextmanager
def _terminable() -> Iterator[None]:
    """Turns SIGTERM into an exception, so that temporary files and progress displays are removed."""

    def terminate(*_: object) -> NoReturn:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
