"""What is installed: the ranges of pyproject.toml, and the one version of each package in constraints.txt."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LINES = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS = dict(line.split("==") for line in LINES)


def requirements() -> list[Requirement]:
    """What the package and its extras ask for directly; atheris has wheels for one platform and no pin."""
    texts = [*PROJECT["dependencies"], *(text for name, texts in EXTRAS.items() if name != "fuzz" for text in texts)]
    return [Requirement(text) for text in texts if not text.startswith("uamix-bench[")]


def needed(name: str, extras: set[str], found: set[str]) -> set[str]:
    """The installed packages below one, as their own metadata says for this platform."""
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        wanted = (
            any(requirement.marker.evaluate({"extra": extra}) for extra in {"", *extras}) if requirement.marker else 1
        )
        below = canonicalize_name(requirement.name)
        if wanted and below not in found | {"uamix-bench"}:
            found.add(below)
            try:
                needed(below, requirement.extras, found)
            except metadata.PackageNotFoundError:  # an extra that is not installed here
                continue
    return found


def test_every_package_has_one_version_that_its_range_holds() -> None:
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line) for line in LINES)
    assert len(PINS) == len(LINES)
    for requirement in requirements():
        assert Version(PINS[canonicalize_name(requirement.name)]) in requirement.specifier, requirement


def test_what_is_needed_through_others_has_a_version_too() -> None:
    if metadata.version("torch").partition("+")[0] != PINS["torch"]:
        pytest.skip("another set of versions is installed here, which needs other packages")
    below = needed("uamix-bench", {"test", "ray", "slurm"}, set())
    assert {"sympy", "triton", "huggingface-hub"} & below
    assert below <= PINS.keys(), below - PINS.keys()


@pytest.mark.parametrize("command", ["README.md", ".ci/run", ".github/workflows/wheel.yml"])
def test_the_commands_install_these_versions(command: str) -> None:
    lines = (REPOSITORY / command).read_text(encoding="utf-8").splitlines()
    installs = [line for line in lines if "pip install" in line and re.search(r"-e ('?\.|\.)", line)]
    pinned = [line for line in installs if "-c constraints.txt" in line or '"${versions[@]}"' in line]
    assert len(pinned) == {"README.md": 2}.get(command, 1)


def test_an_older_torch_may_stay() -> None:
    ranges = {requirement.name: requirement.specifier for requirement in requirements()}
    for name, version in {"torch": "2.11.0", "torchvision": "0.26.0", "torchaudio": "2.11.0"}.items():
        assert version in ranges[name]


def test_the_quick_files_are_there() -> None:
    from .conftest import QUICK

    assert {path.stem for path in Path(__file__).parent.rglob("test_*.py")} >= QUICK
