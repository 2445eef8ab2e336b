"""Class clusters in the embeddings of two models: a t-SNE as a picture, with measured separation beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from uamix_bench.evaluation.replay import Replay
from uamix_bench.reports import figures
from uamix_bench.reports.blocks import Block, Table
from uamix_bench.util.arrays import Doubles, Floats, Ints
from uamix_bench.util.errors import UsageError, nearest

# Figure 6 of the paper shows eight classes of ESC-50 and names the first four of these; the others are assumed.
PAPER_CLASSES = {"esc50": "sea_waves wind siren rain dog church_bells clock_tick crying_baby".split()}
COUNT = 8
DEFAULT = "default"

_MOST = 100  # clips of a class: a picture of more is a smear
_PERPLEXITY = 30.0  # van der Maaten and Hinton 2008 advise 5 to 50; scikit-learn's own
_SEED = 0


class Measures(NamedTuple):
    """Separation of classes in labelled embeddings, by Euclidean distance between centred embeddings.

    Attributes:
        silhouette: Silhouette, the mean over clips of (b - a) / max(a, b), a the mean distance to its class, b to the
            nearest other (Rousseeuw 1987): 1 for classes far apart, 0 for classes on top of each other.
        purity: Share of clips whose nearest clip of another group has their class; by chance about one in C.
    """

    silhouette: float
    purity: float


def measure(embeddings: Floats, class_of: Ints, group_of: Ints) -> Measures:
    """Measures the separation of classes.

    Args:
        embeddings: (n, D) float32 embeddings.
        class_of: (n,) int64 class of each clip, of two classes or more.
        group_of: (n,) int64 group (recording, speaker) of each clip; neighbours of a clip's own group do not count.
    """
    from sklearn.metrics import silhouette_score
    from sklearn.metrics.pairwise import euclidean_distances

    centred = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    distances = euclidean_distances(centred)
    np.fill_diagonal(distances, 0.0)
    silhouette = float(silhouette_score(distances, class_of, metric="precomputed"))
    distances[group_of[:, None] == group_of] = np.inf
    judged = np.isfinite(distances).any(axis=1)  # a group that is all there is has no neighbour
    pure = class_of[distances[judged].argmin(axis=1)] == class_of[judged]
    return Measures(silhouette, float(pure.mean()))


def place(embeddings: Floats) -> Doubles:
    """Places (n, D) embeddings on a plane by t-SNE from their first two principal components: (n, 2)."""
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (len(embeddings) - 1) / 3)
    placed: Doubles = TSNE(init="pca", perplexity=perplexity, random_state=_SEED, learning_rate="auto").fit_transform(
        embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    )
    return placed


def choose(task: str, labels: Sequence[str], wanted: Sequence[str] = (DEFAULT,)) -> list[str]:
    """Classes to show.

    Args:
        task: Name of the clips' task.
        labels: Names of all its classes.
        wanted: Names of wanted classes; ``default`` stands for the paper's if all are among `labels`, else the first
            eight.

    Raises:
        UsageError: A class does not exist, or there are fewer than two.
    """
    if list(wanted) == [DEFAULT]:
        of_paper = PAPER_CLASSES.get(task, [])
        chosen = of_paper if of_paper and set(of_paper) <= set(labels) else sorted(labels)[:COUNT]
    else:
        chosen = list(dict.fromkeys(wanted))
    for label in chosen:
        if label not in labels:
            raise UsageError(f"--tsne {label}", f"is no class of {task}", nearest(label, list(labels)))
    if len(chosen) < 2:
        raise UsageError(
            "--tsne", f"{len(chosen)} class of {task} has no other class to be compared with", "name two or more"
        )
    return chosen


def blocks(replays: Mapping[str, Replay], wanted: Sequence[str] = (DEFAULT,)) -> list[Block]:
    """Figure of the clusters, and its table.

    Args:
        replays: Replays of models on one clip table, by the models' names; clips without an embedding of every model
            are left out.
        wanted: Names of wanted classes; see :func:`choose`.

    Raises:
        UsageError: The classes are refused by :func:`choose`; or too few clips are in the cache for all models.
    """
    data = next(iter(replays.values())).data
    chosen = choose(data.name, sorted(set(data.table["label"])), wanted)
    labels = data.table["label"].astype(str)
    rows = np.concatenate([np.flatnonzero(labels == label)[:_MOST] for label in chosen])
    looked = [replay.embeddings(rows) for replay in replays.values()]
    kept = np.logical_and.reduce([found for found, _ in looked])
    class_of = np.repeat(np.arange(len(chosen)), [int(np.sum(labels[rows[kept]] == label)) for label in chosen])
    if np.bincount(class_of, minlength=len(chosen)).min() < 2:
        reason = f"fewer than two clips of a class are in the cache for {' and '.join(replays)}"
        raise UsageError("--tsne", reason, "evaluate both with more episodes first")
    group_of = np.unique(data.table["group"].astype(str)[rows[kept]], return_inverse=True)[1]
    vectors = {name: found[1][kept] for name, found in zip(replays, looked, strict=True)}
    measured = {name: measure(table, class_of, group_of) for name, table in vectors.items()}
    words = "; ".join(
        f"{name}: silhouette {found.silhouette:.3f}, {100 * found.purity:.1f}% of nearest neighbours of the same class"
        for name, found in measured.items()
    )
    drawing = figures.points(
        f"{len(chosen)} classes of {data.name} by t-SNE",
        {name: place(table) for name, table in vectors.items()},
        class_of.tolist(),
        chosen,
        description=f"The same {len(class_of):,} clips for each model, coloured by class. {words}.",
        titles_of=data.table["clip"][rows[kept]].tolist(),
    )
    table = Table(
        ("model", "silhouette>", "nearest neighbour of the same class %>", "clips>"),
        [
            (name, f"{found.silhouette:.3f}", f"{100 * found.purity:.1f}", f"{len(class_of):,}")
            for name, found in measured.items()
        ],
        "Separation of the classes",
        "Measured in the embedding space by Euclidean distance, on the same clips for each model; a nearest neighbour "
        f"is one of another group ({data.card.group}). By chance {100 / len(chosen):.1f}% of neighbours have the class."
        "\n\nThe t-SNE is a picture: distances between its clusters, and their sizes, mean nothing. These numbers are "
        "the measurement.",
    )
    return [drawing, table]
