"""What must be alike on all machines of an engine, and the line that says what is not: results would differ, too."""

from __future__ import annotations

from collections.abc import Mapping

from uamix_bench.engines.engine import host
from uamix_bench.records.provenance import git_state, package_version, package_versions
from uamix_bench.util.errors import MachineError

Versions = tuple[tuple[str, str], ...]


def versions() -> Versions:
    """Names and versions of the code that runs here: this package, its git revision, the packages that results name."""
    ours = {"uamix-bench": package_version(), "uamix-bench's git revision": git_state()[0] or "none"}
    return tuple({**ours, **package_versions()}.items())


def check_versions(wanted: Versions) -> None:
    """Makes sure, on a worker, that its code is the caller's.

    Raises:
        MachineError: It is not; the line names the first that differs, and both values.
    """
    refuse_other("", dict(versions()), dict(wanted), "install the same versions on every machine")


def refuse_other(whose: str, here: Mapping[str, object], there: Mapping[str, object], remedy: str) -> None:
    """Makes sure that a worker has the values that the caller has.

    Args:
        whose: Of what they are values; empty for the worker itself.
        here: The worker's, by name.
        there: The caller's.
        remedy: What to do about it.

    Raises:
        MachineError: One differs; the line names it, and both values.
    """
    for name, value in there.items():
        if here.get(name) != value:
            reason = f"has another {name} than the caller's ({differ(here.get(name), value)})"
            raise MachineError(f"the worker on {host()}", f"{whose} {reason}".strip(), remedy)


def differ(here: object, there: object) -> str:
    """Both values of what should be one, cut to the length that tells digests apart."""
    return f"here {str(here)[:16]}, there {str(there)[:16]}"
