"""Models, tasks and reports by name: entry points, and the cards beside them. Listing never imports a plugin."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from uamix_bench.plugins.as_written import import_as_written, module_spec
from uamix_bench.plugins.card import ModelCard, TaskCard, Weights, read_card
from uamix_bench.util.errors import BadInputError, MachineError, UsageError, is_out_of_memory, nearest, package_error
from uamix_bench.util.files import expanded, home

AnyCard = TypeVar("AnyCard", ModelCard, TaskCard)

_WEIGHTS = frozenset({".pth", ".pt", ".ckpt", ".bin", ".safetensors"})


class RenderedPage(Protocol):
    """Output of a report: a title, one self-contained HTML file, the same as Markdown, and the files beside them.

    The optional attribute `said` holds lines of the page that are also shown on stderr.
    """

    title: str
    html: str
    markdown: str
    files: Mapping[str, str]


Report: TypeAlias = Callable[..., RenderedPage]  # (records, **options)


@dataclass(frozen=True)
class Plugin(Generic[AnyCard]):
    """A registered model or task: its name, its entry point, its card, and the folder of its code."""

    name: str
    entry_point: EntryPoint
    card: AnyCard
    folder: Path

    def load(self) -> Any:
        """Imports and returns the plugin's class.

        Raises:
            BadInputError: The plugin fails to import; the line names it and the cause.
            MachineError: A package that the plugin needs fails to import; the line names that package.
        """
        return _load(self.entry_point)


def models() -> dict[str, Plugin[ModelCard]]:
    """Registered models by name, from their cards alone."""
    return dict(_read("uamix_bench.models", ModelCard))


def tasks() -> dict[str, Plugin[TaskCard]]:
    """Registered tasks by name, from their cards alone."""
    return dict(_read("uamix_bench.tasks", TaskCard))


def reports() -> dict[str, EntryPoint]:
    """Registered reports by name; reports have no cards."""
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group="uamix_bench.reports"), key=_by_name_own_first):
        found.setdefault(point.name, point)
    return found


def find_report(kind: str) -> Report:
    """Imports a report by its kind: a callable that takes records, and its own options by name.

    Raises:
        UsageError: No installed package has a report of that kind; the line suggests the nearest.
        BadInputError: The report fails to import.
        MachineError: A package that the report needs fails to import.
    """
    known = reports()
    if kind not in known:
        raise UsageError(kind, "no such report", nearest(kind, list(known)))
    report: Report = _load(known[kind])
    return report


def bundled_weights() -> dict[str, tuple[Plugin[ModelCard], Weights]]:
    """Bundled weights by id, each with the model that it belongs to."""
    return {weights.id: (plugin, weights) for plugin in models().values() for weights in plugin.card.weights}


def find_model(name: str) -> tuple[Plugin[ModelCard], Weights | None]:
    """Resolves an architecture or a weights id.

    Returns:
        The plugin, and the bundled weights of that id, or the architecture's default ones, if any.

    Raises:
        UsageError: The name is unknown; the line suggests the nearest.
    """
    known, weights = models(), bundled_weights()
    if name in weights:
        return weights[name]
    if name not in known:
        if Path(name).suffix == ".py":
            raise UsageError(f"--model {name}", "is a file of code", f"name the class in it too, as {name}:CLASS")
        if Path(name).suffix in _WEIGHTS:
            raise UsageError(f"--model {name}", "is a file of weights", f"say whose, as audiomae={name}")
        raise UsageError(f"--model {name}", "no such model", nearest(name, [*known, *weights]))
    card = known[name].card
    return known[name], next((entry for entry in card.weights if entry.id == card.default_weights), None)


def fetched(card: ModelCard) -> tuple[list[Path], list[Path]]:
    """Weights files in a model's folder of checkpoints, unread: those that its card lists, in its order, and others."""
    folder = home() / "checkpoints" / card.name
    found = sorted(path for path in folder.rglob("*") if path.suffix in _WEIGHTS and path.is_file())
    of_card = {Path(file.name).stem: place for place, file in enumerate(card.files)}

    def stem(path: Path) -> str:
        return path.stem if path.parent == folder else path.relative_to(folder).parts[0]  # what a zip unpacks to

    listed = [path for path in found if stem(path) in of_card]
    return sorted(listed, key=lambda path: of_card[stem(path)]), [path for path in found if path not in listed]


def find_reference(name: str) -> tuple[Plugin[ModelCard], str] | None:
    """Splits ``NAME:REFERENCE`` where NAME is a model whose card takes references; None for any other name.

    Raises:
        UsageError: Nothing follows the colon, or the model's name stands alone.
    """
    prefix, colon, reference = name.partition(":")
    plugin = models().get(prefix.partition("=")[0])
    if plugin is None or not plugin.card.reference:
        return None
    if not colon or "=" in prefix or not reference:
        raise UsageError(f"--model {name}", "does not say which model", f"give {plugin.name}:{plugin.card.reference}")
    return plugin, reference


def find_task(name: str) -> Plugin[TaskCard]:
    """Returns a registered task, by its name or one of its card's aliases.

    Raises:
        UsageError: The name is unknown; the line suggests the nearest.
    """
    known = tasks()
    aliases = {alias: plugin for plugin in known.values() for alias in plugin.card.aliases}
    found = known.get(name) or aliases.get(name)
    if found is None:
        remedy = f"{nearest(name, [*known, *aliases])} (a folder or CSV goes by its path)"
        raise UsageError(f"--task {name}", "no such task", remedy)
    return found


