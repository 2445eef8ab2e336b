"""The code of a stranger's class: which files it is, by what imports say, and when its digest changes."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path

import pytest

from uamix_bench.models.sources import is_own, source_sha256, sources, written_in
from uamix_bench.plugins.registry import from_file


def write(folder: Path, *packages: str, **texts: str) -> None:
    """Files by their names, with ``_`` for a slash; and the ``__init__.py`` of packages."""
    for package in packages:
        write(folder, **{f"{package}_!": ""})
    for name, text in texts.items():
        path = folder / f"{name.replace('_', '/').replace('!', '__init__')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def by_hand(folder: Path, names: dict[str, str]) -> str:
    listed = [[name, hashlib.sha256((folder / file).read_bytes()).hexdigest()] for name, file in sorted(names.items())]
    return hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()


IMPORTS = (
    "import helper",
    "import helper as h, math",
    "from helper import level",
    "def later():\n    from helper import level",
    "try:\n    import helper\nexcept ImportError:\n    pass",
    "import importlib\nimportlib.import_module('helper')",
    "__import__('helper')",
    "from first import x",
    "import pack.inner",
    "from pack import inner",
)


@pytest.mark.parametrize("text", IMPORTS)
def test_an_edited_helper_changes_the_digest(text: str, tmp_path: Path) -> None:
    write(tmp_path, mine=text, helper="level = 1", first="from helper import level", other="import numpy")
    write(tmp_path, "pack", pack_inner="import helper")
    before = sources([tmp_path / "mine.py"]).sha256
    write(tmp_path, other="import scipy")
    assert sources([tmp_path / "mine.py"]).sha256 == before
    write(tmp_path, helper="level = 2")
    assert sources([tmp_path / "mine.py"]).sha256 != before


def test_it_is_that_of_names_and_bytes(tmp_path: Path) -> None:
    write(tmp_path, mine="import helper, pack.inner\nimport torch, uamix_bench", helper="import math")
    write(tmp_path, "pack", pack_inner="from . import near\nfrom .. import far", pack_near="x = 1", pack_unused="")
    found = sources([tmp_path / "mine.py"])
    files = {"": "mine.py", "helper.py": "helper.py"}
    files |= {f"pack/{name}.py": f"pack/{name}.py" for name in ("__init__", "inner", "near")}
    assert found.sha256 == by_hand(tmp_path, files)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "uamix-bench")}
    assert found.versions == f"torch {versions['torch']}, uamix_bench {versions['uamix-bench']}"
    (tmp_path / "mine.py").rename(tmp_path / "renamed.py")
    assert sources([tmp_path / "renamed.py"]).files.keys() == files.keys()


def test_a_package_counts_as_its_modules_import_each_other(tmp_path: Path) -> None:
    write(tmp_path, "pack_sub", **{"pack_!": "from .settings import level"}, pack_settings="level = 1", pack_deep="")
    write(tmp_path, pack_sub_model="from ..layers import Block\nimport pack.deep", pack_layers="")
    write(tmp_path, elsewhere="")
    found = sources([tmp_path / "pack" / "sub" / "model.py"])
    names = ("__init__", "settings", "layers", "deep", "sub/__init__", "sub/model")
    assert set(found.files) == {f"pack/{name}.py" for name in names}


def test_installed_packages_have_versions_and_no_files(tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    write(site, "pack", single="import other, sklearn", other="", pack_model="import pack.near, other", pack_near="")
    assert set(sources([site / "single.py"]).files) == {""}
    assert sources([site / "single.py"]).versions == f"sklearn {importlib.metadata.version('scikit-learn')}"
    assert set(sources([site / "pack" / "model.py"]).files) == {"pack/__init__.py", "pack/model.py", "pack/near.py"}


def test_folders_on_the_path_are_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "models", mine="import lib")
    write(tmp_path / "src", lib="level = 1")
    alone = sources([tmp_path / "models" / "mine.py"])
    assert set(alone.files) == {""}
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "src")])
    assert set(sources([tmp_path / "models" / "mine.py"]).files) == {"", "lib.py"}


NAMED = (
    "import json\nlevel = json.load(open('settings.json'))",
    "from pathlib import Path\ndef later():\n    return (Path(__file__).parent / 'conf' / 'deep.json').read_text()",
    "exec(open('more.txt').read())",
)


@pytest.mark.parametrize("text", NAMED)
@pytest.mark.parametrize("place", ["beside", "working folder"])
def test_an_edited_file_that_the_code_names_changes_the_digest(
    text: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tmp_path if place == "beside" else tmp_path / "here"
    (where / "conf").mkdir(parents=True)
    monkeypatch.chdir(where)
    write(tmp_path, mine=text)
    files = [where / name for name in ("settings.json", "conf/deep.json", "more.txt", "other.json")]
    for path in files:
        path.write_text("1")
    before = sources([tmp_path / "mine.py"]).sha256
    files[-1].write_text("2")
    assert sources([tmp_path / "mine.py"]).sha256 == before
    for path in files[:-1]:
        path.write_text("2")
    assert sources([tmp_path / "mine.py"]).sha256 != before


def test_weights_that_the_code_names_count_by_themselves(tmp_path: Path) -> None:
    write(tmp_path, mine="path = 'trained.pth'")
    alone = sources([tmp_path / "mine.py"]).sha256
    (tmp_path / "trained.pth").write_bytes(b"weights")
    assert sources([tmp_path / "mine.py"], tmp_path / "trained.pth").sha256 == alone
    assert sources([tmp_path / "mine.py"]).sha256 != alone
    assert "trained.pth" in sources([tmp_path / "mine.py"]).literals


def test_what_is_no_python_counts_as_its_bytes(tmp_path: Path) -> None:
    write(tmp_path, mine="import helper", helper="this is no Python (")
    before = sources([tmp_path / "mine.py"]).sha256
    write(tmp_path, helper="this is none either (")
    assert sources([tmp_path / "mine.py"]).sha256 != before


def test_a_class_is_told_by_the_files_it_is_written_in(tmp_path: Path) -> None:
    class Contract:
        pass

    write(tmp_path, mine="class Mine:\n    def go(self): return 1")
    mine = from_file(f"{tmp_path / 'mine.py'}:Mine", "--model")
    derived = type("Mine", (mine, Contract), {})  # made here, of methods that are written there
    assert str(Path(__file__)) in written_in(derived, Contract)
    assert not is_own(mine)


def test_one_typed_at_a_prompt_is_told_by_its_functions() -> None:
    class Contract:
        pass

    def typed(text: str) -> type:
        names = {"Contract": Contract, "__name__": "__main__"}
        exec(compile(f"class Mine(Contract):\n    def go(self): return {text}", "<stdin>", "exec"), names)
        return names["Mine"]

    first = source_sha256(typed("1"), Contract)
    assert first == source_sha256(typed("1"), Contract) != source_sha256(typed("2"), Contract)
    assert source_sha256(Contract, Contract) is not None


def test_what_the_kernel_tells_is_no_part_of_the_code(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text('READ = open("/proc/self/status").read(), open("settings.json").read()\n')
    (tmp_path / "settings.json").write_text("{}")
    first, second = (sources([tmp_path / "mine.py"]) for _ in range(2))
    assert first.sha256 == second.sha256
    assert {path.name for path in first.files.values()} == {"mine.py", "settings.json"}


def test_a_class_whose_file_was_edited_after_its_import_is_told_by_its_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook: the file's new digest must not stand for the old code that runs."""
    path = tmp_path / "edited_later.py"
    path.write_text("class Contract:\n    pass\nclass Mine(Contract):\n    def tokens(self):\n        return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("edited_later")
    told = source_sha256(module.Mine, module.Contract)
    assert written_in(module.Mine, module.Contract) == [str(path)]
    path.write_text(path.read_text() + "# a remark\n")  # the same code
    assert written_in(module.Mine, module.Contract) == [str(path)]
    path.write_text(path.read_text().replace("return 1", "return 2"))
    assert not all(Path(name).is_file() for name in written_in(module.Mine, module.Contract))
    old = source_sha256(module.Mine, module.Contract)
    path.write_text(path.read_text().replace("return 2", "return 1").replace("# a remark\n", ""))
    assert source_sha256(module.Mine, module.Contract) == told != old
    sys.modules.pop("edited_later")
