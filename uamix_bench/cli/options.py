"""Options that several commands share, as decorators."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from click.shell_completion import CompletionItem

from uamix_bench.cli.errors import Session
from uamix_bench.engines.engine import ENGINES
from uamix_bench.util.errors import BadInputError, UsageError, nearest
from uamix_bench.util.files import expanded, read_toml

AnyCallback = TypeVar("AnyCallback", bound=Callable[..., Any])
_VAST = 2**31 - 1  # from here on a limit goes without saying, until a number passes it
_SHORT = re.compile(r"[1-9](\.[0-9]+)?[eE]\+?[0-9]")
_RANGE = re.compile(r"([0-9]{1,6})(?:-|\.\.)([0-9]{1,6})")
_LONGEST_RANGE = 100  # numbers
_FILES = frozenset({".json", ".csv", ".tsv", ".txt", ".md", ".html"})  # what no folder is named


class Number(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 only
    """Number within limits, written in help and errors as a person would; NaN is never within them.

    Args:
        least: Smallest value; if it is an int, only whole numbers are valid.
        most: Largest value.
        beyond: Whether `least` itself is too small.
        metavar: Name of the value in the help; default N, with limits other than those of a count.
    """

    name = "number"

    def __init__(self, least: float = 1, most: float = _VAST, *, beyond: bool = False, metavar: str = "") -> None:
        self.least, self.most, self.beyond = least, most, beyond
        self.number = click.INT if isinstance(least, int) else click.FLOAT
        limits = f"{least:g}.." + (f"{most:g}" if most < _VAST else "")
        self.metavar = metavar or ("N" if limits in ("0..", "1..") else limits)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Name of the value in the help."""
        return self.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Reads the number; a whole one may be written as 1e4."""
        if self.number is click.INT and isinstance(value, str) and _SHORT.fullmatch(value):
            value = int(float(value)) if float(value).is_integer() else value
        number: float = self.number.convert(value, param, ctx)
        if not (number > self.least if self.beyond else number >= self.least):
            self.fail(f"{number} is not {'above' if self.beyond else 'at least'} {self.least:g}", param, ctx)
        if number > self.most:
            self.fail(f"{number} is not at most {self.most}", param, ctx)
        return number


COUNT = Number()


def _exists(path: str) -> bool:
    return path != "" and Path(path).exists()


def _places(value: str) -> list[str]:
    """Paths that a value may be: itself, or what follows its name, as in NAME=PATH and NAME:PATH."""
    split = (value.partition(mark) for mark in "=:")
    return [value, *(path for name, mark, path in split if mark and "," not in name)]


class CommaList(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 only
    """List of one or more values with commas between them; a path that exists is never split.

    Args:
        item: Type of each value.
        metavar: Name of the values in the help.
        names: Function that gives the names which a shell completes; paths are completed besides.
    """

    name = "list"
    envvar_list_splitter = ","

    def __init__(
        self,
        item: click.ParamType[Any] = click.STRING,
        metavar: str = "LIST",
        names: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self.item = item
        self.metavar = metavar
        self._names = names

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Name of the values in the help."""
        return self.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Splits and converts; lists (from a TOML file) are taken as they are."""
        if isinstance(value, (list, tuple)):
            parts = list(value)
        elif not isinstance(value, str) or any(map(_exists, _places(value))):
            parts = [value]
        else:
            parts = [part.strip() for part in value.split(",")]
        if len(parts) > 1 and parts[-1] == "" and parts[0] != "":
            self.fail(f"'{value}' ends in a comma; a list has commas and no spaces: {value}NEXT", param, ctx)
        if not all(part != "" for part in parts) or not parts:
            self.fail("an empty name or number", param, ctx)
        return tuple(self.item.convert(one, param, ctx) for part in parts for one in self._spread(part, param, ctx))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names that complete the last value of a list, or else a path."""
        before, comma, last = incomplete.rpartition(",")
        found = [CompletionItem(f"{before}{comma}{name}") for name in self._names() if name.startswith(last)]
        return found or [CompletionItem(incomplete, type="file")]

    def _spread(self, part: Any, param: click.Parameter | None, ctx: click.Context | None) -> Iterable[Any]:
        """The numbers of a range, 1-5 or 1..5; anything else is one value."""
        found = _RANGE.fullmatch(part) if isinstance(self.item, Number) and isinstance(part, str) else None
        if found is None:
            return (part,)
        first, last = map(int, found.groups())
        if not first <= last < first + _LONGEST_RANGE:
            self.fail(f"'{part}' is no range of 1 to {_LONGEST_RANGE} numbers; a list is 1,5,10", param, ctx)
        return range(first, last + 1)


