"""The leaderboard's pages without a browser: content, size, Markdown, LaTeX and BibTeX, and the command."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from markdown_it import MarkdownIt

from uamix_bench.cli import cli, main
from uamix_bench.cli.errors import Session
from uamix_bench.plugins import registry
from uamix_bench.records.repeat import repeat_command
from uamix_bench.records.results import Pace
from uamix_bench.records.store import ResultStore
from uamix_bench.reports.blocks import Cell, Table
from uamix_bench.reports.board import board
from uamix_bench.reports.class_page import class_page
from uamix_bench.reports.latex import booktabs
from uamix_bench.reports.leaderboard import leaderboard
from uamix_bench.reports.published import published
from uamix_bench.reports.score_table import setting_section
from uamix_bench.scoring.protocol import METAAUDIO, Protocol

from .records import result

FEW = Protocol(episodes=40)


def tables(markdown: str) -> list[list[list[str]]]:
    """The tables of a Markdown text as a renderer sees them: rows of cells."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(markdown):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and found[-1] and token.level >= 3:
            words = [part.content for part in token.children or () if part.type in ("text", "text_special")]
            found[-1][-1].append("".join(words))
    return found


@pytest.mark.over_3s
def test_rows_in_markdown_are_the_results(site: Path) -> None:
    main_table, limited, published, mixing = tables((site / "index.md").read_text())[:4]
    assert [row[0] for row in main_table[1:]] == ["uamix", "audiomae", "beats", "m2d"]
    assert main_table[0][:4] == ["model", "rank", "mean", "esc50@1 (50 classes)"]
    assert main_table[4][2].strip() == "(2 of 3 tasks, not ranked)"
    assert main_table[4][1] == ""
    assert [row[0] for row in limited[1:]] == ["beats"]
    assert [row[0] for row in published[1:]] == ["MAE-AST", "MaskSpec", "BEATs", "M2D", "AudioMAE", "uaMix-MAE"]
    assert [row[0] for row in mixing[1:]] == ["No mixing", "MixUp + LS"]


@pytest.mark.over_3s
def test_the_report_of_the_same_results_says_the_same(site: Path, store: Path, records: Any) -> None:
    from uamix_bench.records.store import read_all
    from uamix_bench.reports.fewshot import report

    index = (site / "index.md").read_text()
    page = report([record for _, record in read_all([store]).records]).markdown
    for words in ("Accuracy over shots, 5-way", "Accuracy over ways, 1-shot"):
        drawn = [text.split(words)[1].partition("#")[0].strip() for text in (index, page)]
        assert drawn[0] == drawn[1]
    for document in map(json.loads, (path.read_text() for path in store.rglob("5w1s-*.json"))):
        if document["status"]["complete"]:
            half = document["score"]["intervals"]["episodes"]["half_width"]
            score = f"{100 * document['score']['accuracy']:.1f} ± {100 * half:.1f}"
            assert score in index
            assert score in page


def test_accuracies_are_those_of_the_files(site: Path, store: Path) -> None:
    rows = {row[0]: row for row in tables((site / "index.md").read_text())[0]}
    for path in sorted(store.rglob("5w1s-*.json")):
        document = json.loads(path.read_text())
        if not document["status"]["complete"]:
            continue
        column = [cell.split(" ")[0] for cell in rows["model"]].index(f"{document['task']['name']}@1")
        score = document["score"]
        mean, half = 100 * score["accuracy"], 100 * score["intervals"]["episodes"]["half_width"]
        mark = " (†)" if document["task"]["name"] == "voxceleb1" else ""  # AudioSet and VoxCeleb draw from YouTube
        score = f"{mean:.1f} ± {half:.1f}{mark}"
        assert rows[document["model"]["name"]][column] in (score, f"{score} (best on these clips)")


def test_every_result_has_a_drawer_and_every_link_a_target(site: Path, store: Path) -> None:
    pages = {path.name: path.read_text() for path in site.glob("*.html")}
    ids = {name: re.findall(r' id="([^"]+)"', html) for name, html in pages.items()}
    for name, html in pages.items():
        assert len(ids[name]) == len(set(ids[name]))
        for target in re.findall(r'href="([^"]+)"', html):
            file, _, target_id = target.partition("#")
            if not target.startswith("https://"):
                assert target_id in ["", *ids[file or name]]
    results = [f"r-{json.loads(path.read_text())['id'][:16]}" for path in store.rglob("*.json")]
    assert sorted(one for of_page in ids.values() for one in of_page if re.fullmatch("r-.{16}", one)) == sorted(results)
    assert all(f'#{one}"' in pages["index.html"] for one in results)


