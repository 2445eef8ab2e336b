"""The published figures against the collection that they were taken from, and against the paper's own claims."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from uamix_bench.plugins import registry
from uamix_bench.reports.published import published

COLUMNS = ("esc50", "voxceleb1", "nsynth", "speech-commands", "fsdkaggle2018")


def rows_of(path: Path, heading: str) -> dict[str, list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith(heading))
    found = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        label, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found[label] = cells
    return found


@pytest.mark.parametrize(
    ("table", "heading", "skip"), [("uamix-table-2", "| Table 2", 1), ("uamix-table-3", "| Table 3", 0)]
)
def test_the_papers_tables_are_as_collected(test_data: Path, table: str, heading: str, skip: int) -> None:
    source = test_data / "specs" / "published.md"
    if not source.is_file():
        pytest.skip(f"no {source}")
    collected = rows_of(source, heading)
    known = published().table(table)
    assert [row.label for row in known.rows] == list(collected)
    for row in known.rows:
        cells = collected[row.label]
        if skip:
            assert row.trained == cells[0]
        for task, cell in zip(COLUMNS, cells[skip:], strict=True):
            numbers = tuple(map(float, re.findall(r"\d+\.\d", cell)[:2]))
            assert row.accuracy.get(task, ()) == numbers


def test_the_slips_are_slips() -> None:
    two, three = (published().table(f"uamix-table-{number}").rows for number in (2, 3))
    tuned, best = two[-1].accuracy, two[-2].accuracy
    gains = {task: round(tuned[task][0] - best[task][0], 1) for task in tuned}
    assert gains == {"esc50": 5.2, "voxceleb1": 1.4, "nsynth": 5.3, "speech-commands": -0.8, "fsdkaggle2018": 2.3}
    assert {task for task, gain in gains.items() if gain >= 4} == {"esc50", "nsynth"}
    assert all(max(row.accuracy.get(task, (0.0,))[0] for row in two[:-1]) == best[task][0] for task in tuned)
    differing = {task for task in tuned if tuned[task] != three[-1].accuracy[task]}
    assert (differing, three[-1].accuracy["fsdkaggle2018"]) == ({"fsdkaggle2018"}, (43.6, 1.8))
    assert [row.accuracy["speech-commands"][0] for row in three] == [29.9, 29.6, 29.6]
    slips = " ".join(published().sources["uamix"].slips)
    assert all(f"{gain:+.1f}" in slips for gain in gains.values())


def test_names_are_those_of_the_registry() -> None:
    for table in published().tables:
        for row in table.rows:
            assert row.model in {"", *registry.models()}
            assert set(row.accuracy) <= set(registry.tasks())
    for source in published().sources.values():
        assert set(source.cards) <= set(registry.models())


def test_what_is_only_recalled_is_marked() -> None:
    table = published().table("fine-tuned")
    shown = published().show(table)
    marked = {
        (row.label, task)
        for row, cells in zip(table.rows, shown.rows, strict=True)
        for task, cell in zip(("esc50", "speech-commands", "voxceleb1"), cells[1:4], strict=True)
        if "‡" in cell.minor
    }
    assert marked == {(row.label, task) for row in table.rows for task in row.recalled}
    assert ("BEATs iter3", "esc50") in marked
    assert "‡ recalled" in shown.note
