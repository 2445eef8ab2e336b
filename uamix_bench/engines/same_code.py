"""Check that all machines of an engine have identical code and inputs, as results would differ otherwise."""

from __future__ import annotations

from collections.abc import Mapping

from uamix_bench.engines.engine import host
from uamix_bench.records.provenance import git_state, package_version, package_versions
from uamix_bench.util.errors import MachineError

Versions = tuple[tuple[str, str], ...]


def versions() -> Versions:
    """Names and versions of the running code: this package, its git revision, the packages that results name."""
    ours = {"uamix-bench": package_version(), "uamix-bench's git revision": git_state()[0] or "none"}
    return tuple({**ours, **package_versions()}.items())


def check_versions(wanted: Versions) -> None:
    """Checks, on a worker, that its code is identical to the caller's.

    Raises:
        MachineError: The code differs; the line names the first difference, and both values.
    """
    refuse_other("", dict(versions()), dict(wanted), "install the same versions on every machine")


def refuse_other(whose: str, here: Mapping[str, object], there: Mapping[str, object], remedy: str) -> None:
    """Checks that a worker has the values that the caller has.

    Args:
        whose: Name of what the values describe, such as a model; empty for the worker itself.
        here: Values of the worker, by name.
        there: Values of the caller, by name.
        remedy: Remedy for the error line.

    Raises:
        MachineError: A value differs; the line names it, and both values.
    """
    for name, value in there.items():
        if here.get(name) != value:
            reason = f"has another {name} than the caller's ({differ(here.get(name), value)})"
            raise MachineError(f"the worker on {host()}", f"{whose} {reason}".strip(), remedy)


def differ(here: object, there: object) -> str:
    """Text of two differing values, each cut to a length that tells digests apart."""
    return f"here {str(here)[:16]}, there {str(there)[:16]}"