def test_a_model_that_was_trained_on_the_task_is_shown_without_a_rank(records: Any) -> None:
    about = {"task": "speech-commands", "protocol": FEW}
    page = leaderboard(
        [
            records.result("ast", 0.9, **about, pretrained_on=("speech_commands",)),
            records.result("superb", 0.6, **about, pretrained_on=("superb",)),
            records.result("libri", 0.5, **about, pretrained_on=("librispeech_asr",)),
            records.result("private", 0.4, **about, pretrained_on=("50 h of our own",)),
        ]
    )
    table = tables(page.markdown)[0]
    assert [row[0] for row in table[1:]] == ["ast", "superb", "libri", "private"]  # by accuracy
    assert [row[1].split(" ")[0] for row in table[1:]] == ["†", "1", "2", "3"]
    assert [row[2].partition("± ")[2].partition(" (best")[0].split(" ")[1:] for row in table[1:]] == [
        ["†"],
        ["(†)"],
        [],
        ["?"],
    ]
    assert [row[-1].split(" (")[0] for row in table[1:]] == ["overlaps", "may overlap", "none", "unknown"]
    best = next(line for line in page.markdown.splitlines() if line.startswith("| superb |"))
    assert "(best on these clips)" in best
    assert "**" in best
    assert "**" not in next(line for line in page.markdown.splitlines() if line.startswith("| ast |"))
    for mark in ("†", "(†)", "?"):
        assert f"{mark} The model" in page.markdown or f"{mark} It is not known" in page.markdown


def own_results(records: Any) -> list[Any]:
    """Results on a user's own sounds at two settings."""
    return [
        records.result(
            name, rate, task="local/kitchen", protocol=Protocol(episodes=40, k_shot=k), labels=tuple("abcdef")
        )
        for name, rate in (("logmel", 0.7), ("random", 0.3))
        for k in (1, 5)
    ]


def test_a_site_of_own_tasks_has_nothing_of_the_paper(records: Any) -> None:
    for text in (leaderboard(own_results(records)).html, leaderboard(own_results(records)).markdown):
        for word in ("slip", "ublished", "aper's", "uaMix", "siren", "None"):
            assert word not in text, word
    both = leaderboard([*own_results(records), records.result(protocol=FEW)])
    assert "Published figures" in both.markdown
    assert "slip 1" in both.markdown


def test_best_is_said_only_where_new_clips_support_it(records: Any) -> None:
    setting = board(own_results(records)).settings[0]
    (best,) = (row.results["local/kitchen"] for row in setting.standings[:1])
    assert (setting.cell(best).mark, setting.cell(best).note) == ("top", "best on these clips")
    supported = replace(setting, ranking=setting.ranking._replace(best_for_new_clips=setting.ranking.best))
    assert (supported.cell(best).mark, supported.cell(best).note) == ("best", "best")
    (other,) = (row.results["local/kitchen"] for row in setting.standings[1:])
    assert (setting.cell(other).mark, setting.cell(other).note) == ("", "")


def test_speed_is_that_of_earlier_runs_where_all_came_from_the_cache(records: Any) -> None:
    cached = records.result(protocol=FEW, embedded_clips=0)
    cost = cached.cost.model_copy(update={"earlier": (Pace(device="cuda: H", clips=300, seconds=2.0),)})
    page = leaderboard([cached.model_copy(update={"cost": cost})])
    row = next(line for line in page.markdown.splitlines() if line.startswith("| m |"))
    assert "| 150 (earlier run) |" in row
    assert "150.0 clips/s on cuda: H (300 clips in 2.0 s)" in "".join(page.files.values())
    assert "earlier run)" not in leaderboard([cached]).markdown
    for embedded, earlier in ((10, True), (400, False)):  # a rate over few clips says little
        few = cached.model_copy(update={"cost": cost.model_copy(update={"embedded_clips": embedded})})
        assert ("| 150 (earlier run) |" in leaderboard([few]).markdown) == earlier