class CountOrAuto(click.ParamType):  # type: ignore[type-arg]  # as above
    """Number from 1 on, or the word auto."""

    name = "count"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Name of the value in the help."""
        return "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Literal["auto"]:
        """Reads the word or the number."""
        if value == "auto":
            return "auto"
        try:
            return int(COUNT.convert(value, param, ctx))
        except click.BadParameter:
            self.fail(f"{value!r} is neither a number from 1 on nor 'auto'", param, ctx)


class CountOrAll(Number):
    """Number of ways from 2 on, or the word all: all classes with enough clips."""

    def __init__(self) -> None:
        super().__init__(2, metavar="N|all")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Reads the word or the number."""
        if value == "all":
            from uamix_bench.scoring.episodes import ALL_CLASSES

            return ALL_CLASSES
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(f"{value!r} is neither a number from 2 on nor 'all'", param, ctx)


class Points(click.ParamType):  # type: ignore[type-arg]  # as above
    """Difference between accuracies in percentage points, as in 1pp or 0.5; read as a fraction."""

    name = "points"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Name of the value in the help."""
        return "POINTS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads the number."""
        text = str(value).removesuffix("pp").strip()
        try:
            return float(Number(0.0, 100.0, beyond=True).convert(text, param, ctx)) / 100
        except click.BadParameter:
            self.fail(f"{value!r} is no number of percentage points above 0, such as 1pp", param, ctx)


def merged(_: click.Context, __: click.Parameter, values: tuple[tuple[Any, ...], ...]) -> tuple[Any, ...]:
    """Joins the lists of a repeated option, each value once, in order."""
    return tuple(dict.fromkeys(value for group in values for value in group))


def joined(_: click.Context, __: click.Parameter, values: tuple[tuple[Any, ...], ...]) -> tuple[Any, ...]:
    """Joins the lists of a repeated option, in order."""
    return tuple(value for group in values for value in group)


def to_path(_: click.Context, __: click.Parameter, value: str | None) -> Path | None:
    """Path as given, with ~ for the user's home; the library checks if it must exist."""
    return None if value is None else expanded(value)


def _model_names() -> Iterable[str]:
    from uamix_bench.plugins import registry

    return sorted({*registry.models(), *registry.bundled_weights()})


def _task_names() -> Iterable[str]:
    from uamix_bench.plugins import registry

    return sorted(registry.tasks())


def out(words: str, metavar: str = "DIR", **more: Any) -> Callable[[AnyCallback], AnyCallback]:
    """Makes -o: the place of what the command writes, under the same names in every command.

    Args:
        words: Help text.
        metavar: Name of the value in the help: a folder, or FILE.
        **more: Further arguments of `click.option`, such as a default.
    """
    callback = to_path if metavar == "FILE" else _to_folder
    return click.option("-o", "--out", "--output", "output", metavar=metavar, callback=callback, help=words, **more)


