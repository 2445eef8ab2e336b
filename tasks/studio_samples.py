"""Studio samples: the bundled task of Sonic Pi's sample set by family."""

from __future__ import annotations

from pathlib import Path

from uamix_bench.plugins.card import TaskCard, read_card

from .bundled import Bundled


class StudioSamples(Bundled):
    """Seconds of samples of eight families, grouped by sample."""

    card = read_card(Path(__file__).with_suffix(".toml"), TaskCard)
