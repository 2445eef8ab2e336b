"""Grids: models x tasks x protocols -> results in a store, here or with the embeddings of an engine's workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Unpack, cast

from uamix_bench.data.task import TaskData
from uamix_bench.embeddings.known import KnownModel
from uamix_bench.engines.engine import Engine
from uamix_bench.engines.local import Local
from uamix_bench.evaluation.earlier import Overwrite, find_earlier
from uamix_bench.evaluation.fewshot import Ahead, Options, fewshot_grid
from uamix_bench.evaluation.plan import TaskPlan, plan_task
from uamix_bench.evaluation.zero_shot import answerable, no_text_side
from uamix_bench.records.results import Result
from uamix_bench.records.store import ResultStore
from uamix_bench.scoring.protocol import PAPER, Protocol
from uamix_bench.util.errors import BadInputError, UsageError
from uamix_bench.util.progress import SILENT

if TYPE_CHECKING:  # a command checks names, episodes and folders before torch is imported
    from uamix_bench.models.model import AudioModel


class Kept(NamedTuple):
    """Result of a grid in a store.

    Attributes:
        result: The result.
        path: Its file.
        how: Origin of the file: written now, reused, or confirmed by an equal new result.
        model: Place of its model in the grid's list.
    """

    result: Result
    path: Path
    how: Literal["wrote", "reused", "confirmed"]
    model: int


def evaluate(
    models: Sequence[AudioModel | KnownModel | Callable[[], AudioModel | KnownModel]],
    tasks: Sequence[TaskData | TaskPlan],
    protocols: Sequence[Protocol] = (PAPER,),
    *,
    store: ResultStore | Sequence[ResultStore] | None = None,
    overwrite: Overwrite = "missing",
    engine: Engine | None = None,
    set_aside: Callable[[int, BadInputError], None] | None = None,
    without_texts: Callable[[UsageError], None] | None = None,
    **options: Unpack[Options],
) -> Iterator[Kept]:
    """Evaluates models on tasks under protocols, and keeps the results in a store; what it holds is not computed again.

    Protocols of several shots draw from the same classes (:func:`uamix_bench.scoring.sweep.sweep`); all share one
    embedding pass. Each result has the id that :func:`uamix_bench.fewshot` gives its own protocol alone.

    Args:
        models: Models from :func:`uamix_bench.load_model`, or functions that load them, so that one model at a time is
            in memory. An engine's workers load them by name.
        tasks: Tasks from :func:`uamix_bench.load_task`; or plans, which have protocols of their own.
        protocols: Protocols of each task that has no plan; default the paper's.
        store: Store of the results, or one for each model; default that of ``UAMIX_BENCH_HOME/results``.
        overwrite: Treatment of an existing complete result of the same model, sounds, clip table, protocol and draw:
            ``never`` refuses, ``missing`` reuses it, ``always`` evaluates again and compares. A result of other
            weights, code or sounds under the same names does not count as existing; the change is reported.
        engine: Engine, entered, whose workers embed all clips of the grid before this process scores; default none.
        set_aside: Function called with the place of a model that cannot be loaded or evaluated, and the error. The
            other models go on. None raises the error.
        without_texts: Function called once for each model that reads no texts, with the error; its zero-shot protocols
            are left out. None raises the error.
        **options: Options of the evaluation; see :class:`uamix_bench.evaluation.fewshot.Options`.

    Returns:
        Iterator that evaluates, and gives each result as soon as it is in the store: model by model, task by task, in
        the order of the protocols.

    Raises:
        UsageError: Too few classes or clips for a protocol; `overwrite` is ``never``, and a result exists; or an engine
            without a cache.
        BadInputError: Broken clips or unhealthy embeddings; or the existing result differs from the one computed;
            nothing is overwritten.
        MachineError: The store cannot be written; of an engine see
            :func:`uamix_bench.evaluation.on_engine.embed_ahead`.
    """
    engine, progress = engine or Local(), options.get("progress", SILENT)
    if engine.elsewhere and not options.get("cache", True):
        reason = f"the embeddings that --engine {engine.name} makes are kept there"
        raise UsageError("--no-cache", reason, "omit one of the two")
    limit = options.get("limit")
    plans = [
        task if isinstance(task, TaskPlan) else plan_task(task, protocols, limit=limit, progress=progress)
        for task in tasks
    ]
    stores = store if isinstance(store, Sequence) else [ResultStore() if store is None else store] * len(models)
    return _evaluated(models, plans, stores, overwrite, engine, set_aside, without_texts, options)


def _evaluated(
    models: Sequence[AudioModel | KnownModel | Callable[[], AudioModel | KnownModel]],
    plans: Sequence[TaskPlan],
    stores: Sequence[ResultStore],
    overwrite: Overwrite,
    engine: Engine,
    set_aside: Callable[[int, BadInputError], None] | None,
    without_texts: Callable[[UsageError], None] | None,
    options: Options,
) -> Iterator[Kept]:
    @lru_cache(maxsize=1)
    def load(place: int) -> AudioModel | KnownModel:
        model = models[place]
        if hasattr(model, "identity"):  # a module can be called too
            return cast("AudioModel | KnownModel", model)
        return model()

    ahead: dict[tuple[int, int], Ahead] = {}
    if engine.elsewhere:
        from uamix_bench.evaluation.on_engine import embed_ahead

        def loaded() -> Iterator[tuple[int, AudioModel]]:
            for place in range(len(models)):
                try:
                    model = load(place)
                    yield place, model.load() if isinstance(model, KnownModel) else model
                except BadInputError:
                    if set_aside is None:
                        raise  # else it is met again below

        batch_size, progress = options.get("batch_size", 16), options.get("progress", SILENT)
        ahead = embed_ahead(engine, loaded(), plans, stores, overwrite, batch_size=batch_size, progress=progress)
    for place, kept_in in enumerate(stores):
        try:
            for column, plan in enumerate(plans):
                asked = answerable(load(place), plan.protocols)
                if len(asked) < len(plan.protocols) and not column:
                    if without_texts is None:
                        raise no_text_side(load(place))
                    without_texts(no_text_side(load(place)))
                own: Options = {**options, "limit": plan.limit, "ahead": ahead.get((place, column))}
                for made in _of_task(load(place), plan, asked, kept_in, overwrite, own):
                    yield Kept(*made, place)
        except BadInputError as error:
            if set_aside is None:
                raise
            set_aside(place, error)


def _of_task(
    model: AudioModel | KnownModel,
    plan: TaskPlan,
    protocols: Sequence[Protocol],
    store: ResultStore,
    overwrite: Overwrite,
    options: Options,
) -> Iterator[tuple[Result, Path, Literal["wrote", "reused", "confirmed"]]]:
    """Evaluates those protocols of a task that a store has no results of, and writes the results there."""
    progress, memo = options.get("progress", SILENT), options.get("cache", True)
    task = plan.task
    there = find_earlier(store, model, task, protocols, overwrite, plan.limit, memo=memo, progress=progress)
    wanted = [index for index, found in enumerate(there) if overwrite == "always" or not found.same]
    for index in wanted:
        if there[index].changed:
            progress.say(f"evaluating again: {there[index].changed}")
    fresh = fewshot_grid(model, task, [protocols[index] for index in wanted], **options) if wanted else []
    computed = dict(zip(wanted, fresh, strict=True))
    for index, (found, _) in enumerate(there):
        if index not in computed:
            yield found[0][1], found[0][0], "reused"
            continue
        result = computed[index]
        if found and result.id not in {earlier.id for _, earlier in found}:
            path, earlier = found[0]
            scores = f"it has {earlier.score.accuracy:.4%}, now {result.score.accuracy:.4%}"
            remedy = "compare devices and versions in its provenance, or write to another folder with -o"
            raise BadInputError(path, f"the same evaluation now comes out differently ({scores})", remedy)
        yield result, store.write(result), "confirmed" if found else "wrote"
