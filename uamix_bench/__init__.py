"""uamix-bench: few-shot evaluation of pretrained audio transformers, and uaMix-MAE. Public names load on first use."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uamix_bench.comparison.compare import compare as compare
    from uamix_bench.data.task import Task as Task, load_task as load_task
    from uamix_bench.evaluation.classifier import Classifier as Classifier, load_classifier as load_classifier
    from uamix_bench.evaluation.fewshot import fewshot as fewshot
    from uamix_bench.evaluation.fitting import fit as fit, fit_episode as fit_episode
    from uamix_bench.evaluation.grid import evaluate as evaluate
    from uamix_bench.finetuning.finetune import finetune as finetune
    from uamix_bench.models.loading import load_model as load_model
    from uamix_bench.models.model import AudioModel as AudioModel
    from uamix_bench.records.results import Result as Result
    from uamix_bench.scoring.protocol import PAPER as PAPER, Protocol as Protocol
    from uamix_bench.tuning.run import tune as tune

_HOME = {
    "PAPER": "scoring.protocol",
    "Protocol": "scoring.protocol",
    "Classifier": "evaluation.classifier",
    "load_classifier": "evaluation.classifier",
    "evaluate": "evaluation.grid",
    "fewshot": "evaluation.fewshot",
    "fit": "evaluation.fitting",
    "fit_episode": "evaluation.fitting",
    "AudioModel": "models.model",
    "compare": "comparison.compare",
    "load_model": "models.loading",
    "Result": "records.results",
    "Task": "data.task",
    "load_task": "data.task",
    "finetune": "finetuning.finetune",
    "tune": "tuning.run",
}
__all__ = [
    "PAPER",
    "AudioModel",
    "Classifier",
    "Protocol",
    "Result",
    "Task",
    "compare",
    "evaluate",
    "fewshot",
    "finetune",
    "fit",
    "fit_episode",
    "load_classifier",
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
