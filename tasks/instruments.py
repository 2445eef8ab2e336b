"""Instruments: the bundled task of notes of FluidR3's sampled instruments."""

from __future__ import annotations

from pathlib import Path

from uamix_bench.plugins.card import TaskCard, read_card

from .bundled import Bundled


class Instruments(Bundled):
    """Notes of twenty instruments, grouped by recording."""

    card = read_card(Path(__file__).with_suffix(".toml"), TaskCard)
