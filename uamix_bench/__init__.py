"""uamix-bench: few-shot evaluation of pretrained audio transformers, and uaMix-MAE. Public names load on first use."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uamix_bench.compare import compare as compare
    from uamix_bench.episodes import PAPER as PAPER
    from uamix_bench.episodes import Protocol as Protocol
    from uamix_bench.fewshot import fewshot as fewshot
    from uamix_bench.model import AudioModel as AudioModel
    from uamix_bench.model import load_model as load_model
    from uamix_bench.results import Result as Result
    from uamix_bench.task import Task as Task
    from uamix_bench.task import load_task as load_task
    from uamix_bench.tuning.finetune import finetune as finetune
    from uamix_bench.tuning.run import tune as tune

_HOME = {
    "PAPER": "episodes",
    "Protocol": "episodes",
    "fewshot": "fewshot",
    "AudioModel": "model",
    "compare": "compare",
    "load_model": "model",
    "Result": "results",
    "Task": "task",
    "load_task": "task",
    "finetune": "tuning.finetune",
    "tune": "tuning.run",
}
__all__ = [
    "PAPER",
    "AudioModel",
    "Protocol",
    "Result",
    "Task",
    "compare",
    "fewshot",
    "finetune",
    "load_model",
    "load_task",
    "tune",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        value: object = getattr(import_module(f"uamix_bench.{_HOME[name]}"), name)
        return value
    raise AttributeError(f"module 'uamix_bench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
