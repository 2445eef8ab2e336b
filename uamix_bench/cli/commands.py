"""Commands and groups of commands whose errors say what to type instead. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from uamix_bench.cli.values import CommaList
from uamix_bench.util.errors import UsageError, nearest, similar

# Words of other programs, where similarity would find nothing or something else.
_COMMANDS_MEANT = {
    **dict.fromkeys(("eval", "evaluate", "run", "test", "bench", "benchmark"), ("fewshot",)),
    **dict.fromkeys(("list", "ls"), ("models ls", "tasks ls", "results ls")),
    **dict.fromkeys(("info", "show"), ("models info", "tasks info", "results show")),
    **dict.fromkeys(("download", "fetch", "prepare"), ("models fetch", "tasks prepare")),
    **dict.fromkeys(("train", "learn"), ("fit", "finetune", "tune")),
    **dict.fromkeys(("classify", "infer", "label"), ("predict",)),
    **dict.fromkeys(("probe",), ("finetune",)),
    **dict.fromkeys(("data", "dataset", "datasets"), ("tasks",)),
    **dict.fromkeys(("plot", "html"), ("report", "leaderboard build")),
}
_CHILDREN_MEANT = {
    **dict.fromkeys(("list", "status"), ("ls",)),
    **dict.fromkeys(("show", "describe", "cat"), ("info", "show")),
    **dict.fromkeys(("download", "get", "install", "pull"), ("fetch", "prepare")),
    **dict.fromkeys(("rm", "delete", "clear", "clean", "purge"), ("prune",)),
    **dict.fromkeys(("validate", "test"), ("verify", "check")),
    **dict.fromkeys(("make", "create", "write"), ("build", "miniature")),
}
_OPTIONS_MEANT = {
    **dict.fromkeys(("--data", "--dataset", "--datasets", "--dir", "--folder", "--input-dir"), "--task"),
    **dict.fromkeys(("--format", "--as-json"), "--json"),
    **dict.fromkeys(("--weights", "--ckpt"), "--checkpoint"),
    **dict.fromkeys(("--gpu", "--cuda", "--cpu"), "--device"),
    **dict.fromkeys(("--silent", "-q"), "--quiet"),
    "--queries": "--query",
}


class Command(click.Command):
    """Command that names the nearest option for an unknown one, and the place of a word that belongs to none."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the words after the command.

        Raises:
            UsageError: An option is unknown, or a word is no value of an option or argument.
        """
        given = list(args)
        ctx.allow_extra_args = True  # they are refused below, in words
        try:
            super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise _no_option(ctx, error.option_name) from error
        if ctx.args and not ctx.resilient_parsing:
            raise self._surplus(ctx, given)
        return ctx.args

    def _surplus(self, ctx: click.Context, given: Sequence[str]) -> UsageError:
        word = ctx.args[0]
        places = [at for at, one in enumerate(given) if one == word]
        place = next((at for at in places if not (at and self._option(given[at - 1]))), places[0])
        before = next((at for at in range(place - 1, -1, -1) if given[at].startswith("-")), place)
        option = self._option(given[before])
        if option and isinstance(option.type, CommaList) and given[before + 1 : place]:
            values = ",".join(part.strip(",") for part in given[before + 1 : place + len(ctx.args)] if part[:1] != "-")
            remedy = f"a list has commas and no spaces: {given[before]} {values}"
            return UsageError(word, "is one word too many", remedy)
        takes_task = any("--task" in parameter.opts for parameter in self.params)
        if takes_task and (Path(word).exists() or any(mark in word for mark in "/\\.")):
            return UsageError(word, "belongs to no option", f"sounds go with --task: --task {word}")
        return UsageError(word, "belongs to no option", f"see '{ctx.command_path} --help'")

    def _option(self, name: str) -> click.Parameter | None:
        """The option of a name, if it takes the word after it."""
        return next((one for one in self.params if name in one.opts and not getattr(one, "is_flag", False)), None)


class Group(click.Group):
    """Group of commands: alone it prints its help, and for an unknown command it names the nearest."""

    command_class = Command
    meant: dict[str, tuple[str, ...]] = _CHILDREN_MEANT

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the words after the group; without any, prints the help."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise _no_option(ctx, error.option_name) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command that the first word names.

        Raises:
            UsageError: The name is unknown; the line suggests the nearest.
        """
        name = args[0]
        known = self.list_commands(ctx)
        if name not in known and not ctx.resilient_parsing:
            raise UsageError(name, "no such command", self._suggestion(name, known))
        return super().resolve_command(ctx, args)

    def _suggestion(self, name: str, known: list[str]) -> str:
        folded = name.lower()
        meant = [one for one in self.meant.get(folded, ()) if one.partition(" ")[0] in known]
        if not meant or folded in known:
            return nearest(name, known)
        named = [f"'{one}'" for one in meant]
        return f"did you mean {' or '.join(filter(None, (', '.join(named[:-1]), named[-1])))}?"


class TopGroup(Group):
    """The program itself, as a group."""

    meant = _COMMANDS_MEANT


def _no_option(ctx: click.Context, name: str) -> UsageError:
    known = [option for parameter in ctx.command.params for option in parameter.opts if option[:1] == "-"]
    wanted = _OPTIONS_MEANT.get(name)
    close = wanted if wanted in known else similar(name, [option for option in known if option.startswith("--")])
    remedy = f"did you mean '{close}'?" if close else f"see '{ctx.command_path} --help'"
    return UsageError(name, f"is no option of '{ctx.command_path}'", remedy)


def command(name: str) -> Callable[[Callable[..., Any]], Command]:
    """Decorator that makes a function a :class:`Command`."""
    return click.command(name, cls=Command)


def group(name: str) -> Callable[[Callable[..., Any]], Group]:
    """Decorator that makes a function a :class:`Group`."""
    return click.group(name, cls=Group)