@pytest.mark.parametrize(
    ("model", "task", "protocol", "words"),
    [
        ("uamix-tiny", "esc50", Protocol(), ["--model", "uamix-tiny", "--task", "esc50"]),
        ("audiomae", "nsynth", Protocol(n_way=3, k_shot=2), ["--model", "audiomae=WEIGHTS"]),
        ("tuned; rm -r", "esc50", FEW, None),
        ("my model", "local/my sounds", FEW, ["--name", "my model", "--task", "FOLDER_OR_CSV"]),
        ("logmel", "esc50", METAAUDIO, ["--protocol", "metaaudio"]),
        ("logmel", "esc50", Protocol(classifier="cosine", group_disjoint=True), ["--group-disjoint"]),
    ],
)
def test_the_command_that_repeats_a_result_is_one_the_program_takes(
    records: Any, model: str, task: str, protocol: Protocol, words: list[str] | None
) -> None:
    if words is None:
        with pytest.raises(ValueError, match="pattern"):
            records.result(model, task=task, protocol=protocol)
        return
    made = records.result(model, task=task, protocol=protocol.model_copy(update={"episodes": 5}))
    program, name, *arguments = shlex.split(repeat_command(made).replace("\\\n", ""))
    assert (program, name) == ("uamix-bench", "fewshot")
    assert " ".join(words) in " ".join([name, *arguments])
    command = cli.get_command(click.Context(cli, obj=Session()), name)
    context = command.make_context(name, arguments, obj=Session())
    chosen = context.params
    assert (chosen["n"], chosen["k"]) == ((made.protocol.n_way,), (made.protocol.k_shot,))
    assert (chosen["q"], chosen["episodes"], chosen["seed"]) == (made.protocol.n_query, 5, 0)
    assert chosen["classifier"] == made.protocol.classifier


def test_citations_are_those_of_the_cards(site: Path) -> None:
    html = (site / "index.html").read_text()
    for name in ("uamix", "audiomae", "beats", "m2d"):
        assert registry.models()[name].card.citation.splitlines()[1].split("{")[1].rstrip(",") in html
    assert "piczak2015esc" in html


def test_latex_is_what_booktabs_takes() -> None:
    table = Table(
        ("model", "a_b>"),
        [("50% & {x}", Cell("66.3", "± 0.9", mark="best")), ("$\\input{x}$", Cell("65", mark="tie"))],
        groups={"Published #1": [("y", "1")]},
    )
    assert booktabs(table).splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"model & a\_b \\",
        r"\midrule",
        r"50\% \& \{x\} & \textbf{66.3} $\pm$ 0.9 \\",
        r"\$\textbackslash{}input\{x\}\$ & \underline{65} \\",
        r"\midrule",
        r"\multicolumn{2}{l}{\emph{Published \#1}} \\",
        r"y & 1 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    (line,) = booktabs(Table(("a\nb~^|<>",), [])).splitlines()[2:-2]
    assert line == r"a b\textasciitilde{}\textasciicircum{}\textbar{}\textless{} \\"


def test_a_site_is_the_same_in_whatever_order_files_come(records: Any) -> None:
    results = records.grid(tasks=2, ways=(5,), shots=(1, 5), models=3, episodes=20)
    assert leaderboard(results) == leaderboard(results[::-1])


# --- the command


