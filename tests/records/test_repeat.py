"""The command line that repeats a result: flags go through the command's own parser, back to the same protocol."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from uamix_bench.cli import main
from uamix_bench.records.record import Skipped, Status
from uamix_bench.records.repeat import protocol_flags, repeat_command
from uamix_bench.scoring.protocol import METAAUDIO, Protocol
from uamix_bench.tasks.miniature import make

from ..sample_records import few_shot

# A value of every field that is not its default. A field that is missing here fails the test below.
OTHER: dict[str, dict[str, Any]] = {
    "name": {"name": "custom-classes", "seed": 1},
    "n_way": {"n_way": 3},
    "k_shot": {"k_shot": 2},
    "n_query": {"n_query": 3},
    "episodes": {"episodes": 7},
    "seed": {"seed": 4},
    "classifier": {"classifier": "cosine"},
    "neighbors": {"neighbors": 3, "classifier": "knn", "k_shot": 2},
    "group_disjoint": {"group_disjoint": True},
    "min_clips": {"min_clips": 9},
    "segments": {"segments": "mean"},
    "template": {"k_shot": 0, "classifier": "class-names", "template": "a sound of {}"},
}


def parsed(words: list[str], capsys: pytest.CaptureFixture[str]) -> Protocol:
    """The protocol that the program itself makes of a command line."""
    capsys.readouterr()
    assert main(["fewshot", "--model", "logmel", *words, "--dry-run", "--json"]) == 0
    (item,) = json.loads(capsys.readouterr().out)["items"]
    return Protocol.model_validate(item["protocol"])


@pytest.mark.parametrize("field", Protocol.model_fields)
def test_every_field_of_a_protocol_has_a_flag_that_gives_it(
    field: str, tmp_path: Path, bench_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = "esc50"
    make("esc50", tmp_path / "esc50", classes=6, clips_per_class=10, seconds=0.01)
    if field == "min_clips":  # is stated where it leaves a class out
        task = str(tmp_path / "own")
        for name in (f"{label}/{number}.wav" for label in "abcdef" for number in range(8 if label == "f" else 10)):
            path = tmp_path / "own" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    listed = tmp_path / "classes.txt"
    listed.write_text("\n".join(["dog", "rooster", "pig", "cow", "frog", "cat"]))
    wanted = Protocol(**{"name": "custom", "n_query": 4, "episodes": 5, **OTHER[field]})
    assert getattr(wanted, field) != Protocol.model_fields[field].default
    words = [str(listed) if word == "FILE" else word for word in protocol_flags(wanted)]
    assert parsed(["--task", task, "--data-dir", str(tmp_path), *words], capsys) == wanted


@pytest.mark.parametrize(
    ("protocol", "sizes", "custom"),
    [
        (Protocol(), {"classes": 6, "clips_per_class": 16}, "custom"),
        (METAAUDIO.model_copy(update={"n_way": 3}), {"clips_per_class": 2}, "metaaudio-custom"),  # of fewer classes
    ],
)
def test_published_protocols_keep_their_names_and_classes(
    protocol: Protocol,
    sizes: dict[str, int],
    custom: str,
    tmp_path: Path,
    bench_home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make("esc50", tmp_path / "esc50", **sizes, seconds=0.001)
    at = ["--task", "esc50", "--data-dir", str(tmp_path)]
    assert parsed([*at, *protocol_flags(protocol)], capsys) == protocol
    changed = parsed([*at, *protocol_flags(protocol), "--seed", "3"], capsys)
    assert changed.name == custom
    assert parsed([*at, *protocol_flags(changed)], capsys) == changed


def test_task_model_and_status_have_their_flags() -> None:
    plain = few_shot()
    own = plain.task.model_copy(update={"name": "local/my sounds", "clip_seconds": 0.1 + 0.2})
    words = shlex.split(repeat_command(few_shot(task=own)).replace("\\\n", ""))
    assert words[:4] == ["uamix-bench", "fewshot", "--model", "ARCHITECTURE=WEIGHTS"]
    flags = dict(zip(words[2::2], words[3::2], strict=True))
    assert (flags["--name"], flags["--task"], float(flags["--clip-seconds"])) == ("m", "FOLDER_OR_CSV", 0.1 + 0.2)
    assert (flags["--input"], flags["--pooling"], flags["--dtype"]) == ("native", "mean", "float32")
    skipped = Status(complete=False, partial="30 of 32", skipped=(Skipped(clip="a", reason="cut"),))
    code = plain.model.model_copy(update={"source_sha256": "7" * 64})
    words = repeat_command(few_shot(status=skipped, model=code)).split()
    assert {"--keep-going", "--allow-partial", "FILE.py:CLASS"} <= set(words)
    assert "--limit" not in words
    limited = repeat_command(few_shot(status=Status(complete=False, limited=True)))
    assert "--limit CLIPS" in limited
    red = plain.health.model_copy(update={"verdict": "red"})
    assert "--allow-unhealthy" in repeat_command(few_shot(health=red))
