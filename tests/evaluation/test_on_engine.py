"""A grid embedded by workers gives the records that it gives here, whoever dies meanwhile; strangers are refused."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from uamix_bench.data.sound import sound_digests
from uamix_bench.data.task import TaskData, load_task
from uamix_bench.embeddings import housekeeping
from uamix_bench.embeddings.cache import EmbeddingCache
from uamix_bench.embeddings.model_key import model_key
from uamix_bench.engines.engine import Engine, find_engine, never
from uamix_bench.engines.local import Local
from uamix_bench.evaluation import on_engine
from uamix_bench.evaluation.grid import evaluate
from uamix_bench.evaluation.on_engine import Shard, embed_ahead, embed_shard
from uamix_bench.evaluation.plan import plan_task
from uamix_bench.models.loading import load_model
from uamix_bench.models.model import AudioModel
from uamix_bench.records.record import Record
from uamix_bench.records.store import ResultStore
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.storage import shards
from uamix_bench.util.errors import BadInputError, MachineError, UsageError
from uamix_bench.util.progress import SILENT, Progress

from ..conftest import Nodes

PROTOCOLS = [Protocol(name="small", n_way=4, k_shot=k, n_query=4, episodes=30) for k in (1, 3)]
MODELS = ("logmel", "uamix-tiny")


@pytest.fixture
def task(tmp_path: Path, bench_home: Path, monkeypatch: pytest.MonkeyPatch) -> TaskData:
    """Four classes of eight noises of three lengths; a shard is four of them."""
    monkeypatch.setattr(on_engine, "_CLIPS", 4)
    generator = np.random.default_rng(5)
    for label in "abcd":
        (tmp_path / "noises" / label).mkdir(parents=True)
        for index in range(8):
            length = (8_000, 12_000, 5_000)[index % 3]
            noise = 0.1 * generator.standard_normal(length).cumsum() / (3 * (ord(label) - 90))
            soundfile.write(tmp_path / "noises" / label / f"{index}.wav", noise.clip(-0.9, 0.9), 16_000)
    return load_task(str(tmp_path / "noises"))


class Apart(Local):
    """The local engine as one whose workers are elsewhere."""

    elsewhere = True


class Counting(Apart):
    """Counts its jobs; it may break off after some."""

    def __init__(self, most: int = 1_000) -> None:
        super().__init__("cpu")
        self.jobs: list[Shard] = []
        self.most = most

    def map(self, function: Any, jobs: Sequence[Any], progress: Progress = SILENT, stop: Any = never) -> Any:
        with closing(super().map(function, jobs, progress)) as outcomes:
            for index, outcome in outcomes:
                if len(self.jobs) == self.most:
                    raise KeyboardInterrupt
                self.jobs.append(jobs[index])
                yield index, outcome


def run(
    engine: Engine | None, models: Sequence[str], task: TaskData, folder: Path, progress: Progress = SILENT
) -> list[Record]:
    """Evaluates models on a task, by way of an engine or without one."""
    store = ResultStore(folder)
    loaders = [partial(load_model, name, device="cpu") for name in models]
    for _ in evaluate(loaders, [task], PROTOCOLS, store=store, engine=engine, batch_size=4, progress=progress):
        pass
    return [record for _, record in store]


def without_cost(records: Sequence[Record]) -> list[str]:
    return [record.model_dump_json(exclude={"cost", "provenance"}) for record in records]


def test_the_records_are_those_of_a_local_run(task: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Counting()
    spread_out = run(engine, MODELS, task, tmp_path / "spread")
    monkeypatch.setenv("UAMIX_BENCH_HOME", str(tmp_path / "another"))
    local = run(None, MODELS, task, tmp_path / "local")
    assert len(local) == 4
    assert without_cost(spread_out) == without_cost(local)
    assert [record.id for record in spread_out] == [record.id for record in local]
    for one, other in zip(spread_out, local, strict=True):
        assert one.cost.embedded_clips == other.cost.embedded_clips == 32  # type: ignore[attr-defined]
        assert one.provenance.device == other.provenance.device  # type: ignore[attr-defined]
    assert len(engine.jobs) == 16
    assert len({key for job in engine.jobs for key in job.keys}) == 32


def test_a_broken_off_run_continues_and_results_need_nothing(task: TaskData, tmp_path: Path) -> None:
    first, second, third = Counting(3), Counting(), Counting()
    with pytest.raises(KeyboardInterrupt):
        run(first, ["logmel"], task, tmp_path / "results")
    run(second, ["logmel"], task, tmp_path / "results")
    assert len(second.jobs) == 8 - 3
    assert not {key for job in first.jobs for key in job.keys} & {key for job in second.jobs for key in job.keys}
    EmbeddingCache(model_key(load_model("logmel"))).folder.rename(tmp_path / "pruned")
    run(third, ["logmel"], task, tmp_path / "results")
    assert third.jobs == []


@pytest.mark.parametrize("limit", ["1", "1GB"])
def test_rows_that_come_back_count_against_the_size_limit(
    limit: str, task: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit is pruned at once, and embedded here by the evaluation."""
    monkeypatch.setenv("UAMIX_BENCH_CACHE_SIZE", limit)
    sizes = []

    class Looking(Counting):
        def map(self, function: Any, jobs: Sequence[Any], progress: Progress = SILENT, stop: Any = never) -> Any:
            for outcome in super().map(function, jobs, progress):
                yield outcome
                sizes.append(sum(holding.size for holding in housekeeping.holdings()))

    embed_ahead(Looking(), [(0, load_model("logmel"))], [plan_task(task, PROTOCOLS)], [ResultStore(tmp_path)])
    assert len(sizes) == 3
    assert (max(sizes) == 0) == (limit == "1")
    assert len(run(None, ["logmel"], task, tmp_path / "results")) == 2


