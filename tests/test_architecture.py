"""The house has no stairs that lead up, and plugins are reached through entry points only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
MAPPED = ("baselines", "tasks", "reports")
HEAVY = ("torch", "timm", "pandas", "scipy", "sklearn", "matplotlib", "numpy", "pydantic")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_the_library_imports_no_plugin() -> None:
    mapped = tuple(f"uamix_bench.{name}" for name in MAPPED)
    guilty = {
        str(path.relative_to(REPOSITORY)): sorted(name for name in imported(path) if name.startswith(mapped))
        for path in (REPOSITORY / "uamix_bench").rglob("*.py")
    }
    assert {path: names for path, names in guilty.items() if names} == {}


def test_no_file_is_imported_under_its_folder_s_generic_name() -> None:
    loaded = [name for name in sys.modules if name.split(".")[0] in MAPPED]
    assert loaded == []


@pytest.mark.parametrize("module", ["uamix_bench", "uamix_bench.cli", "uamix_bench.errors", "uamix_bench.files"])
def test_importing_has_no_weight(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_there() -> None:
    import uamix_bench

    assert all(getattr(uamix_bench, name) is not None for name in uamix_bench.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        uamix_bench.nonsense  # noqa: B018