def _to_folder(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Path | None:
    """Path of a folder; the name of a file is refused."""
    path = to_path(ctx, parameter, value)
    if path is not None and path.suffix.lower() in _FILES and not path.is_dir():
        folder = path.with_suffix("")
        document = "; --json prints one document" if path.suffix.lower() == ".json" else ""
        raise UsageError(
            f"--out {value}", "is named like a file, and a folder goes here", f"give -o {folder}{document}"
        )
    return path


COUNTS = CommaList(COUNT, "N[,N...]")
MIXINGS = click.Choice(["none", "mixup", "t-cutmix", "tf-cutmix"])
MODELS = CommaList(metavar="NAME[,...]", names=_model_names)
_TASKS = CommaList(metavar="NAME[,...]", names=_task_names)

# What several commands take under one name, with one meaning.
model = click.option(
    "-m",
    "--model",
    multiple=True,
    type=MODELS,
    callback=merged,
    default=["uamix"],
    show_default=True,
    help="Model: a name, NAME=PATH or NAME=hf:ID with its weights, hf:ID_OR_FOLDER[@REVISION], hear:MODULE[=WEIGHTS], "
    "emb:FILE (embeddings made elsewhere), or FILE.py:CLASS. Lists, globs, repeatable.",
)
task = click.option(
    "-t",
    "--task",
    multiple=True,
    type=_TASKS,
    callback=merged,
    default=["instruments", "studio-samples"],
    show_default=True,
    help="Task: a name, all, a folder with a sub-folder per class, a CSV (path,label[,group,split]), or FILE.py:CLASS. "
    "Lists, globs, repeatable.",
)
own_task = click.option(
    "-t",
    "--task",
    multiple=True,
    type=CommaList(metavar="PATH[,...]"),
    callback=merged,
    help="Folder or CSV of your own data, for results on it.",
)
WAY = ("-n", "--n", "--way", "--n-way")
SHOT = ("-k", "--k", "--shot", "--k-shot")
way = click.option(
    *WAY,
    "n",
    type=CommaList(CountOrAll(), "N|all[,...]"),
    default="5",
    show_default=True,
    help="Ways: classes per episode, a list or a range 2-5; all: every class with enough clips.",
)
shot = click.option(
    *SHOT, "k", type=COUNTS, default="1", show_default=True, help="Shots: supports per class, a list or a range 1-5."
)
layer = click.option("--layer", metavar="N|last|mean", help="Layer whose tokens are pooled, for models hf:...")
pretrained_on = click.option(
    "--pretrained-on",
    multiple=True,
    type=CommaList(metavar="DATA[,...]"),
    callback=merged,
    help="Data sets that the one --model was trained on; default those of its card.",
)
trust_remote_code = click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Run the code in the repository of hf:ID@COMMIT; needs the full commit hash.",
)
checkpoint = click.option("--checkpoint", metavar="PATH", callback=to_path, help="Weights of the one --model.")
name = click.option(
    "--name",
    multiple=True,
    type=CommaList(metavar="LABEL[,...]"),
    callback=joined,
    help="Labels of the models in tables and results, in their order; default the name of the model or its weights.",
)
model_arg = click.option(
    "-M",
    "--model-arg",
    multiple=True,
    metavar="KEY=VALUE",
    help="Argument of the one --model, which its class takes; part of its identity. Repeatable.",
)
segments = click.option(
    "--segments",
    type=click.Choice(["first", "mean"]),
    default="first",
    show_default=True,
    help="Embedding of a clip longer than --clip-seconds: its first segment, or the mean over all segments.",
)
dtype = click.option(
    "--dtype",
    type=click.Choice(["float32", "bf16"]),
    default="float32",
    show_default=True,
    help="Precision of the encoder. bf16 changes predictions and is not compared with float32.",
)
input_length = click.option(
    "--input",
    type=click.Choice(["native", "official"]),
    default="native",
    show_default=True,
    help="Input length: the clip's own, or padded to the length of pre-training.",
)
data_dir = click.option(
    "--data-dir", metavar="DIR", callback=to_path, help="Folder of the data sets; default UAMIX_BENCH_HOME/data."
)
audio_root = click.option(
    "--audio-root",
    metavar="DIR",
    callback=to_path,
    help="Folder that the paths of a CSV are relative to; default the CSV's own.",
)
clip_seconds = click.option(
    "--clip-seconds",
    type=Number(0.0, beyond=True, metavar="SECONDS"),
    help="Length in seconds at which clips are cut; default the task's.",
)
batch_size = click.option(
    "--batch-size", type=COUNT, default=16, show_default=True, help="Maximum number of clips in a batch."
)
recipe = click.option(
    "--recipe", default="tiny", show_default=True, metavar="NAME", help="Recipe, by name or as a JSON file."
)
workers = click.option("--workers", type=COUNT, help="Number of decoding processes; default one a core.")
allow_partial = click.option(
    "--allow-partial", is_flag=True, help="Evaluate an incomplete data set; never ranked, exit code 6."
)
keep_going = click.option(
    "--keep-going", is_flag=True, help="Skip broken clips and name them; the result is partial, exit code 6."
)
report_folder = out("Folder for the report.", default="uamix-report", show_default=True)
results_folder = out("Results folder; default UAMIX_BENCH_HOME/results.")