def test_what_is_missing_is_known_without_reading_a_row(
    task: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(Apart(), ["logmel"], task, tmp_path / "results")
    monkeypatch.setattr(shards._Shard, "read", None)
    monkeypatch.setattr(on_engine, "sound_digests", partial(sound_digests, memo=False))
    engine = Counting()
    embed_ahead(engine, [(0, load_model("logmel"))], [plan_task(task, PROTOCOLS)], [ResultStore(tmp_path / "other")])
    assert engine.jobs == []


def test_broken_sounds_are_told_as_without_an_engine(task: TaskData, tmp_path: Path) -> None:
    sound = Path(task.table["path"][0])
    sound.write_bytes(sound.read_bytes()[:500])
    with pytest.raises(BadInputError, match=r"a/0\.wav: .*leave it out with --keep-going"):
        run(Apart(), ["logmel"], task, tmp_path / "results")


def test_a_model_of_this_process_alone_cannot_be_sent(task: TaskData, tmp_path: Path) -> None:
    class Here(AudioModel):
        sample_rate, embedding_dim = 16_000, 3

    with pytest.raises(UsageError, match=r"give an engine FILE\.py:CLASS"):
        list(evaluate([load_model(Here)], [task], PROTOCOLS, store=ResultStore(tmp_path), engine=Apart()))


def test_an_engine_needs_the_cache(task: TaskData) -> None:
    with pytest.raises(UsageError, match="--no-cache: the embeddings that --engine local makes are kept there"):
        evaluate([load_model("logmel")], [task], PROTOCOLS, engine=Apart(), cache=False)


def test_a_cache_that_cannot_be_written_is_said_before_any_work(task: TaskData, bench_home: Path) -> None:
    bench_home.mkdir(exist_ok=True)
    (bench_home / "embeddings").write_text("in the way")
    with pytest.raises(MachineError):
        run(Counting(0), ["logmel"], task, bench_home / "results")


@pytest.fixture
def shard(task: TaskData, tmp_path: Path) -> Shard:
    engine = Counting(1)
    with pytest.raises(KeyboardInterrupt):
        run(engine, ["uamix-tiny"], task, tmp_path / "results")
    on_engine._load.cache_clear()
    return engine.jobs[0]


def older(shard: Shard) -> Shard:
    versions = tuple((name, "0.0.1" if name == "torch" else version) for name, version in shard.model.versions)
    return shard._replace(model=shard.model._replace(versions=versions))


def other_weights(shard: Shard) -> Shard:
    return shard._replace(
        model=shard.model._replace(key=replace(shard.model.key, weights_sha256="0123456789abcdef" * 4))
    )


def other_sound(shard: Shard) -> Shard:
    soundfile.write(shard.sounds[1].path, np.zeros(8_000), 16_000)
    return shard


def no_sound(shard: Shard) -> Shard:
    Path(shard.sounds[1].path).unlink()
    return shard


def no_checkpoint(shard: Shard) -> Shard:
    source = shard.model.source._replace(name="uamix", checkpoint="/nowhere/weights.pt")
    return shard._replace(model=shard.model._replace(source=source))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (older, r"the worker on \S+: has another torch than the caller's \(here [\d.]+\S*, there 0\.0\.1\)"),
        (other_weights, r"another weights_sha256 than the caller's \(here [0-9a-f]{16}, there 0123456789abcdef\)"),
        (
            other_sound,
            r"a/\d\.wav on \S+: is another sound than the caller's \(here [0-9a-f]{16}, there [0-9a-f]{16}\)",
        ),
        (no_sound, r"a/\d\.wav on \S+: no such file; give every machine the same sounds"),
        (no_checkpoint, r"/nowhere/weights\.pt on \S+: no such file"),
    ],
)
def test_a_worker_that_differs_is_refused(change: Callable[[Shard], Shard], words: str, shard: Shard) -> None:
    with pytest.raises(MachineError, match=words) as caught:
        embed_shard(change(shard), SILENT)
    assert caught.value.exit_code == 4


