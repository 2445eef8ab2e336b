"""How much is measured: the whole, or a quick look that shows that everything works."""

from __future__ import annotations

from typing import NamedTuple

from uamix_bench.models.vit import ViTShape


class Scale(NamedTuple):
    """The sizes and repetitions of every section.

    Attributes:
        rounds: How often each comparison is timed; medians over these are shown.
        encoder_rounds: The same for the encoder.
        episodes: Drawn and scored here in a round.
        peer_episodes: Scored by others in a round.
        data_sets: How many of the data sets, smallest first, are drawn from.
        encoder: The shape that is timed.
        train_batch: Clips of a training step.
        table_clips: Numbers of clips for which drawing and scoring are timed.
        table_width: D of these tables of embeddings.
        episode_counts: Numbers of episodes that are drawn and scored of one table.
        ways: N of the grid of N and K.
        shots: K of that grid.
        clips_per_class: Of the whole evaluation's 50 classes.
        repeats: How often the whole evaluation is timed.
        reference_episodes: That encode their clips again, after each of these.
        start_ups: How often each command is started.
        results: Numbers of results that a store and its leaderboard hold.
    """

    rounds: int
    encoder_rounds: int
    episodes: int
    peer_episodes: int
    data_sets: int
    encoder: ViTShape
    train_batch: int
    table_clips: tuple[int, ...]
    table_width: int
    episode_counts: tuple[int, ...]
    ways: tuple[int, ...]
    shots: tuple[int, ...]
    clips_per_class: int
    repeats: int
    reference_episodes: int
    start_ups: int
    results: tuple[int, ...]


WHOLE = Scale(
    rounds=5,
    encoder_rounds=5,
    episodes=10_000,
    peer_episodes=200,
    data_sets=5,
    encoder=ViTShape(),
    train_batch=128,
    table_clips=(1_000, 10_000, 100_000, 1_000_000),
    table_width=768,
    episode_counts=(100, 1_000, 10_000, 100_000),
    ways=(2, 5, 10, 20, 50),
    shots=(1, 5, 10, 20),
    clips_per_class=40,
    repeats=3,
    reference_episodes=8,
    start_ups=5,
    results=(1_000, 5_000),
)
QUICK = Scale(
    rounds=3,
    encoder_rounds=3,
    episodes=1_000,
    peer_episodes=20,
    data_sets=2,
    encoder=ViTShape(width=384, depth=2, heads=6),
    train_batch=8,
    table_clips=(1_000, 10_000),
    table_width=768,
    episode_counts=(100, 1_000),
    ways=(5, 50),
    shots=(1, 20),
    clips_per_class=8,  # 5 supports leave queries
    repeats=1,
    reference_episodes=1,
    start_ups=1,
    results=(20, 40),
)