def from_file(reference: str, option: str) -> Any:
    """Imports ``path.py:Name``, as the file and those beside it are now, and returns the object of that name.

    Raises:
        BadInputError: The file or the name does not exist, or the module fails to import.
        MachineError: A package that the module needs fails to import.
    """
    path_text, _, name = reference.rpartition(":")
    path = Path(path_text)
    module = _of_file(path, f"{option} FILE.py:NAME")
    if not hasattr(module, name):
        raise BadInputError(path, f"defines no '{name}'", nearest(name, [n for n in vars(module) if n[0] != "_"]))
    return getattr(module, name)


def import_module(name: str, form: str) -> ModuleType:
    """Imports a stranger's module, by its dotted name or by the path of its file, as its files are now.

    Args:
        name: Name of the module, or a path that ends in ``.py``.
        form: Form of the option that names it, for error lines.

    Raises:
        BadInputError: The file does not exist, or the module fails to import, or has no source file.
        MachineError: The module, or a package that it needs, is not installed or fails to import.
    """
    if name.endswith(".py"):
        return _of_file(expanded(name), form)
    import_as_written()
    try:
        with redirect_stdout(sys.stderr):  # stdout is for results
            module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises
        if is_out_of_memory(error):
            raise
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            remedy = f"install the package that has it, or give a file's path, as {form}"
            raise MachineError(name, "is not installed", remedy) from error
        own = BadInputError(name, f"fails to import ({type(error).__name__}: {error})", "repair the module")
        raise package_error(error, name) or own from error
    if not getattr(module, "__file__", None):
        raise BadInputError(name, "has no source file", "name the module that has the functions")
    return module


def _of_file(path: Path, form: str) -> ModuleType:
    if not path.is_file():
        raise BadInputError(path, "no such file", f"give {form}")
    spec = module_spec(f"uamix_bench_user_{path.stem}", path)
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with redirect_stdout(sys.stderr):  # stdout is for results
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises
        sys.modules.pop(spec.name, None)
        if is_out_of_memory(error):
            raise
        reason = f"fails to import ({type(error).__name__}: {error})"
        own = BadInputError(_line_of(error, path), reason, "repair the file")
        raise package_error(error, spec.name) or own from error
    return module


def _line_of(error: BaseException, path: Path) -> str:
    """File and line of an error, innermost in the given file's folder; the file alone if no line is known."""
    import traceback

    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    folder = path.absolute().parent
    frames = [one for one in traceback.extract_tb(error.__traceback__) if Path(one.filename).parent == folder]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else str(path)


def _load(point: EntryPoint) -> Any:
    if not point.value.startswith("uamix_bench."):
        import_as_written()
    try:
        return point.load()
    except Exception as error:  # whatever a stranger's module raises
        if is_out_of_memory(error):
            raise
        own = BadInputError(point.value, f"fails to import ({type(error).__name__}: {error})", "repair the plugin")
        raise package_error(error, point.module) or own from error


def forget() -> None:
    """Forgets the plugins, so that packages installed meanwhile are found."""
    _announced.cache_clear()
    _read.cache_clear()


@cache
def _announced() -> Any:
    """Entry points of all installed packages, to select from. Reading their metadata takes time."""
    return entry_points()


@cache
def _read(group: str, kind: type[AnyCard]) -> tuple[tuple[str, Plugin[AnyCard]], ...]:
    found: dict[str, Plugin[AnyCard]] = {}
    for point in sorted(_announced().select(group=group), key=_by_name_own_first):
        try:
            if point.name in found:
                raise BadInputError(point.value, "the name is taken", "rename it in the package that announces it")
            found[point.name] = _plugin(point, kind)
        except Exception as error:  # whatever is wrong with a stranger's package, the others stay usable
            warnings.warn(f"{group} plugin '{point.name}' is left out: {error}", stacklevel=2)
    return tuple(found.items())


def _by_name_own_first(point: EntryPoint) -> tuple[str, bool, str]:
    return point.name, not point.value.startswith("uamix_bench."), point.value


def _plugin(point: EntryPoint, kind: type[AnyCard]) -> Plugin[AnyCard]:
    source = _source(point.module)
    by_card = source.name == "__init__.py"  # "PACKAGE:NAME" names NAME.toml in PACKAGE, a card without a reader
    path = source.with_name(f"{point.attr}.toml") if by_card else source.with_suffix(".toml")
    card = read_card(path, kind)
    if card.name != point.name:
        raise BadInputError(path, f"is the card of '{card.name}'", "give card and entry point one name")
    return Plugin(point.name, point, card, path.parent)


def _source(module: str) -> Path:
    """Finds a module's file without importing it or any package above it."""
    spec: ModuleSpec | None = None
    for depth in range(1, module.count(".") + 2):
        name = ".".join(module.split(".")[:depth])
        path = spec.submodule_search_locations if spec else None
        found = (finder.find_spec(name, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((s for s in found if s is not None), None)
        if spec is None:
            raise BadInputError(module, "the module is not installed", "reinstall the package that announces it")
    if spec is None or spec.origin is None:
        raise BadInputError(module, "has no source file", "an entry point names a module")
    return Path(spec.origin)
