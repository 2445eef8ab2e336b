"""A stranger's code as its files say now: no compiled copy is run for them, and changed modules are imported anew.

Python takes a compiled copy for a file's where size and whole second of change agree, and a module that is loaded for
any of its name. A result's digest is of the files.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

_INSTALLED = frozenset({"site-packages", "dist-packages"})
_STDLIB = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))

_loaded: dict[str, tuple[Path, bytes]] = {}  # the file and what it held, by a module's name
_beside: list[str] = []  # the folder of the last file, where it was put on sys.path


class _AsWritten(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path)
        _loaded[fullname] = (Path(self.path), source)
        code: CodeType = self.source_to_code(source, self.path)
        return code


class _Finder(MetaPathFinder):
    """Finds what the others find, and has a stranger's source file loaded as it is written."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next((found for finder in others if (found := finder.find_spec(fullname, path, target))), None)
        if spec and type(spec.loader) is SourceFileLoader and _is_strangers(fullname, Path(spec.loader.path)):
            spec.loader = _AsWritten(spec.loader.name, spec.loader.path)
        return spec


_FINDER = _Finder()


def import_as_written() -> None:
    """From here on imports run a stranger's files as they are; once one of them has changed, all are imported anew."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    if any(_changed(path, source) for path, source in _loaded.values()):
        _forget()


def module_spec(name: str, path: Path) -> ModuleSpec:
    """Import spec of a file's module as written; it can import installed packages and its neighbours."""
    location = os.path.abspath(path)  # noqa: PTH100 - no link is followed
    folder = os.path.dirname(location)  # noqa: PTH120
    import_as_written()
    if folder not in sys.path:
        sys.path[:] = [*(entry for entry in sys.path if entry not in _beside), folder]
        _beside[:] = [folder]
    if any(_shadowed(module, file, Path(folder)) for module, (file, _) in _loaded.items()):
        _forget()
    spec = spec_from_file_location(name, location, loader=_AsWritten(name, location))
    assert spec is not None
    return spec


def _is_strangers(name: str, path: Path) -> bool:
    ours = name.partition(".")[0] == "uamix_bench"
    return not (ours or _INSTALLED & set(path.parts) or any(path.is_relative_to(folder) for folder in _STDLIB))


def _changed(path: Path, source: bytes) -> bool:
    try:
        return path.read_bytes() != source
    except OSError:
        return True


def _shadowed(module: str, file: Path, folder: Path) -> bool:
    """True if a module of a neighbour's name is already loaded from elsewhere."""
    top = folder / module.partition(".")[0]
    return not file.is_relative_to(folder) and (top.with_suffix(".py").is_file() or top.is_dir())


def _forget() -> None:
    for name in _loaded:
        sys.modules.pop(name, None)
    _loaded.clear()
