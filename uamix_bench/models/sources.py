"""Source code of a user's own class: its files, the files that they import from beside or name, and their digest.

Imports are read, not run: statements anywhere in a file, and calls of ``import_module`` with a literal name. A module
beside a file is in the same folder, in the same package, or in a folder on ``sys.path`` that is neither Python's own
nor one of installed packages. A file is named by a literal that is its path from there, from a folder that is so named,
or from the working folder: settings that the code reads. Free of torch.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import marshal
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from uamix_bench.storage.digests import fingerprint
from uamix_bench.util import files

_KERNEL = ("/proc/", "/sys/", "/dev/")  # what stands there is no setting: it changes from moment to moment
_OURS = "uamix_bench"
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_LONGEST_NAME = 255  # characters of a file's name


class Sources(NamedTuple):
    """Code of a class.

    Attributes:
        files: Source files, by names relative to the root of their imports, and the files that they name.
        packages: Other packages that the source files import.
        literals: Texts in the source files that may name a file.
    """

    files: dict[str, Path]
    packages: frozenset[str]
    literals: frozenset[str]

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) over the canonical JSON of the sorted pairs [name, SHA-256 of the file]."""
        return files.digest([[name, fingerprint(path)] for name, path in sorted(self.files.items())])

    @property
    def versions(self) -> str:
        """Packages with versions, such as ``timm 1.0.20, torch 2.11.0``. Packages without a version are left out."""
        return versions(self.packages)


def versions(packages: Iterable[str]) -> str:
    """Packages with versions, such as ``timm 1.0.20, torch 2.11.0``. Packages without a version are left out."""
    known = ((name, _version(name)) for name in sorted(packages))
    return ", ".join(f"{name} {version}" for name, version in known if version)


def is_own(adapter: type) -> bool:
    """Test for a class of the project itself, whose `adapter_version` stands for its code."""
    return adapter.__module__.startswith(f"{_OURS}.")


def written_in(adapter: type, contract: type) -> list[str]:
    """Source files of a user's own class and of its base classes; none for the project's own.

    The module of a class is no sure sign: two files of one name may be imported one after the other. A class that is
    typed at a prompt, or whose file was edited after its import, gives a name that is no file.

    Args:
        adapter: The class.
        contract: Base class of all classes looked at here; other bases are found among the imports.
    """
    named: set[str] = set()
    for kind in adapter.__mro__:
        if issubclass(kind, contract) and not is_own(kind):
            written = {_written(function.__code__) for function in _functions(kind)}
            named |= written or {getattr(sys.modules.get(kind.__module__), "__file__", None) or "unknown"}
    return sorted(named)


def source_sha256(adapter: type, contract: type, weights: Path | None = None) -> str | None:
    """SHA-256 (hex) of the code of a user's own class; None for the project's own.

    For code that is not in files, as at a prompt, the digest is taken over the compiled functions.

    Args:
        adapter: The class.
        contract: Its base class.
        weights: A file that has a digest of its own, so that it does not count if the code names it.
    """
    written = written_in(adapter, contract)
    if not written:
        return None
    if all(Path(name).is_file() for name in written):
        return sources(map(Path, written), weights).sha256
    code = hashlib.sha256()
    for kind in adapter.__mro__:
        if issubclass(kind, contract) and not is_own(kind):
            for function in _functions(kind):
                code.update(marshal.dumps(function.__code__))
    return code.hexdigest()


def named_in(adapter: type, contract: type) -> frozenset[str]:
    """Texts in a user's own code that may name files beside its weights; none for the project's own."""
    return sources(map(Path, written_in(adapter, contract))).literals


def sources(roots: Iterable[Path], without: Path | None = None) -> Sources:
    """Finds the source files of a user's own code: the given files and, transitively, their imports from beside.

    Args:
        roots: Paths of the files. A file outside of any package has an empty name, so that it may be renamed.
        without: A file that does not count if the code only names it.
    """
    elsewhere = _user_folders()
    packages: set[str] = set()
    literals: set[str] = set()
    found: dict[Path, str] = {}
    read: dict[Path, str] = {}  # by the code, as far as it names them
    todo = []
    for root in map(_absolute, roots):
        top = _top(root)
        found[root] = "" if top == root.parent else root.relative_to(top).as_posix()
        todo.append(root)
    while todo:
        path = todo.pop()
        top = _top(path)
        tree = _tree(path)
        texts = _literals(tree)
        literals |= texts
        read |= _named(path.parent, texts)
        above = (folder / "__init__.py" for folder in path.parents if folder.is_relative_to(top) and folder != top)
        beside = {file: file.relative_to(top).as_posix() for file in above}  # a package runs before what is in it
        for level, name in _imports(tree):
            for base in _bases(path, top, level, name, elsewhere):
                start = top if base.is_relative_to(top) else base
                imported = {file: file.relative_to(start).as_posix() for file in _modules(base, name)}
                if imported:
                    beside |= imported
                    break
            else:
                if not level and (package := name.partition(".")[0]) not in sys.stdlib_module_names:
                    packages.add(package)
        todo += [file for file in beside if file not in found]
        found = beside | found
    if without is not None:
        read.pop(_absolute(without), None)
    # A name that two folders share is told by both its files: neither may hide the other.
    named: dict[str, Path] = {}
    for path, name in sorted((read | found).items()):
        named[name if name not in named else f"{name} {len(named)}"] = path
    return Sources(named, frozenset(packages), frozenset(literals))