def _remember(field: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        session = ctx.find_object(Session)
        if session is not None and value:
            setattr(session, field, True)

    return callback


def json_output(function: AnyCallback) -> AnyCallback:
    """Adds --json and -v, which are read when the program ends."""
    for names, field, words in (
        (("-v", "--verbose"), "verbose", "Show the traceback of an error."),
        (("--json",), "json", "Print one JSON document instead of tables, errors too."),
    ):
        option = click.option(
            *names, is_flag=True, is_eager=True, expose_value=False, callback=_remember(field), help=words
        )
        function = option(function)
    return function


def quiet(function: AnyCallback) -> AnyCallback:
    """Adds --quiet."""
    return click.option("--quiet", is_flag=True, help="Silence: no progress and no notes on stderr.")(function)


def device(function: AnyCallback) -> AnyCallback:
    """Adds --device."""
    words = "Device of the encoder: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps."
    return click.option("--device", default="auto", show_default=True, metavar="NAME", help=words)(function)


def engine(function: AnyCallback) -> AnyCallback:
    """Adds --engine and --engine-address."""
    words = "Address of the Ray cluster; default RAY_ADDRESS, or the cluster of this machine."
    function = click.option("--engine-address", metavar="HOST:PORT", help=words)(function)
    words = "Place of the work: this process, or the workers of a cluster (docs/engines.md)."
    names = click.Choice(ENGINES)
    return click.option("--engine", type=names, default="local", show_default=True, help=words)(function)


def config(function: AnyCallback) -> AnyCallback:
    """Adds --config: a TOML file of the command's own options, which the command line overrides."""
    return click.option(
        "--config",
        metavar="FILE.toml",
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="TOML file of options by their long names; the command line and the environment take precedence.",
    )(function)


def of_a_run(function: AnyCallback) -> AnyCallback:
    """Adds the options of all long work, last: --config, --quiet, --json and -v."""
    return config(quiet(json_output(function)))


def _read_config(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    if path is None:
        return
    try:
        given = read_toml(Path(path))
    except BadInputError as error:
        raise UsageError(path, error.reason, "check --config") from error
    except OSError as error:
        raise UsageError(path, f"cannot be read ({error.strerror})", "check --config") from error
    except ValueError as error:
        raise UsageError(path, f"is not valid TOML ({error})", "correct the file") from error
    options = {
        name.lstrip("-"): option for option in ctx.command.params for name in option.opts if name.startswith("--")
    }
    defaults = {}
    for key, value in given.items():
        option = options.get(key.replace("_", "-"))
        if option is None or option.name in (None, "config"):
            raise UsageError(path, f"no option '{key}'", nearest(key, list(options)))
        listed = isinstance(option, click.Option) and option.multiple and not isinstance(value, list)
        defaults[option.name] = [value] if listed else value
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
