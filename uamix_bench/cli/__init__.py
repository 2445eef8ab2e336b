"""Command line: one file a command, loaded when it is called. A command parses, calls the library, prints."""

from __future__ import annotations

import os
import warnings
from importlib import import_module

import click

from uamix_bench.cli.commands import TopGroup
from uamix_bench.cli.errors import EXIT_CODES, Session, guarded
from uamix_bench.util.errors import nearest
from uamix_bench.util.threads import cores

# The names of modules here, each with an object `command`; in words, so that --help imports none of them.
COMMANDS = {
    "fewshot": "Evaluate models on few-shot tasks.",
    "recommend": "Recommend a model and a number of examples for your sounds.",
    "embed": "Write a model's embeddings of a task's clips to a file.",
    "demo": "Show the way from sounds to a decision, on bundled sounds.",
    "compare": "Compare two sets of results; fail on a regression.",
    "fit": "Fit the evaluated classifier to labelled clips.",
    "predict": "Label sounds by a classifier that 'fit' wrote.",
    "results": "List, show, verify or export results.",
    "tune": "Tune a pretrained encoder with uaMix-MAE, on mixtures.",
    "ablate": "Compare variants of a tuning on the same episodes.",
    "finetune": "Fine-tune an encoder on a task's labels, or probe it.",
    "pretrain": "Pre-train a masked autoencoder on sounds.",
    "reproduce": "Reproduce the paper's tables and figures with what is here.",
    "report": "Render results and trainings as HTML and Markdown.",
    "models": "List, show, fetch, check or convert models.",
    "tasks": "List tasks, look at a task or your own sounds, prepare data.",
    "cache": "List, check or prune cached embeddings and frames.",
    "leaderboard": "Build a static leaderboard from result files.",
    "env": "Print what a bug report needs.",
}

_COMPLETION = "_UAMIX_BENCH_COMPLETE"  # what a shell asks through, as click names it
_ENVIRONMENT = {
    "UAMIX_BENCH_HOME": "folder of data, checkpoints, embeddings and results (default: the user's cache folder)",
    "UAMIX_BENCH_CACHE_SIZE": "size limit of cached embeddings and frames, such as 10GB (default: no limit)",
    "UAMIX_BENCH_<COMMAND>_<OPTION>": "any option, such as UAMIX_BENCH_FEWSHOT_DEVICE=cpu",
    _COMPLETION: "bash_source, zsh_source or fish_source prints that shell's completion (README)",
}
_VARIABLES = ("UAMIX_BENCH_HOME", "UAMIX_BENCH_CACHE_SIZE", "UAMIX_BENCH_TEST_DATA")  # besides one for each option


class Commands(TopGroup):
    """The program's commands, which are imported on their first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports a command; None if the name is unknown."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"uamix_bench.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the exit codes and the environment."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])
        with formatter.section("Environment"):
            formatter.write_dl(list(_ENVIRONMENT.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="uamix-bench", message="%(package)s %(version)s", allow_from_autoenv=False)
def cli() -> None:
    """Few-shot benchmark for pretrained audio transformers, and the reference implementation of uaMix-MAE."""


def unknown_variables() -> list[str]:
    """Lines that name unknown environment variables beginning with UAMIX_BENCH_."""
    given = {name for name in os.environ if name.startswith("UAMIX_BENCH_")} - set(_VARIABLES)
    if not given:
        return []
    known = {*_VARIABLES, *_option_variables(click.Context(cli, auto_envvar_prefix="UAMIX_BENCH"))}
    unknown = sorted(given - known)
    return [f"{name} is set, and no such variable is known; {nearest(name, sorted(known))}" for name in unknown]


def _option_variables(context: click.Context) -> set[str]:
    """Environment variables of all options of a command and of its subcommands."""
    command, prefix = context.command, context.auto_envvar_prefix
    options = [option for option in command.params if isinstance(option, click.Option) and option.name]
    names = {f"{prefix}_{option.name}".upper() for option in options if option.allow_from_autoenv}
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            names |= _option_variables(click.Context(below, parent=context, info_name=name))
    return names


def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: Arguments after the program's name; default those of this process.

    Returns:
        Exit code.
    """

    os.environ["MPLBACKEND"] = "agg"  # figures go to files; what a notebook has set may not be installed here
    # Threads of OpenMP that wait actively take the processor from other work, many times what the work itself takes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "OMP_NUM_THREADS" not in os.environ:  # OpenMP sees the affinity, and no quota of a cgroup
        os.environ.setdefault("OMP_THREAD_LIMIT", str(cores()))

    if asked := os.environ.get(_COMPLETION):
        from click.shell_completion import shell_complete

        return shell_complete(cli, {"auto_envvar_prefix": "UAMIX_BENCH"}, "uamix-bench", _COMPLETION, asked)

    def run(arguments: list[str], session: Session) -> int:
        for line in unknown_variables():
            warnings.warn(line, stacklevel=1)
        with cli.make_context("uamix-bench", arguments, obj=session, auto_envvar_prefix="UAMIX_BENCH") as context:
            return cli.invoke(context) or 0

    return guarded(run, argv)
