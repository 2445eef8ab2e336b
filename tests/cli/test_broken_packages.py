"""Packages that do not load: told as theirs, in one line, with exit code 4; what needs none of them works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from uamix_bench.plugins.registry import from_file
from uamix_bench.util.errors import BenchError, MachineError, package_error

BASELINE = str(Path(__file__).resolve().parents[2] / "reports" / "baseline")
NMS = "raise RuntimeError('operator torchvision::nms does not exist')\n"  # torch's own words where the two do not fit
SYMBOL = "raise OSError('Could not load this library: libtorchaudio.so')\n"
LIBRARY = "raise ImportError('libcudart.so.13: cannot open shared object file: No such file or directory')\n"


def broken(folder: Path, **packages: str) -> Path:
    """A folder of packages that raise when they are imported, for PYTHONPATH."""
    for name, code in packages.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(code)
    return folder


def bench(site: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, which sees the packages in `site` first."""
    environment = {**os.environ, "PYTHONPATH": str(site), "UAMIX_BENCH_HOME": str(home)}
    command = [sys.executable, "-m", "uamix_bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home.parent, check=False)


def test_evaluation_needs_no_torchvision(tmp_path: Path) -> None:
    site = broken(tmp_path / "site", torchvision=NMS, timm=LIBRARY)
    done = bench(site, tmp_path / "home", "fewshot", "-m", "uamix", "--episodes", "20")
    assert done.returncode == 0, done.stderr


@pytest.mark.quick
@pytest.mark.over_3s
def test_a_torchvision_for_another_torch_is_one_line_that_blames_no_plugin(tmp_path: Path) -> None:
    arguments = ("pretrain", "--recipe", "tiny", "--data", "synthetic", "--out", "trained", "--dry-run")
    done = bench(broken(tmp_path / "site", torchvision=NMS), tmp_path / "home", *arguments)
    assert done.returncode == 4, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("uamix-bench: error: "))
    versions = f"torchvision {version('torchvision')}: does not load beside torch {version('torch')} (RuntimeError: "
    assert versions in line
    assert line.endswith("; install versions that fit, as in constraints.txt")
    assert "plugin" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.quick
def test_a_torch_that_does_not_load_is_named(tmp_path: Path) -> None:
    done = bench(
        broken(tmp_path / "site", torch=LIBRARY), tmp_path / "home", "fewshot", "-m", "logmel", "-t", "synthetic"
    )
    assert done.returncode == 4, done.stderr
    assert f"error: torch {version('torch')}: does not load (ImportError: libcudart.so.13: " in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("models", "ls"),
        ("tasks", "ls"),
        ("results", "ls", BASELINE),
        ("compare", BASELINE, BASELINE),
        ("report", BASELINE, "-o", "pages"),
    ],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.over_3s
def test_what_needs_no_torch_works_without_one(arguments: tuple[str, ...], tmp_path: Path) -> None:
    site = broken(tmp_path / "site", torch=LIBRARY, torchvision=NMS, torchaudio=SYMBOL, timm=LIBRARY)
    done = bench(site, tmp_path / "home", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_env_says_what_loads_beside_torch(tmp_path: Path) -> None:
    site = broken(tmp_path / "site", torchvision=NMS, torchaudio=SYMBOL)
    done = bench(site, tmp_path / "home", "env")
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("beside torch"))
    for name in ("torchvision", "torchaudio"):
        assert f"{name} {version(name)}: does not load beside torch {version('torch')} (" in line
    assert "torchvision:" not in bench(tmp_path, tmp_path / "home", "env").stdout


def _raised(code: str, folder: Path) -> BenchError:
    """What importing a model's file raises."""
    (folder / "my_model.py").write_text(code)
    with pytest.raises(BenchError) as caught:
        from_file(f"{folder / 'my_model.py'}:MyModel", "--model")
    return caught.value


@pytest.mark.quick
@pytest.mark.parametrize(
    ("raises", "reason"),
    [
        ("raise OSError('sndfile library not found')", "(OSError: sndfile library not found)"),
        ("raise ImportError('incompatible architecture')", "(ImportError: incompatible architecture)"),
        ("import not_there_either", ""),
    ],
)
def test_a_package_under_a_model_is_named_and_not_the_model(
    raises: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(broken(tmp_path / "site", soundfile=raises))
    monkeypatch.delitem(sys.modules, "soundfile", raising=False)
    error = _raised("import soundfile\n", tmp_path)
    assert isinstance(error, MachineError)
    if reason:
        assert error.subject == f"soundfile {version('soundfile')}"
        assert error.reason == f"does not load {reason}"
    else:
        assert error.subject == "not_there_either"
    assert "my_model" not in error.subject
    assert "repair the file" not in str(error)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("import not_there\n", "not_there: is not installed, and "),
        (
            "from timm.layers import NotThere\n",
            rf"timm {version('timm')}: does not load \(ImportError: cannot import name",
        ),
        ("from timm.not_there import x\n", rf"timm {version('timm')}: does not load \(ModuleNotFoundError: No module"),
    ],
)
def test_what_a_model_imports_and_does_not_get_is_named(code: str, named: str, tmp_path: Path) -> None:
    error = _raised(code, tmp_path)
    assert isinstance(error, MachineError)
    assert re.match(named, str(error))


@pytest.mark.quick
@pytest.mark.parametrize(
    "code",
    [
        "raise ImportError('my own')\n",
        "open('absent.bin')\n",
        "import numpy\nnumpy.load('absent.npy')\n",
        "import json\njson.loads('')\n",
        "import uamix_bench.not_there\n",
        "from uamix_bench.util.errors import NotThere\n",
    ],
)
def test_what_is_the_model_s_own_fault_stays_its_own(code: str, tmp_path: Path) -> None:
    error = _raised(code, tmp_path)
    assert re.search(r"my_model.py:\d+: fails to import \(.*\); repair the file", str(error), re.DOTALL)
    assert error.exit_code == 3


@pytest.mark.quick
def test_a_helper_beside_the_model_is_the_model_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helper_of_mine.py").write_text("raise OSError('out of order')\n")
    assert "helper_of_mine.py:1: fails to import (OSError: out of order)" in str(
        _raised("import helper_of_mine\n", tmp_path)
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), MachineError("a", "b"), OSError("no import")])
def test_other_errors_are_no_package_s(error: BaseException) -> None:
    assert package_error(error) is None
