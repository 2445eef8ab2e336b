"""Episodes of a result, drawn again from its clip table if that is available; digest of their sounds. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from uamix_bench.data.task import TaskData, load_task
from uamix_bench.evaluation.earlier import sounds_here
from uamix_bench.evaluation.halves import half_of
from uamix_bench.plugins import registry
from uamix_bench.records.results import Result
from uamix_bench.scoring.episodes import EpisodeSet, draw_sorted
from uamix_bench.util.errors import BenchError

_MOST_DRAWS = 2**26  # clips in all episodes, 0.5 GB: a file of a few MB may ask for more


class Redraw:
    """Redrawing of results' episodes: clip tables found by digest, each drawn from once.

    Args:
        data_dir: Folder of the data sets; default ``UAMIX_BENCH_HOME/data``.
        own: Folders and CSVs of a user's own data, named ``local/<stem>`` in results.
        audio_root: Folder that the paths of these CSVs are relative to.

    Raises:
        BenchError: An entry of `own` is not a data set.
    """

    def __init__(self, data_dir: Path | None = None, own: Iterable[str] = (), audio_root: Path | None = None) -> None:
        self._data_dir = data_dir
        self._own = [load_task(name, audio_root=audio_root, keep_going=True) for name in own]
        self._loaded: dict[str, TaskData | str] = {}
        self._drawn: dict[tuple[str, ...], EpisodeSet] = {}

    @property
    def own(self) -> set[str]:
        """Names in results of a user's own data, such as ``local/kitchen``."""
        return {data.name for data in self._own}

    def __call__(self, result: Result) -> EpisodeSet | str:
        """Draws a result's episodes from its clip table; returns the reason as text if that is impossible.

        The digest of the episodes may differ from the one that the result states; the caller must compare them.
        """
        table = self.table(result)
        if isinstance(table, str):
            return table
        protocol = result.protocol
        if protocol.episodes * protocol.n_way * (protocol.k_shot + protocol.n_query) > _MOST_DRAWS:
            return "so many episodes are not drawn again"
        version = table.card.version
        key = (table.name, version, table.clips_sha256, protocol.model_dump_json())
        if key not in self._drawn:
            try:
                self._drawn[key] = draw_sorted(protocol, table.sorted_clips, task=table.name, version=version)
            except BenchError as error:
                return str(error)
        return self._drawn[key]

    def sounds(self, result: Result) -> str | None:
        """Digest of this machine's copies of the sounds that a result's episodes draw.

        None if the result records no digest, as name and version identify its sounds, or if a file is missing.
        """
        table, drawn = self.table(result), self(result)
        told = result.task.content_sha256 is not None or (result.task.own and result.sounds_recorded)
        if not told or isinstance(table, str) or isinstance(drawn, str):
            return None
        return sounds_here(table, [drawn.clips])[0]

    def draws(self, results: Iterable[Result]) -> dict[str, EpisodeSet]:
        """Episodes by digest, for the results whose clip table is available and yields the digest that they state."""
        drawn = (self(result) for result in results)
        return {episodes.digest: episodes for episodes in drawn if isinstance(episodes, EpisodeSet)}

    def table(self, result: Result) -> TaskData | str:
        """Clip table of a result, or the reason as text if it is not available."""
        where = [data for data in self._own if data.name == result.task.name]
        if not where:
            found = self._load(result.task.name)
            if isinstance(found, str):
                return found
            where = [found]
        left_out = {one.clip for one in result.status.skipped}
        for data in where:
            for part in _parts(data, result):
                for table in _as_drawn(part.without(left_out) if left_out else part, result):
                    if table.clips_sha256 == result.task.clips_sha256:
                        return table
        return f"the clip table of {result.task.name} here is another ({where[0].clips_sha256[:12]})"

    def _load(self, name: str) -> TaskData | str:
        if name not in self._loaded:
            if name.startswith("local/"):
                self._loaded[name] = f"{name} is someone's own data; name its folder or CSV with --task"
            elif name not in registry.tasks():  # and so nothing that a stranger's result names is taken for a path
                self._loaded[name] = f"no task '{name}' is known here"
            else:
                try:
                    self._loaded[name] = load_task(name, self._data_dir)
                except BenchError as error:
                    self._loaded[name] = str(error)
        return self._loaded[name]


def _as_drawn(data: TaskData, result: Result) -> Iterator[TaskData]:
    """Clip table as it is; if episodes are group-disjoint, also the table with equal clips in one group."""
    yield data
    if result.protocol.group_disjoint:
        yield data.group_copies()


def _parts(data: TaskData, result: Result) -> Iterator[TaskData]:
    """Tables that a result on this data may have drawn from: the full one, MetaAudio's classes, or its own classes.

    A result that chose a model, or reports on the one chosen, is on a half of its own classes.
    """
    yield data
    if data.card.metaaudio is not None and not set(data.card.metaaudio) - set(data.table["label"]):
        yield data.metaaudio()
    if not set(result.per_class) - set(data.table["label"]):
        own = data.only(result.per_class)
        yield own
        if half := half_of(own, result.protocol.name, result.protocol.seed):
            yield half