@pytest.fixture
def few(tmp_path: Path, records: Any) -> Path:
    for task in ("esc50", "nsynth"):
        ResultStore(tmp_path / "store").write(records.result("logmel", task=task, protocol=FEW))
    return tmp_path / "store"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["leaderboard", "build", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_it_says_where_the_page_is(few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "site"
    assert run(capsys, few, "--out", out) == (0, f"{out / 'index.html'}\n", "")
    code, stdout, _ = run(capsys, *few.rglob("*.json"), "--out", out, "--json")
    assert code == 0
    assert json.loads(stdout)["items"] == [
        {"site": str(out), "page": str(out / "index.html"), "results": 2, "left_out": 0}
    ]


def test_it_needs_no_torch(few: Path, tmp_path: Path) -> None:
    arguments = ["leaderboard", "build", str(few), "--out", str(tmp_path / "site")]
    code = "import sys; from uamix_bench.cli import main; "
    code += f"print(main({arguments!r}), {{'torch', 'timm'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 set()"


def test_a_task_is_chosen(few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, few, "--out", tmp_path / "site", "--task", "esc50", "--title", "Mine")[0] == 0
    text = (tmp_path / "site" / "index.md").read_text()
    assert text.startswith("# Mine\n\n1 model on 1 task at 1 setting: 1 result, ")
    code, _, error = run(capsys, few, "--out", tmp_path / "site", "--task", "esc5")
    assert (code, error) == (2, "uamix-bench: error: --task esc5: no result is of it; did you mean 'esc50'?\n")


def test_bad_files_are_named_or_left_out(few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = next(few.rglob("*.json"))
    bad.write_text(bad.read_text().replace('"complete": true', '"complete": false'))
    code, _, error = run(capsys, few, "--out", tmp_path / "site")
    assert code == 3
    assert error.startswith(f"uamix-bench: error: {bad}: ")
    assert "the id is not that of the content" in error
    code, _, error = run(capsys, few, "--out", tmp_path / "site", "--keep-going")
    assert code == 6
    assert error.startswith(f"left out: {bad}: ")


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ("nothing", 3, "nothing: no such file; check the path"),
        ("empty", 2, "leaderboard: no few-shot result among the records; run 'uamix-bench fewshot' first"),
    ],
)
def test_nothing_to_show_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, code: int, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    found, _, error = run(capsys, tmp_path / given, "--out", tmp_path / "site")
    assert (found, len(error.splitlines())) == (code, 1)
    assert error.rstrip().endswith(words)


def test_two_hundred_results_make_a_page_of_less_than_3_mb(records: Any) -> None:
    results = records.grid(tasks=5, ways=(5, 10), shots=(1, 5, 10), models=7, episodes=20)[:200]
    page = leaderboard(results)
    assert len(results) == 200
    assert len(page.html.encode()) < 3_000_000


def test_a_figure_shows_the_first_models_and_says_so(records: Any) -> None:
    shots = [(index, shot) for index in range(18) for shot in (1, 5)]
    results = [
        records.result(f"m{index:02d}", 0.9 - index / 40, protocol=Protocol(episodes=40, k_shot=shot))
        for index, shot in shots
    ]
    page = leaderboard(results)
    index = page.markdown
    for words in ("Accuracy and its 95% interval, 5-way 1-shot", "Accuracy over shots, 5-way"):
        drawn = index.split(f"{words}, 40 episodes, first 16 of 18 models")[1].partition("#")[0]
        assert ("m15" in drawn, "m16" in drawn) == (True, False)
    assert [row[0] for row in tables(index)[0][1:]] == [f"m{number:02d}" for number in range(18)]


@pytest.mark.parametrize(
    ("task", "learned", "marked"),
    [
        ("esc50", "ESC-50", True),
        ("esc50", "AudioSet-2M", False),
        ("speech-commands", "Speech Commands V2", True),
        ("nsynth", "a generation synthetic sound", False),
        ("voxceleb1", "VoxCeleb1, dev", True),
    ],
)
def test_a_data_set_is_known_by_its_name(records: Any, task: str, learned: str, marked: bool) -> None:
    page = leaderboard([records.result("a", task=task, protocol=FEW, pretrained_on=(learned,))])
    assert ("† The model" in page.markdown) is marked


def test_a_page_of_classes_marks_what_is_partial_or_known() -> None:
    known, part = result("known", pretrained_on=("ESC-50",)), result("part", limited=True, complete=False)
    (setting,) = board([known, part]).settings
    page = class_page(setting, setting.columns[0]).markdown
    assert "| class | known † (provenance) | part ? (a part of each class, not ranked) |" in page
    assert "† The model was trained on data of this task" in page


def test_latex_of_a_table_explains_its_marks() -> None:
    section = setting_section(board([result("a")]).settings[0], published())
    table = next(block for block in section.blocks if isinstance(block, Table))
    assert "\\par\\footnotesize ? It is not known whether the model was trained on data of this task." in booktabs(
        table
    )
