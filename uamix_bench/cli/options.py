"""Options that several commands share, as decorators."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from uamix_bench.cli.errors import Session
from uamix_bench.cli.values import COUNT, COUNTS, SEED, WAYS, CommaList, Number
from uamix_bench.engines.engine import ENGINES
from uamix_bench.util.errors import BadInputError, UsageError, nearest
from uamix_bench.util.files import expanded, read_toml

AnyCallback = TypeVar("AnyCallback", bound=Callable[..., Any])
_FILES = frozenset({".json", ".csv", ".tsv", ".txt", ".md", ".html"})  # what no folder is named


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


MIXINGS = click.Choice(["none", "mixup", "t-cutmix", "tf-cutmix"])
MODELS = CommaList(metavar="NAME[,...]", names=_model_names)
WAY = ("-n", "--n", "--way", "--n-way")
SHOT = ("-k", "--k", "--shot", "--k-shot")


def listed(*names: str, kind: CommaList, words: str, **more: Any) -> Callable[[AnyCallback], AnyCallback]:
    """Makes an option of lists, which may be repeated; each value counts once."""
    return click.option(*names, multiple=True, type=kind, callback=merged, help=words, **more)


def path(option: str, words: str, metavar: str = "DIR") -> Callable[[AnyCallback], AnyCallback]:
    """Makes an option whose value is a path."""
    return click.option(option, metavar=metavar, callback=to_path, help=words)


def choice(option: str, words: str, *values: str) -> Callable[[AnyCallback], AnyCallback]:
    """Makes an option with a few values, of which the first is the default."""
    return click.option(option, type=click.Choice(values), default=values[0], show_default=True, help=words)


def seed(words: str, **more: Any) -> Callable[[AnyCallback], AnyCallback]:
    """Makes --seed."""
    return click.option("--seed", type=SEED, help=words, **more)


def dry_run(words: str) -> Callable[[AnyCallback], AnyCallback]:
    """Makes --dry-run."""
    return click.option("--dry-run", is_flag=True, help=words)


def _chosen(*given: Any) -> tuple[str, ...]:
    from uamix_bench.cli.selection import chosen_tasks

    return tuple(chosen_tasks(merged(*given)))


# What several commands take under one name, with one meaning.
model = listed(
    "-m",
    "--model",
    kind=MODELS,
    default=["uamix"],
    show_default=True,
    words="Model: a name, NAME=PATH or NAME=hf:ID with its weights, hf:ID_OR_FOLDER[@REVISION], hear:MODULE[=WEIGHTS], "
    "emb:FILE (embeddings made elsewhere), or FILE.py:CLASS. Lists, globs, repeatable.",
)
task = listed(
    "-t",
    "--task",
    kind=CommaList(metavar="NAME[,...]", names=_task_names),
    default=["instruments", "studio-samples"],
    show_default=True,
    words="Task: a name, all, a folder with a sub-folder per class, a CSV (path,label[,group,split]), or "
    "FILE.py:CLASS. Lists, globs, repeatable.",
)
own_task = click.option(
    "-t",
    "--task",
    multiple=True,
    type=CommaList(metavar="PATH[,...]"),
    callback=_chosen,
    help="Folder or CSV of your own data, for results on it.",
)
way = click.option(
    *WAY,
    "n",
    type=CommaList(WAYS, "N|all[,...]"),
    default="5",
    show_default=True,
    help="Ways: classes per episode, a list or a range 2-5; all: every class with enough clips.",
)
shot = click.option(
    *SHOT, "k", type=COUNTS, default="1", show_default=True, help="Shots: supports per class, a list or a range 1-5."
)
query = click.option("--q", "--query", "q", type=COUNT, help="Queries per class; default the protocol's (paper: 15).")
episodes = click.option("--episodes", type=COUNT, help="Number of episodes; default the protocol's.")
protocol = choice(
    "--protocol",
    "Defaults of the options: paper (all classes, 600 episodes, 15 queries), metaaudio (test classes, 10,000, 1).",
    "paper",
    "metaaudio",
)
classes = path(
    "--classes",
    "File with the classes to take, one a line, or a CSV (label,class_name) with names for fewshot --k 0.",
    "FILE",
)
classifier = click.option(
    "--classifier",
    default="nearest-centroid",
    show_default=True,
    metavar="NAME",
    help="Classifier: nearest-centroid, cosine (easyfsl's SimpleShot), simpleshot (CL2N, centred on the clips "
    "passed), l2n (unit length, nearest centroid), knn, or logistic-regression.",
)
neighbors = click.option(
    "--neighbors", type=COUNT, default=1, show_default=True, help="Number of nearest supports that vote in knn."
)
group_disjoint = click.option(
    "--group-disjoint", is_flag=True, help="Draw supports and queries from different groups (recordings, speakers)."
)
min_clips = click.option(
    "--min-clips",
    type=COUNT,
    help="Fewest clips of an eligible class; default its supports and queries at the largest --k.",
)
pooling = click.option(
    "--pooling", metavar="NAME", help="Pooling from tokens to an embedding; default the model's own."
)
layer = click.option("--layer", metavar="N|last|mean", help="Layer whose tokens are pooled, for models hf:...")
pretrained_on = listed(
    "--pretrained-on",
    kind=CommaList(metavar="DATA[,...]"),
    words="Data sets that the one --model was trained on; default those of its card.",
)
trust_remote_code = click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Run the code in the repository of hf:ID@COMMIT; needs the full commit hash.",
)
checkpoint = path("--checkpoint", "Weights of the one --model.", "PATH")
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
segments = choice(
    "--segments",
    "Embedding of a clip longer than --clip-seconds: its first segment, or the mean over all segments.",
    "first",
    "mean",
)
dtype = choice(
    "--dtype", "Precision of the encoder. bf16 changes predictions and is not compared with float32.", "float32", "bf16"
)
input_length = choice(
    "--input", "Input length: the clip's own, or padded to the length of pre-training.", "native", "official"
)
data_dir = path("--data-dir", "Folder of the data sets; default UAMIX_BENCH_HOME/data.")
audio_root = path("--audio-root", "Folder that the paths of a CSV are relative to; default the CSV's own.")
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
changes = click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Field of the recipe to change: alpha=0.5, views=mtslvr, views.stretch=0.",
)
workers = click.option("--workers", type=COUNT, help="Number of decoding processes; default one a core.")
allow_partial = click.option(
    "--allow-partial", is_flag=True, help="Evaluate an incomplete data set; never ranked, exit code 6."
)
keep_going = click.option(
    "--keep-going", is_flag=True, help="Skip broken clips and name them; the result is partial, exit code 6."
)
no_cache = click.option("--no-cache", is_flag=True, help="Neither read nor write cached embeddings.")
report_folder = out("Folder for the report.", default="uamix-report", show_default=True)
results_folder = out("Results folder; default UAMIX_BENCH_HOME/results.")
quiet = click.option("--quiet", is_flag=True, help="Silence: no progress and no notes on stderr.")
device = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Device of the encoder: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.",
)


def _remember(field: str, ctx: click.Context, _: click.Parameter, value: bool) -> None:
    session = ctx.find_object(Session)
    if session is not None and value:
        setattr(session, field, True)


def json_output(function: AnyCallback) -> AnyCallback:
    """Adds --json and -v, which are read when the program ends."""
    for names, field, words in (
        (("-v", "--verbose"), "verbose", "Show the traceback of an error."),
        (("--json",), "json", "Print one JSON document instead of tables, errors too."),
    ):
        callback = partial(_remember, field)
        option = click.option(*names, is_flag=True, is_eager=True, expose_value=False, callback=callback, help=words)
        function = option(function)
    return function


def engine(function: AnyCallback) -> AnyCallback:
    """Adds --engine and --engine-address."""
    words = "Address of the Ray cluster; default RAY_ADDRESS, or the cluster of this machine."
    function = click.option("--engine-address", metavar="HOST:PORT", help=words)(function)
    words = "Place of the work: this process, or the workers of a cluster (docs/engines.md)."
    names = click.Choice(ENGINES)
    return click.option("--engine", type=names, default="local", show_default=True, help=words)(function)


def of_a_run(function: AnyCallback) -> AnyCallback:
    """Adds the options of all long work, last: --config, --quiet, --json and -v."""
    config = click.option(
        "--config",
        metavar="FILE.toml",
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="TOML file of options by their long names; the command line and the environment take precedence.",
    )
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
