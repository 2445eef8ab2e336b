"""Export of few-shot results in the form of MTEB's results cache. Free of torch and of mteb.

MTEB lists a model where ``model_meta.json`` lies beside its results, and averages the subsets of one file. So every
setting is a task of its own. Tried with mteb 2.26: `ResultCache` lists the models, and its tables show the scores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from uamix_bench.plugins.card import UNTRAINED, ModelIdentity
from uamix_bench.records.export import refuse_mixed, slug
from uamix_bench.records.results import Result
from uamix_bench.util.errors import UsageError

META = "model_meta.json"
_NO_LANGUAGE = "zxx-Zxxx"  # ISO 639-3 and 15924 for what is no language: a score without languages is not averaged
_NO_REVISION = "no_revision_available"
_UNKNOWN = (
    *("loader", "release_date", "memory_usage_mb", "max_tokens", "license", "open_weights"),
    *("public_training_code", "public_training_data", "similarity_fn_name"),
)
_ORGANISATION = "uamix-bench"  # of a model whose name has none, which MTEB asks for


def to_mteb(results: Sequence[Result]) -> dict[str, str]:
    """MTEB's task results (its ``TaskResult``), one document a model, task and setting, and each model's metadata.

    Returns:
        Documents by path below the folder of a results cache: ``results/<model>/<revision>/<task>-<setting>.json``, and
        ``model_meta.json`` beside them.

    Raises:
        UsageError: A result is partial, two belong to one document, or one name of a document or model means several.
    """
    documents: dict[str, str] = {}
    refuse_mixed(results, lambda result: (_folder(result), result.task.name))
    models: dict[str, ModelIdentity] = {}
    for result in results:
        if models.setdefault(_folder(result), result.model) != result.model:
            reason = "several models have this name and these weights, and would be one"
            raise UsageError(result.model.name, reason, "name the files of one")
        documents[f"{_folder(result)}/{META}"] = _text(_meta(result))
        documents[f"{_folder(result)}/{_task(result)}.json"] = _text(_scores(result))
    return documents


def _folder(result: Result) -> str:
    return f"results/{_model(result).replace('/', '__')}/{_revision(result)}"


def _model(result: Result) -> str:
    name = result.model.name
    return name if "/" in name else f"{_ORGANISATION}/{name}"


def _revision(result: Result) -> str:
    return (result.model.weights_sha256 or _NO_REVISION)[:40]


def _task(result: Result) -> str:
    return f"{result.task.name.replace('/', '__')}-{slug(result)}"


def _meta(result: Result) -> dict[str, Any]:
    """Metadata of a model: all fields that MTEB's ``ModelMeta`` asks for; null where nothing is known."""
    model = result.model
    trained = [] if model.pretrained_on == (UNTRAINED,) else list(model.pretrained_on) or None
    return {
        **dict.fromkeys(_UNKNOWN),
        "name": _model(result),
        "revision": _revision(result),
        "languages": [_NO_LANGUAGE],
        "n_parameters": model.parameters,
        "embed_dim": model.embedding_dim,
        "framework": ["PyTorch"],
        "use_instructions": False,
        "training_datasets": trained,
        "modalities": ["audio"],
    }


def _scores(result: Result) -> dict[str, Any]:
    overlap = result.overlap_known
    scores = {
        "main_score": result.score.accuracy,
        "accuracy": result.score.accuracy,
        **{name: getattr(result.score, name) for name in ("ci95", "ci95_clips", "ci95_classes")},
        "protocol": result.protocol.model_dump(mode="json"),
        "overlap": {"level": overlap.level, "why": overlap.why},
        "hf_subset": result.setting(),
        "languages": [_NO_LANGUAGE],
        "result_id": result.id,
    }
    return {
        "dataset_revision": f"{result.task.version}-{result.task.clips_sha256[:12]}",
        "task_name": _task(result),
        "mteb_version": None,
        "scores": {"test": [scores]},
        "evaluation_time": result.cost.embed_s + result.cost.episodes_s,
        "kg_co2_emissions": None,
    }


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
