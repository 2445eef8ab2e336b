"""The plan of the house: floors, no circles, types in every room, plugins reached through entry points only."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
MAPPED = ("baselines", "tasks", "reports")
ROOMS = sorted(path.parent.name for path in (REPOSITORY / "uamix_bench").glob("[!_]*/__init__.py"))
DOCUMENTED = {
    "audio": "data.audio",
    "card": "plugins.card",
    "checkpoint": "models.checkpoint",
    "contract": "models.contract",
    "frontend": "models.frontend",
    "registry": "plugins.registry",
    "store": "records.store",
}
HEAVY = ("torch", "timm", "pandas", "scipy", "sklearn", "matplotlib", "numpy", "pydantic")


def test_every_folder_is_a_room() -> None:
    folders = {path.name for path in (REPOSITORY / "uamix_bench").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(ROOMS)
    assert set(MAPPED) < set(ROOMS)
    assert len(list((REPOSITORY / "uamix_bench").glob("*.py"))) <= 10


def test_torchaudio_is_an_oracle_of_the_tests_alone() -> None:
    files = [path for folder in ("uamix_bench", *MAPPED) for path in (REPOSITORY / folder).rglob("*.py")]
    assert len(files) > 100
    assert [path.name for path in files if re.search(r"^\s*(import|from) torchaudio", path.read_text(), re.M)] == []


def test_no_file_is_imported_under_its_folder_s_generic_name() -> None:
    loaded = [name for name in sys.modules if name.split(".")[0] in MAPPED]
    assert loaded == []


@pytest.mark.parametrize(
    "module", ["uamix_bench", "uamix_bench.cli", "uamix_bench.util.errors", "uamix_bench.util.files"]
)
def test_importing_has_no_weight(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_there() -> None:
    import uamix_bench

    assert all(getattr(uamix_bench, name) is not None for name in uamix_bench.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        uamix_bench.nonsense  # noqa: B018


@pytest.mark.parametrize(("path", "home"), DOCUMENTED.items())
def test_documented_import_paths_keep_working(path: str, home: str) -> None:
    shown, real = import_module(f"uamix_bench.{path}"), import_module(f"uamix_bench.{home}")
    names = [name for name in vars(shown) if not name.startswith("_")]
    assert names
    assert all(getattr(shown, name) is getattr(real, name) for name in names)


@pytest.mark.parametrize("name", ["fewshot", "compare", "finetune", "tune"])
@pytest.mark.over_3s
def test_a_public_function_stays_one_whatever_is_imported(name: str) -> None:
    """A module of the same name that is imported later does not take its place."""
    code = (
        "import uamix_bench, uamix_bench.evaluation.fewshot, uamix_bench.comparison.compare, "
        f"uamix_bench.finetuning.finetune, uamix_bench.tuning.run; print(type(uamix_bench.{name}).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "function"
