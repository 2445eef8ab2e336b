"""Provenance of a result: versions, device, command. No user name, host or absolute path."""

from __future__ import annotations

import platform
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from uamix_bench.records.record import Provenance
from uamix_bench.util.text import fit

PACKAGES = tuple("torch timm numpy scipy pandas scikit-learn soundfile soxr safetensors pydantic transformers".split())
_SOURCE = Path(__file__).resolve().parents[2]
_PEAK = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)
_PATH = re.compile(r"(?:(?<=[\s=,:'\"(])|^)(?:~|\.\.|[A-Za-z]:)?[/\\][^\s,'\")]*")
_HOST = re.compile(r"(?<=--engine-address[ =])(?!local\b|slurm\b)\S+")


def collect(device: str = "cpu") -> Provenance:
    """Describes this process at the time of the call.

    Args:
        device: Torch device of the model, such as ``cpu`` or ``cuda:1``.
    """
    revision, dirty = git_state()
    return Provenance(
        package=package_version(),
        git_revision=revision,
        git_dirty=dirty,
        packages=package_versions(),
        python=platform.python_version(),
        device=fit(device_name(device)),
        platform=f"{platform.system()} {platform.machine()}",
        started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        command=command(sys.argv),
    )


def package_version() -> str:
    """Version of this package; ``unknown`` if it is not installed."""
    return _version("uamix-bench") or "unknown"


def package_versions() -> dict[str, str]:
    """Versions of the packages that scores may depend on."""
    return {name: version for name in PACKAGES if (version := _version(name))}


def git_state(folder: Path = _SOURCE) -> tuple[str | None, bool | None]:
    """Returns revision and dirty flag of the package's git checkout; (None, None) if there is none."""
    if not (folder / ".git").exists():
        return None, None
    revision = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return (revision, None if changes is None else bool(changes)) if revision else (None, None)


def device_name(device: str = "cpu") -> str:
    """Model name of a processor or GPU, such as ``cuda: NVIDIA H100``."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        import torch

        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{kind}: {_processor()}"


def peak_memory_mb(device: str = "cpu") -> float | None:
    """Peak memory of this process in 10^6 bytes; that of the GPU if the model is on one."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / 1e6
    with suppress(OSError, AttributeError):  # on Linux the figure of getrusage begins with that of the parent process
        return int(_PEAK.search(Path("/proc/self/status").read_text())[1]) * 1_024 / 1e6  # type: ignore[index]
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1_024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def command(argv: list[str]) -> str:
    """Command line without hosts, and with only the base names of paths outside the working folder."""
    return fit(_HOST.sub("HOST:PORT", shlex.join([Path(argv[0]).name, *map(scrub, argv[1:])])))


def scrub(text: str) -> str:
    """Makes a text fit for a record: paths in the working folder become relative to it, others become base names."""
    return fit(_PATH.sub(lambda found: _shorten(found[0]), text))


def _shorten(path: str) -> str:
    here = str(Path.cwd())
    if path.startswith(here + "/"):
        return path[len(here) + 1 :]
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or "."


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware")))
    return next(named, "") or platform.processor() or platform.machine()
