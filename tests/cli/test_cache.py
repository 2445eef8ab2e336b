"""The cache command: what it lists, checks and prunes, and a run under a size limit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .conftest import SMALL, Bench


@pytest.fixture
def filled(bench: Bench, sounds: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Embeddings of two models."""
    monkeypatch.setattr("uamix_bench.storage.digests._RACY_S", -60.0)
    for model in ("logmel", "random"):
        assert bench("fewshot", "-m", model, "-t", sounds, *SMALL).code == 0
    return bench


def test_ls_and_path(filled: Bench, bench_home: Path) -> None:
    listed = filled("cache", "ls", "--json").envelope["items"]
    entries = {item["name"]: item["entries"] for item in listed}
    assert entries.pop("digests") >= 32  # of the sounds, and of the project's code
    assert entries == {"logmel": 32, "random": 32}
    shards = list(bench_home.glob("embeddings/*/*.shard"))
    assert sum(item["bytes"] for item in listed) == sum(path.stat().st_size for path in shards)
    (logmel,) = filled("cache", "ls", "-m", "log*", "--json").envelope["items"]
    assert logmel["model"]["fingerprint"].startswith(logmel["key"])
    assert filled("cache", "ls", "-m", logmel["key"]).out.splitlines()[-1].startswith("logmel")
    assert "+00:00" in logmel["last_used"]
    assert filled("cache", "path").out == f"{bench_home}\n"
    assert filled("cache", "path", "--json").envelope["items"] == [{"path": str(bench_home)}]


def test_verify_names_the_bad_and_a_run_mends_them(filled: Bench, sounds: Path, bench_home: Path) -> None:
    assert filled("cache", "verify").out == "3 shards verified\n"
    (item,) = filled("cache", "ls", "-m", "logmel", "--json").envelope["items"]
    (shard,) = (bench_home / "embeddings" / item["key"]).glob("*.shard")
    os.truncate(shard, shard.stat().st_size - 5)
    done = filled("cache", "verify")
    assert done.code == 3
    assert done.out == f"{shard}: is truncated\n"
    assert done.error.startswith("uamix-bench: error: 1 of 3 shards: not what was written; ")
    assert filled("cache", "verify", "--json").envelope["items"] == [{"path": str(shard), "reason": "is truncated"}]
    assert filled("cache", "verify", "-m", "random").code == 0
    again = filled("fewshot", "-m", "logmel", "-t", sounds, *SMALL, "--overwrite", "always")
    assert again.code == 0
    assert "is truncated; left out of the cache and computed again" in again.err
    assert filled("cache", "verify").code == 0


def test_prune(filled: Bench, bench_home: Path) -> None:
    names = {item["name"] for item in filled("cache", "ls", "--json").envelope["items"]}
    would = filled("cache", "prune", "-m", "random", "--dry-run")
    assert would.code == 0
    assert ".shard: " in would.out
    assert "would remove" in would.out
    assert filled("cache", "prune", "--older-than", "1h").out.startswith("removed 0 bytes; ")
    assert filled("cache", "prune", "-m", "random").code == 0
    assert {item["name"] for item in filled("cache", "ls", "--json").envelope["items"]} == names - {"random"}
    envelope = filled("cache", "prune", "--max-size", "0", "--json").envelope
    assert envelope["left_bytes"] == 0
    assert envelope["removed_bytes"] == sum(item["bytes"] for item in envelope["items"]) > 0
    assert filled("cache", "ls", "--json").envelope["items"] == []
    assert filled("cache", "verify").out == "0 shards verified\n"
    assert list((bench_home / "results").rglob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "does not say what to remove; give --max-size, --older-than or --model"),
        (("--max-size", "ten"), "--max-size: 'ten' is not a size"),
        (("--older-than", "3y"), "--older-than: '3y' is not an age"),
        (("-m", "logmle"), "--model logmle: the cache holds no entry of it; did you mean 'logmel'?"),
    ],
)
def test_what_makes_no_sense_is_refused(filled: Bench, arguments: tuple[str, ...], words: str) -> None:
    done = filled("cache", "prune", *arguments)
    assert done.code == 2
    assert words in done.error
    assert len(filled("cache", "ls", "--json").envelope["items"]) == 3


def test_a_run_keeps_to_the_limit(
    filled: Bench, sounds: Path, bench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in bench_home.glob("embeddings/*/*.shard"):
        os.utime(path, (1e9, 1e9))
    monkeypatch.setenv("UAMIX_BENCH_CACHE_SIZE", "400 kB")  # of the three that are there none but the digests fits, too
    free = filled("fewshot", "-m", "uamix-tiny", "-t", sounds, *SMALL, "--no-cache", "--json").envelope["results"][0]
    kept = filled("fewshot", "-m", "uamix-tiny", "-t", sounds, *SMALL, "--overwrite", "always", "--json")
    assert kept.code == 0
    assert kept.envelope["results"][0]["id"] == free["id"]
    listed = filled("cache", "ls", "--json").envelope["items"]
    assert "uamix" in {item["name"] for item in listed}
    assert sum(item["bytes"] for item in listed) <= 400_000
    monkeypatch.setenv("UAMIX_BENCH_CACHE_SIZE", "lots")
    refused = filled("fewshot", "-m", "random", "-t", sounds, *SMALL, "--overwrite", "always")
    assert refused.code == 2
    assert "UAMIX_BENCH_CACHE_SIZE: 'lots' is not a size" in refused.err
