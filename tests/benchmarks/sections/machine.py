"""The machine, and what it can do."""

from __future__ import annotations

import os
from importlib import metadata

import torch

from uamix_bench.cli import env
from uamix_bench.reports.blocks import Facts, Section, Table

from .. import limits, tables
from ..scale import Scale
from ..timing import measure
from ..workloads import embeddings

FACTS = ("processor", "cores", "memory", "accelerators", "platform", "python", "packages", "git revision")
PEERS = ("torchaudio", "easyfsl", "kaldi-native-fbank")


def section(scale: Scale) -> Section:
    known = env.facts()
    facts = {name: known[name] for name in FACTS}
    facts["packages"] += "".join(f", {name} {version(name)}" for name in PEERS)
    facts["load average before"] = load_average()
    return Section("The machine", [Facts(facts), _limits(scale)])


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return tables.NOT_INSTALLED


def load_average() -> str:
    """Of the last 1, 5 and 15 minutes: this run's own load, and that of others."""
    return ", ".join(f"{load:.1f}" for load in os.getloadavg())


def _limits(scale: Scale) -> Table:
    """The limits themselves, in billions of units a second; every comparison measures its own again."""
    small, large = (embeddings(clips) for clips in (2_000, max(scale.table_clips) // 10))
    sides = {
        ("reading memory, GB/s", "cpu"): limits.read(),
        ("copying memory, read and written, GB/s", "cpu"): limits.copy(),
        (f"random rows of 3 kB, table of {small.nbytes / 1e6:,.0f} MB, GB/s", "cpu"): limits.gather(small),
        (f"random rows of 3 kB, table of {large.nbytes / 1e6:,.0f} MB, GB/s", "cpu"): limits.gather(large),
        ("float32 product, numpy, GFLOP/s", "cpu"): limits.numpy_product(),
        ("float32 product, torch, GFLOP/s", "cpu"): limits.product(),
        ("bfloat16 product, torch, GFLOP/s", "cpu"): limits.product(torch.bfloat16),
    }
    if torch.cuda.is_available():
        sides |= {
            ("GPU, reading memory, GB/s", "cuda"): limits.read(4 << 30, "cuda"),
            ("GPU, float32 product, GFLOP/s", "cuda"): limits.product(torch.float32, "cuda"),
            ("GPU, bfloat16 product, GFLOP/s", "cuda"): limits.product(torch.bfloat16, "cuda"),
        }
    rows = []
    for (name, device), side in sides.items():
        times = measure({"it": side}, scale.rounds, device)
        rows.append([name, tables.significant(1e-9 / times.median("it"))])
    return Table(["What it does in one thread, measured", "rate>"], rows)
