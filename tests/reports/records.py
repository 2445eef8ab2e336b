"""Results to build leaderboards of: the real record, with accuracies that a test chooses."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np

from uamix_bench.plugins.card import ModelIdentity
from uamix_bench.records.record import HalfInterval, Provenance, Skipped, Status, TaskIdentity
from uamix_bench.records.results import Cost, Episodes, Intervals, Result, Score
from uamix_bench.scoring.health import Health
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.util.files import digest

# Classes, clips, and clip length of the data sets; accuracies of the paper's Table 2 (5-way 1-shot) to be realistic by.
TASKS = {
    "esc50": (50, 2_000, 5.0),
    "voxceleb1": (1_251, 153_516, 10.0),
    "nsynth": (10, 305_979, 4.0),
    "speech-commands": (35, 105_829, 1.0),
    "fsdkaggle2018": (41, 11_073, 10.0),
}
AUDIOSET = ("AudioSet-2M",)
# Parameters, clips per second, what it was pre-trained on, per cent on the five tasks.
MODELS: dict[str, tuple[int, float, tuple[str, ...], tuple[float, ...]]] = {
    "uamix": (85_254_144, 61.0, (*AUDIOSET, "AudioSet-20K"), (66.3, 30.3, 75.9, 29.6, 43.6)),
    "audiomae": (85_254_144, 60.0, AUDIOSET, (61.1, 28.9, 70.6, 30.4, 41.3)),
    "beats": (90_311_040, 48.0, AUDIOSET, (48.6, 25.9, 68.8, 26.9, 35.0)),
    "m2d": (85_648_896, 55.0, AUDIOSET, (53.3, 28.4, 43.8, 30.1, 37.8)),
    "mae-ast": (85_647_360, 52.0, (*AUDIOSET, "LibriSpeech-960"), (49.3, 25.6, 48.7, 26.6, 38.4)),
    "maskspec": (85_844_736, 35.0, AUDIOSET, (43.0, 24.0, 45.0, 21.1, 33.0)),
    "logmel": (0, 770.0, (), (38.0, 26.1, 47.5, 24.2, 31.0)),
    "random": (2_700_000, 190.0, (), (27.5, 22.4, 33.6, 21.5, 24.9)),
}


def result(
    model: str = "m",
    rate: float = 0.6,
    *,
    task: str = "esc50",
    protocol: Protocol | None = None,
    labels: tuple[str, ...] | None = None,
    seed: int = 0,
    complete: bool = True,
    limited: bool = False,
    skipped: tuple[str, ...] = (),
    version: str = "1",
    content_sha256: str | None = None,
    clip_seconds: float | None = None,
    notes: tuple[str, ...] = (),
    started_at: str = "2026-11-26T12:00:00+00:00",
    command: str = "uamix-bench fewshot",
    clips_sha256: str = "",
    left_out: int = 0,
    embedded_clips: int | None = None,
    clips_per_s: float = 60.0,
    **identity: Any,
) -> Result:
    """A result whose episodes are about as right as `rate`; results of one task and protocol share their draw.

    Those that skipped the same clips share a clip table and a draw of their own.

    Episodes differ in how hard they are in the same way for every model, as real ones do.
    """
    protocol = protocol or Protocol(episodes=100)
    classes, clips, seconds = TASKS.get(task, (12, 480, 2.0))
    labels = labels or tuple(f"class {number:04d}" for number in range(classes))
    clips_sha256 = clips_sha256 or (digest([task, version, skipped]) if skipped or version != "1" else "")
    draw = digest([task, protocol.model_dump(exclude={"k_shot"}), clips_sha256])
    hardness, drawn = _episodes(draw, len(labels), protocol.n_way, protocol.episodes)
    own = np.random.default_rng([int(draw[:8], 16), seed, int(digest([model, identity])[:8], 16)])
    easy = np.random.default_rng(7).normal(0, 0.1, len(labels))
    chances = np.clip(rate + hardness[:, None] + easy[drawn], 0.02, 0.99)
    hits = own.binomial(protocol.n_query, chances)  # (E, N)
    right = np.bincount(drawn.ravel(), hits.ravel(), len(labels)).astype(int).tolist()
    times = np.bincount(drawn.ravel(), minlength=len(labels)) * protocol.n_query
    correct = hits.sum(axis=1)
    accuracies = correct / (protocol.n_way * protocol.n_query)
    about = {"weights_sha256": digest(model), "parameters": 1_000_000, "embedding_dim": 768, "licence": "Apache-2.0"}
    about |= {"adapter_version": f"{model}/1", "input": "native", "pooling": "mean", "dtype": "float32"}
    table = {"name": task, "version": version, "clips_sha256": clips_sha256 or digest(task)}
    table |= {"clip_seconds": clip_seconds or seconds, "content_sha256": content_sha256}
    spectrum = {"duplicate_share": 0.0, "effective_rank": 41.5, "norms": (1.0, 2.0, 3.0)}
    timed = clips if embedded_clips is None else embedded_clips
    return Result.create(
        status=Status(
            complete=complete and not skipped,
            limited=limited,
            skipped=tuple(Skipped(clip=clip, reason="cut short") for clip in skipped),
            notes=notes,
        ),
        model=ModelIdentity(name=model, **{**about, **identity}),
        task=TaskIdentity(**table, classes=len(labels) + left_out, clips=clips),
        protocol=protocol,
        episodes=Episodes(
            algorithm="philox-1",
            digest=draw,
            correct=tuple(correct.tolist()),
            classes_left_out=left_out,
            shared_group_share=None,
        ),
        per_class={labels[at]: (right[at], int(times[at])) for at in range(len(labels)) if times[at]},
        score=Score(
            accuracy=float(accuracies.mean()),
            intervals=Intervals(
                episodes=HalfInterval(half_width=float(1.96 * accuracies.std() / len(accuracies) ** 0.5)),
                clips=HalfInterval(half_width=None, reason="needs 10,000 episodes"),
                classes=HalfInterval(half_width=None, reason="needs 4,000 episodes"),
            ),
        ),
        health=Health(verdict="green", clips=clips, non_finite=0, silent=0, **spectrum),
        cost=Cost(embedded_clips=timed, embed_s=clips / clips_per_s, episodes_s=0.04, peak_memory_mb=812.0),
        provenance=Provenance(
            package="0.1.0",
            git_revision="48afec2" + "0" * 33,
            git_dirty=False,
            packages={"torch": "2.11.0", "numpy": "2.2.6", "timm": "1.0.20"},
            python="3.11.7",
            device="cpu: AMD EPYC 9R14",
            platform="Linux x86_64",
            started_at=started_at,
            command=command,
            content_sha256=content_sha256 or digest([task, "sounds"]),
        ),
    )


@cache
def _episodes(draw: str, classes: int, way: int, episodes: int) -> tuple[Any, Any]:
    """How hard each episode is (E,), and the classes it holds (E, N)."""
    numbers = np.random.default_rng(int(draw[:8], 16))
    drawn = np.stack([numbers.choice(classes, way, replace=False) for _ in range(episodes)])
    return numbers.normal(0, 0.06, episodes), drawn


def grid(
    tasks: int = 5,
    ways: tuple[int, ...] = (5, 10, 20),
    shots: tuple[int, ...] = (1, 5, 10),
    models: int = 8,
    **options: Any,
) -> list[Result]:
    """The paper's baselines, tuned model and the floors, at every setting that each task has classes for."""
    found = []
    for name, (parameters, clips_per_s, pretrained_on, rates) in list(MODELS.items())[:models]:
        for (task, (classes, *_)), rate in list(zip(TASKS.items(), rates, strict=True))[:tasks]:
            for way, shot in product(ways, shots):
                if way > classes:
                    continue
                found.append(
                    result(
                        name,
                        _expected(rate / 100, way, shot),
                        task=task,
                        protocol=Protocol(n_way=way, k_shot=shot, **options),
                        command=f"uamix-bench fewshot --model {name}=weights.pth --task {task} --n {way} --k {shot}",
                        clips_per_s=clips_per_s,
                        parameters=parameters,
                        pretrained_on=pretrained_on,
                    )
                )
    return found


def _expected(rate: float, way: int, shot: int) -> float:
    """An accuracy that rises with shots and falls with ways about as measured ones do, from that of 5-way 1-shot."""
    chance = 1 / way
    share = max(rate - 0.2, 0.0) / 0.8  # of the way from chance to certainty
    return chance + (1 - chance) * (1 - (1 - share) ** (shot**0.4)) * (5 / way) ** 0.25
