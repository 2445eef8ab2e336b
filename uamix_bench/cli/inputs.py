"""Options that name the models and the sounds of a command; each group reaches the command as one object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from uamix_bench.cli import options, selection
from uamix_bench.util.errors import UsageError

if TYPE_CHECKING:
    from uamix_bench.data.task import TaskData


class Models(NamedTuple):
    """Values of --model and of the options of its encoder, as :func:`uamix_bench.load_model` takes them."""

    model: tuple[str, ...] = ()
    checkpoint: Path | None = None
    name: tuple[str, ...] = ()
    model_arg: tuple[str, ...] = ()
    pooling: str | None = None
    layer: str | None = None
    trust_remote_code: bool = False
    pretrained_on: tuple[str, ...] = ()
    input: Literal["native", "official"] = "native"
    device: str = "auto"
    dtype: Literal["float32", "bf16"] = "float32"

    def chosen(self) -> list[str]:
        """Names of the models, lists and globs expanded.

        Raises:
            UsageError: No such model, or it needs weights; weights or arguments for several; or no labels of results.
            BadInputError: The weights do not exist.
        """
        from uamix_bench.models.arguments import parsed

        found = list(dict.fromkeys(name for one in self.model for name in selection.models(one, self.checkpoint)))
        alone = {"--checkpoint": self.checkpoint, "--pretrained-on": self.pretrained_on, "--model-arg": self.model_arg}
        if len(found) > 1 and any(alone.values()):
            option = next(option for option, value in alone.items() if value)
            remedy = "run them one by one" + (", or use NAME=PATH" if self.checkpoint else "")
            raise UsageError(option, f"belongs to one model, and {len(found)} are given", remedy)
        parsed(self.model_arg)
        if self.name:
            selection.check_labels(self.name, found)
        return found

    def loaders(self, names: Sequence[str], load: Callable[..., Any], **changes: Any) -> list[Callable[[], Any]]:
        """Functions that load the chosen models.

        Args:
            names: The chosen models.
            load: :func:`uamix_bench.load_model`, or a function with its arguments.
            **changes: Arguments that replace those of the command line.
        """
        from uamix_bench.models.arguments import parsed

        how = {field: value for field, value in self._asdict().items() if field not in ("model", "name", "model_arg")}
        how |= {"arguments": parsed(self.model_arg), **changes}
        labels = self.name or [None] * len(names)
        return [partial(load, name, label=label, **how) for name, label in zip(names, labels, strict=True)]


class Places(NamedTuple):
    """Values of --task and of the options by which its sounds are found, cut and passed over."""

    task: tuple[str, ...] = ()
    data_dir: Path | None = None
    audio_root: Path | None = None
    clip_seconds: float | None = None
    allow_partial: bool = False
    keep_going: bool = False

    def chosen(self) -> list[str]:
        """Names and paths of the tasks, lists and globs expanded.

        Raises:
            UsageError: No such task.
        """
        return selection.chosen_tasks(self.task)

    def load(self, name: str, **more: Any) -> TaskData:
        """Clip table of one of the tasks; see :func:`uamix_bench.load_task`."""
        from uamix_bench.data.task import load_task

        given = {field: value for field, value in self._asdict().items() if field != "task"}
        return load_task(name, **{**given, **more})

    def words(self, name: str) -> list[str]:
        """Options of a command line that finds the same sounds."""
        given = {"--audio-root": self.audio_root, "--clip-seconds": self.clip_seconds, "--data-dir": self.data_dir}
        return ["--task", name, *(word for option, value in given.items() if value for word in (option, str(value)))]


def _group(
    kind: type[Models | Places], parameter: str, added: Sequence[Callable[..., Any]]
) -> Callable[[options.AnyCallback], options.AnyCallback]:
    """Decorator that adds options and passes their values as one object."""

    def decorate(function: Any) -> Any:
        @wraps(function)
        def call(*args: Any, **values: Any) -> Any:
            fields = {name: values.pop(name) for name in kind._fields if name in values}
            return function(*args, **{parameter: kind(**fields)}, **values)

        for option in reversed(added):
            option(call)
        return call

    return decorate


def models(*more: Callable[..., Any]) -> Callable[[options.AnyCallback], options.AnyCallback]:
    """Adds --model and more options of it; the command takes them as `models`."""
    return _group(Models, "models", (options.model, *more))


def places(*more: Callable[..., Any]) -> Callable[[options.AnyCallback], options.AnyCallback]:
    """Adds the options by which sounds are found, and more of them; the command takes them as `places`."""
    return _group(Places, "places", (*more, options.data_dir, options.audio_root, options.clip_seconds))
