"""A whole evaluation, from sound files to the result, beside the reference protocol's way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from uamix_bench import fewshot, load_model, load_task
from uamix_bench.data import audio
from uamix_bench.data.task import TaskData
from uamix_bench.evaluation.fewshot import draw_episodes
from uamix_bench.models.model import AudioModel
from uamix_bench.models.vit import ViTShape
from uamix_bench.reports.blocks import Prose, Section, Table
from uamix_bench.scoring.classifiers import nearest_centroid
from uamix_bench.scoring.episodes import EpisodeSet
from uamix_bench.scoring.protocol import Protocol

from .. import limits, tables
from ..scale import Scale
from ..tables import Case
from ..timing import Side, measure
from ..workloads import SAMPLE_RATE, episode_bytes, episode_operations, operations

CLASSES, SECONDS = 50, 5.0
BATCH = 16
MODEL = "uamix-tiny"
SHAPE = ViTShape(width=192, depth=6, heads=3)
TOKENS = 1 + 31 * 8  # of five seconds: 498 frames


def section(scale: Scale, folder: Path) -> Section:
    """Measures it.

    Raises:
        AssertionError: The reference finds other numbers of correct queries.
    """
    task = sounds(folder, scale.clips_per_class)
    model = load_model(MODEL, device="cpu")
    protocol = Protocol(n_query=min(15, scale.clips_per_class - 1))
    episodes = draw_episodes(task, protocol)
    result = fewshot(model, task, protocol)  # fills the cache
    tried: list[int] = []  # correct queries of the first episodes

    def reference() -> None:
        """Some more episodes the reference's way, and whether their queries come out alike."""
        tried.extend(encode_again(model, task, episodes, range(len(tried), len(tried) + scale.reference_episodes)))
        if tried != list(result.episodes.correct[: len(tried)]):
            raise AssertionError("the reference protocol finds other numbers of correct queries")

    times = measure(
        {
            "ours": Side(lambda: fewshot(model, task, protocol, cache=False)),
            "cached": Side(lambda: fewshot(model, task, protocol)),
            "reference": Side(reference, scale.reference_episodes / protocol.episodes),
            "product": limits.product(),
        },
        scale.repeats,
        warm_up=False,
    )
    limit = limits.least(times, product=len(episodes.clips) * operations(SHAPE, TOKENS))
    encodes = {
        "here: each clip drawn, once": ("ours", f"{len(episodes.clips):,}"),
        "reference protocol: each episode's clips again (scaled)": ("reference", f"{episodes.drawn.size:,}"),
        "here, from the cache": ("cached", "0"),
    }
    least = tables.significant(float(np.median(limit)))
    rows = []
    for name, (side, clips) in encodes.items():
        share = tables.per_cent(float(np.median(limit / times.seconds[side])))
        bound = [least, share] if side != "cached" else ["", ""]
        ratio = f"{tables.significant(times.ratio(side, 'ours'))}×"
        rows.append([name, clips, tables.significant(times.median(side)), ratio, *bound])
    text = f"""
        {len(task.table):,} clips of {SECONDS:g} s at 16 kHz (generated WAV files of {CLASSES} classes), {MODEL}, 5-way
        1-shot, {protocol.n_query} queries a class, {protocol.episodes} episodes: digests of the files, decoding, front
        end, encoder, episodes, intervals, record. CPU seconds of all threads, medians of {scale.repeats}. The reference
        protocol reads and encodes the clips of every episode anew, here with the same model, reader and batches of
        {BATCH}: {len(tried)} of its {protocol.episodes} episodes were run, and their time is scaled in proportion. In
        every one of these its number of correct queries is ours; the accuracy over all is {result.score.accuracy:.1%}.
        The limit is the encoder's operations on the clips drawn, at the rate of a matrix product.
    """
    columns = ["Evaluation", "clips encoded>", "CPU s>", "times as long>", "limit, s>", tables.SHARE]
    return Section("A whole evaluation", [Prose(text), Table(columns, rows), _growth(scale, model, task)])


def _growth(scale: Scale, model: AudioModel, task: TaskData) -> Table:
    """Evaluations of more and more episodes on the cached embeddings."""
    vectors = np.random.default_rng(0).standard_normal((len(task.table), model.embedding_dim), np.float32)
    rows = []
    for count in scale.episode_counts:
        protocol = Protocol(episodes=count, n_query=min(15, scale.clips_per_class - 1))

        def score(protocol: Protocol = protocol) -> None:
            episodes = draw_episodes(task, protocol)
            nearest_centroid(vectors, episodes.support, episodes.query)

        times = measure(
            {
                "ours": Side(score, count),
                "whole": Side(lambda protocol=protocol: fewshot(model, task, protocol), count),  # type: ignore[misc]
                "gather": limits.gather(vectors),
                "product": limits.numpy_product(),
            },
            scale.repeats,
        )
        limit = limits.least(
            times,
            gather=episode_bytes(5, 1, protocol.n_query, model.embedding_dim),
            product=episode_operations(5, protocol.n_query, model.embedding_dim),
        )
        row = Case(f"{count:,}", times, limit).row(["whole"], tables.microseconds)
        rows.append([*row, tables.significant(times.median("whole") * count)])
    heading = "Episodes, from the cache"
    columns = [heading, "draw and score, µs each>", "whole, µs each>", "limit>", tables.SHARE, "whole, CPU s>"]
    note = f"""
        Whole: all that the evaluation above does but decoding and encoding, files looked at and record made. Embeddings
        of {model.embedding_dim} numbers; medians of {scale.repeats}. The limit is that of scoring from the embeddings;
        many episodes are scored from products of pairs of clips, in less.
    """
    return Table(columns, rows, note=note)


def sounds(folder: Path, each: int) -> TaskData:
    """Sound files of classes that few-shot evaluation can tell apart, though not always."""
    rng = np.random.default_rng(0)
    time_s = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    for c in range(CLASSES):
        partials = rng.uniform(200, 6_000, 3)
        (folder / f"class{c:02}").mkdir(parents=True)
        for index in range(each):
            heard = partials * rng.normal(1, 0.1, 3)
            tones = np.sin(2 * np.pi * heard[:, None] * time_s + rng.uniform(0, 2 * np.pi, (3, 1))).sum(axis=0)
            samples = 0.05 * tones + 0.1 * rng.standard_normal(len(time_s))
            soundfile.write(folder / f"class{c:02}/{index:02}.wav", samples, SAMPLE_RATE)
    return load_task(str(folder), clip_seconds=SECONDS)


def encode_again(model: AudioModel, task: TaskData, episodes: EpisodeSet, which: range) -> list[int]:
    """Reads and encodes each episode's clips, and counts the queries whose nearest centroid is their class's."""
    paths = task.table["path"].tolist()

    def encode(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        flat = rows.ravel().tolist()
        vectors = []
        for start in range(0, len(flat), BATCH):
            files = [Path(paths[row]) for row in flat[start : start + BATCH]]
            waves = [audio.read(path, model.sample_rate, max_seconds=SECONDS).samples for path in files]
            vectors.append(model.embed(waves, model.sample_rate))
        return np.concatenate(vectors).astype(np.float64).reshape(*rows.shape, -1)

    correct = []
    for episode in which:
        centroids = encode(episodes.support[episode]).mean(axis=1)  # (N, D)
        queries = encode(episodes.query[episode])  # (N, Q, D)
        distances = ((queries[:, :, None] - centroids) ** 2).sum(axis=-1)
        correct.append(int((distances.argmin(axis=-1) == np.arange(len(centroids))[:, None]).sum()))
    return correct
