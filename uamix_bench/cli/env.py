"""``uamix-bench env``: versions, machine and folders for a bug report."""

from __future__ import annotations

import os
import platform
import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click

from uamix_bench.cli import commands
from uamix_bench.cli.errors import Session
from uamix_bench.cli.options import json_output
from uamix_bench.util.errors import package_error
from uamix_bench.util.threads import cores


@commands.command("env")
@json_output
@click.pass_obj
def command(session: Session) -> None:
    """Print what a bug report needs: versions, machine, folders. Look it over before you post it."""
    items = session.begin("env")
    items.append(facts())
    if not session.json:
        from uamix_bench.cli.tables import show_card

        show_card(items[0])


def facts() -> dict[str, Any]:
    """Facts by name, in words; unknown ones are None."""
    from uamix_bench.records import provenance
    from uamix_bench.util import files

    revision, dirty = provenance.git_state()
    home = files.home()
    return {
        "package": provenance.package_version(),
        "git revision": f"{revision[:12]}{' with changes' if dirty else ''}" if revision else None,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": provenance.device_name(),
        "cores": cores(),
        "memory": _memory(),
        "accelerators": _accelerators(),
        "packages": ", ".join(f"{name} {version}" for name, version in provenance.package_versions().items()),
        "beside torch": f"{_loads('torchvision')}; {_loads('torchaudio')} (only the tests need it)",
        "home": str(home),
        "home holds": ", ".join(sorted(entry.name for entry in home.iterdir())) if home.is_dir() else None,
        "environment": ", ".join(
            f"{name}={value}"
            for name, value in sorted(os.environ.items())
            if name.startswith(("UAMIX_BENCH_", "OMP_NUM", "MKL_NUM", "CUDA_VISIBLE", "HF_HOME", "HF_HUB_OFFLINE"))
        ),
    }


def _loads(name: str) -> str:
    """Outcome, in words, of loading a library that is built for one version of torch."""
    if find_spec(name) is None:
        return f"{name} is not installed"
    try:
        with warnings.catch_warnings(action="ignore"):
            module = import_module(name)
    except Exception as error:  # each way of not fitting has a type of its own
        return str(package_error(error) or f"{name} does not load ({type(error).__name__}: {error})")
    return f"{name} {module.__version__} loads"


def _memory() -> str | None:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):
        return None


def _accelerators() -> str:
    try:
        import torch
    except Exception as error:  # a broken installation is what a bug report may be about
        return f"torch does not import ({type(error).__name__}: {error})"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return ", ".join(names) or "none"