class Killer(Progress):
    """Kills a node when the first shard has come, and keeps what is told."""

    def __init__(self, kill: Callable[[], None]) -> None:
        self.kill = kill
        self.shards: list[str] = []
        self.lines: list[str] = []

    @contextmanager
    def bar(self, what: str, total: int, unit: str = "clips") -> Iterator[Callable[[int, str], None]]:
        def advance(count: int, note: str = "") -> None:
            if " on local/noises" in note:
                self.shards.append(note)
                if len(self.shards) == 1:
                    self.kill()

        yield advance

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.over_3s
def test_ray_with_a_node_killed_in_the_middle(
    task: TaskData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    ray_nodes: Nodes,
) -> None:
    # Workers import this: the second node hangs at its first shard, and the other waits until it does.
    code = """
    import second_node
    from uamix_bench.evaluation.on_engine import embed_shard

    def slowly(job, progress, stop):
        if second_node.here():
            second_node.hang()
        second_node.wait()
        return embed_shard(job, progress, stop)
    """
    mine = """
    import torch
    from uamix_bench import AudioModel

    class Mine(AudioModel):
        sample_rate, embedding_dim = 16_000, 5

        def frontend(self, waveforms, lengths):
            return waveforms.unfold(1, 400, 400), lengths // 400

        def tokens(self, spectrogram, lengths):
            spectrum = torch.fft.rfft(spectrogram).abs()[..., 1:6].log1p()
            return spectrum, torch.arange(spectrum.shape[1]) < lengths[:, None]
    """
    (tmp_path / "mine.py").write_text(textwrap.dedent(mine))
    models = ("logmel", f"{tmp_path / 'mine.py'}:Mine")
    local = run(None, models, task, tmp_path / "local")
    monkeypatch.setenv("UAMIX_BENCH_HOME", str(tmp_path / "another"))
    monkeypatch.setattr(on_engine, "embed_shard", ray_nodes.write("spread_test_jobs", code).slowly)
    capfd.readouterr()
    killer = Killer(ray_nodes.kill)
    with find_engine("ray", ray_nodes.address, "cpu") as engine:
        found = run(engine, models, task, tmp_path / "spread", killer)
    told = capfd.readouterr()
    assert without_cost(found) == without_cost(local)
    assert [record.id for record in found] == [record.id for record in local]
    assert len(killer.shards) == len(set(killer.shards)) == 16
    assert killer.lines
    assert all("its worker was lost (" in line for line in killer.lines)
    assert told.out == ""
