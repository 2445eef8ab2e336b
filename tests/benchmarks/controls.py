"""Is a gain more than another scale? Each model raw, under CL2N and under PCA whitening, in each pooling.

    python tests/benchmarks/controls.py audiomae-tiny uamix-tiny uamix=DIR ... [--task FILE.csv] [--split valid]

Few-shot accuracy of 5-way 1-shot episodes in per cent, as a Markdown table. Whitening takes the directions of the
largest variance among the embeddings of unlabelled training clips (`synthetic:train`), 128 of them or as many as there
are, and gives each a variance of one: a model whose information stands in directions of small variance gains by it.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA

from uamix_bench.data.task import TaskData, load_task
from uamix_bench.embeddings.embedding import embed
from uamix_bench.evaluation.fewshot import draw_episodes, limited
from uamix_bench.models.loading import load_model
from uamix_bench.models.vit import STACKED
from uamix_bench.scoring.classifiers import CLASSIFIERS
from uamix_bench.scoring.protocol import Protocol

DIRECTIONS = 128
CLIPS_PER_CLASS = 10  # of the training clips that the whitening is fitted on
Floats = npt.NDArray[np.float32]


def vectors(name: str, pooling: str | None, data: TaskData, rows: npt.NDArray[np.int64]) -> Floats:
    """The (n, D) embeddings of a task's rows."""
    return embed(load_model(name, pooling=pooling), data, rows).vectors


def accuracies(
    name: str, pooling: str | None, data: TaskData, protocol: Protocol, unlabelled: TaskData
) -> dict[str, tuple[float, float]]:
    """Accuracy and the half-width of its 95% interval over episodes, in per cent, by the name of the control."""
    episodes = draw_episodes(data, protocol)
    table = vectors(name, pooling, data, episodes.clips)
    others = vectors(name, pooling, unlabelled, np.arange(len(unlabelled.table)))
    whitening = PCA(min(DIRECTIONS, table.shape[1]), whiten=True, svd_solver="full").fit(others)
    white = whitening.transform(table).astype(np.float32)
    found = {}
    for control, classifier, values in (
        ("raw", "nearest-centroid", table),
        ("CL2N", "simpleshot", table),
        ("whitened", "nearest-centroid", white),
    ):
        correct = CLASSIFIERS[classifier](values, *episodes.compact()).correct
        share = 100 * correct / (protocol.n_way * protocol.n_query)
        found[control] = (float(share.mean()), float(1.96 * share.std() / len(share) ** 0.5))
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--task", default="synthetic")
    parser.add_argument("--split")
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--q", type=int, default=15)
    parser.add_argument("--episodes", type=int, default=2_000)
    chosen = parser.parse_args()
    data = load_task(chosen.task, splits=(chosen.split,) if chosen.split else None)
    protocol = Protocol(name="custom", n_way=chosen.n, k_shot=1, n_query=chosen.q, episodes=chosen.episodes)
    unlabelled = limited(load_task("synthetic", splits=("train",)), CLIPS_PER_CLASS)
    print("| model | pooling | raw | CL2N | whitened |\n|---|---|---|---|---|")
    for name in chosen.models:
        poolings = [how for how in load_model(name).poolings if how in ("mean", *STACKED)]
        for pooling in sorted(poolings) or [None]:
            found = accuracies(name, pooling, data, protocol, unlabelled)
            cells = " | ".join(f"{mean:.1f} ± {half:.1f}" for mean, half in found.values())
            print(f"| {name} | {pooling or 'its own'} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