def _written(code: CodeType) -> str:
    """File of a function's code; a name that is no file if the function is not in the file as it is now."""
    try:
        now = compile(Path(code.co_filename).read_bytes(), code.co_filename, "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError):
        return code.co_filename if not Path(code.co_filename).is_file() else f"{code.co_filename} as imported"
    if any(name.startswith("@py_") for name in code.co_names + code.co_varnames):  # pytest rewrites asserts
        return code.co_filename
    return code.co_filename if _outline(code) in _outlines(now) else f"{code.co_filename} as imported"


def _outline(code: CodeType) -> tuple[Any, ...]:
    """Instructions of a code object, without its position in the file."""
    constants = tuple(_outline(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts)
    return code.co_name, code.co_code, code.co_names, code.co_varnames, constants


def _outlines(code: CodeType) -> Iterator[tuple[Any, ...]]:
    """Outlines of a code object and of all inside it."""
    yield _outline(code)
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _outlines(one)


def _functions(kind: type) -> list[FunctionType]:
    members = [inspect.unwrap(getattr(member, "__func__", member)) for member in vars(kind).values()]
    return [member for member in members if inspect.isfunction(member)]


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - no link is followed


def _top(path: Path) -> Path:
    """Root of the absolute imports in a file's package: the first folder above it that is no package."""
    folder = path.parent
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        folder = folder.parent
    return folder


def _bases(path: Path, top: Path, level: int, name: str, elsewhere: Sequence[Path]) -> Iterator[Path]:
    """Folders beside a file in which an import of that file may begin."""
    if level:
        yield path.parents[level - 1] if level <= len(path.parents) else path.parent
        return
    first = name.partition(".")[0]
    if first == _OURS:
        return
    for folder in dict.fromkeys((path.parent, top, *elsewhere)):
        if not _INSTALLED & set(folder.parts) or (folder == top and first == path.relative_to(top).parts[0]):
            yield folder


def _user_folders() -> list[Path]:
    """Folders on ``sys.path`` that hold neither Python's own modules nor installed packages."""
    own = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    folders = [_absolute(Path(entry)) for entry in sys.path]
    return [folder for folder in folders if folder.is_dir() and not any(folder.is_relative_to(one) for one in own)]


def _modules(base: Path, name: str) -> Iterator[Path]:
    """Files that an import of a dotted name below `base` runs: the module's, and those of the packages above it."""
    place = base
    for part in filter(None, name.split(".")):
        place = place / part
        candidates = (place / "__init__.py", place.with_name(f"{part}.py"))
        module = next((file for file in candidates if file.is_file()), None)
        if module is not None:
            yield module
        elif not place.is_dir():
            return


def _tree(path: Path) -> ast.AST:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):  # then it cannot be imported either
        return ast.Module([], [])


def _literals(tree: ast.AST) -> frozenset[str]:
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    short = (text for text in texts if 0 < len(text) <= _LONGEST_NAME and text.isprintable())
    return frozenset(text for text in short if not text.startswith(_KERNEL))


def _named(beside: Path, texts: frozenset[str]) -> dict[Path, str]:
    """The files that literals name, from a folder, the working folder, or a folder in these that is named too."""
    starts = [beside, Path.cwd()]
    folders = [*starts, *(start / text for start in starts for text in sorted(texts) if (start / text).is_dir())]
    return {_absolute(folder / text): text for folder in folders for text in texts if (folder / text).is_file()}


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The dots and the dotted name of each import in a file: for ``from a import b`` a, and a.b if it is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = f"{node.module}." if node.module else ""
            if node.module:
                yield node.level, node.module
            yield from ((node.level, f"{prefix}{alias.name}") for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            literal = node.args[0].value
            if called in ("import_module", "__import__") and isinstance(literal, str):
                name = literal.lstrip(".")
                yield len(literal) - len(name), name


@cache
def _version(package: str) -> str | None:
    """Version of the distribution that holds a package; None if no distribution is known."""
    names = [package] if _known(package) else metadata.packages_distributions().get(package, [])
    return ", ".join(metadata.version(name) for name in names) or None


def _known(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except (metadata.PackageNotFoundError, ValueError):
        return False
    return True
