"""The command that measures everything, run on little of it: a page with every table, and figures that can be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from . import peers, tables
from .scale import QUICK
from .sections import episodes, frontend

REPOSITORY = Path(__file__).parents[2]
SECTIONS = [
    "The machine",
    "Episodes",
    "Front end",
    "Encoder",
    "Training",
    "A whole evaluation",
    "Growth",
    "Store and leaderboard",
    "Start-up and memory",
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "performance.md"
    line = [sys.executable, "-m", "tests.benchmarks", "--quick", "-o", str(path)]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path.read_text(encoding="utf-8")


def read_tables(page: str) -> dict[str, list[dict[str, str]]]:
    """The rows of every table, by the heading of its first column."""
    found: dict[str, list[dict[str, str]]] = {}
    rows: list[list[str]] = []
    for token in MarkdownIt().enable("table").parse(page):
        if token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows:
            rows[-1].append(token.content)
        elif token.type == "table_close":
            found[rows[0][0]] = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
            rows = []
    return found


@pytest.mark.slow
def test_the_page_has_every_section_and_names_the_machine(page: str) -> None:
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == SECTIONS
    for fact in ("processor", "cores", "memory", "packages", "git revision", "load average before"):
        assert f"\n- {fact}: " in page
    assert "python -m tests.benchmarks --quick" in page


@pytest.mark.slow
def test_no_share_of_a_limit_is_more_than_all_of_it(page: str) -> None:
    shares = [
        float(row[tables.SHARE.rstrip(">")].removesuffix("%")) / 100
        for rows in read_tables(page).values()
        for row in rows
        if row.get(tables.SHARE.rstrip(">"))
    ]
    assert len(shares) > 20
    assert all(0 < share <= 1.2 for share in shares), shares


@pytest.mark.slow
def test_every_cell_is_filled_and_the_peers_are_there(page: str) -> None:
    found = read_tables(page)
    assert len(found) >= 12
    for heading, rows in found.items():
        assert rows, heading
        for row in rows:
            empty = [name for name, cell in row.items() if not cell]
            assert all("limit" in name for name in empty), (heading, row)
    for row in found["2,000 clips, 50 classes"]:
        assert row["scikit-learn"].endswith("×)")
    (cheap, dear, _) = found["Evaluation"]
    assert int(dear["clips encoded"].replace(",", "")) > int(cheap["clips encoded"].replace(",", ""))


@pytest.mark.over_3s
def test_a_peer_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "is_installed", lambda module: False)
    scale = QUICK._replace(rounds=1, episodes=100)
    scored, spectrograms = episodes.scored(scale), frontend.section(scale).blocks[1]
    for table, peer in ((scored, "easyfsl"), (spectrograms, "kaldi-native-fbank")):
        at = [str(column).rstrip(">") for column in table.columns].index(peer)
        assert table.rows[-1][at] == tables.NOT_INSTALLED
