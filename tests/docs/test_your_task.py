"""docs/your-task.md is run as it stands."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from uamix_bench.cli import main
from uamix_bench.plugins import registry
from uamix_bench.records.store import ResultStore

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "your-task.md").read_text(encoding="utf-8")


def section(title: str, language: str) -> tuple[str, list[list[str]]]:
    """A section's first block in a language, and the arguments of its commands."""
    text = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    block = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[0]
    commands = re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return block, [line.split()[1:] for lines in commands for line in lines.splitlines()]


@pytest.fixture
def desk(tmp_path: Path, bench_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_list_of_segments(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, commands = section("Data where they lie", "csv")
    (desk / "calls.csv").write_text(text)
    soundfile.write(desk / "night.wav", np.random.default_rng(0).normal(scale=0.1, size=40_000), 16_000)
    for arguments in commands:
        assert main(arguments) == 0, capsys.readouterr().err
    ((_, result),) = ResultStore()
    assert (result.task.name, result.task.classes, result.task.clips) == ("local/calls", 2, 4)


def test_a_card(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, commands = section("A card", "toml")
    (desk / "pets.toml").write_text(text)
    (desk / "wav").mkdir()
    generator = np.random.default_rng(0)
    for owner in ("ann", "ben", "cem", "dora"):
        for pitch, animal in enumerate("cdo", start=1):
            for take in (1, 2):
                tone = 0.3 * np.sin(500 * pitch * generator.uniform(0.95, 1.05) * np.arange(4_000) / 4_000)
                soundfile.write(desk / "wav" / f"{owner}_{animal}_{take}.wav", tone, 16_000)
    for arguments in commands:
        assert main(arguments) == 0, capsys.readouterr().err
    results = [result for _, result in ResultStore()]
    assert {(result.task.name, result.task.version, result.task.classes) for result in results} == {("pets", "1", 3)}
    assert all(result.task.content_sha256 for result in results)


def test_the_entry_point_is_in_the_form_of_the_project_s_own() -> None:
    group = tomllib.loads(section("Publish it", "toml")[0])["project"]["entry-points"]["uamix_bench.tasks"]
    assert group == {"pets": "my_package:pets"}
    for name in ("crema-d", "urbansound8k", "vocalsound", "watkins"):
        point = registry.find_task(name).entry_point
        assert re.fullmatch(r"[\w.]+:\w+", point.value)
        assert f"`{name}`" in PAGE
