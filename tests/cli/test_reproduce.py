"""reproduce from the command line, on miniatures of all five data sets with small checkpoints of official layout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from uamix_bench.plugins import registry
from uamix_bench.studies.paper import TASKS
from uamix_bench.tasks.miniature import make

from .conftest import Bench

SMALL = ("--n", "3", "--k", "1", "--q", "2", "--episodes", "12")
GOLDENS = {
    "audiomae": "audiomae/audiomae_small.pth",
    "beats": "beats/beats_small.pt",
    "mae-ast": "mae_ast/mae_ast_small.pt",
    "maskspec": "maskspec/maskspec_small.pth",
    "m2d": "m2d/m2d_vit_base-80x608p16x16-221006-mr7/checkpoint-300.pth",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Miniatures of all five data sets: five classes of four clips, a tenth of a second each."""
    folder = tmp_path_factory.mktemp("data")
    for task in TASKS:
        make(task, folder / task, classes=5, clips_per_class=4, seconds=0.1)
    return folder


@pytest.fixture
def checkpoints(test_data: Path) -> list[str]:
    """--checkpoint of every model: small official ones, and the bundled uamix-tiny, which 'tune' wrote."""
    given = [f"{name}={test_data / 'goldens' / path}" for name, path in GOLDENS.items()]
    plugin, weights = registry.bundled_weights()["uamix-tiny"]
    given.append(f"uamix={plugin.folder / weights.file}")
    return [word for text in given for word in ("--checkpoint", text)]


def test_table_2_end_to_end_on_miniatures(bench: Bench, data: Path, checkpoints: list[str], tmp_path: Path) -> None:
    asked = ("reproduce", "table2", "--data-dir", data, *checkpoints, *SMALL, "-o", tmp_path / "out")
    done = bench(*asked)
    assert done.code == 0, done.err
    assert done.err.count("wrote ") == 30
    assert sum(line.startswith("mae-ast") for line in done.out.splitlines()) >= 5  # a table a task
    page = (tmp_path / "out" / "reproduce-table2.md").read_text(encoding="utf-8")
    assert "30 of 30 cells are measured here, 0 can be compared" in page
    assert page.count("not comparable: a miniature") == 30
    assert (tmp_path / "out" / "reproduce-table2.html").is_file()
    assert "table2  few-shot  beats     5 of 5         1     5" in bench(*asked, "--dry-run").out
    again = bench(*asked, "--json")
    assert (again.code, again.err.count("reused ")) == (0, 30)
    assert len(again.envelope["items"]) == 30
    assert again.envelope["missing"] == []


@pytest.mark.over_3s
def test_figure_3_end_to_end_with_cells_that_a_data_set_is_too_small_for(
    bench: Bench, data: Path, checkpoints: list[str], tmp_path: Path
) -> None:
    cells = ("--n", "3,4,6", "--k", "1,2", "--q", "2", "--episodes", "12")
    done = bench("reproduce", "fig3", "--data-dir", data, *checkpoints, *cells, "-o", tmp_path, "--json")
    assert done.code == 6
    assert len(done.envelope["items"]) == 6 * 5 * 3
    assert len(done.envelope["set_aside"]) == 5
    assert all(line.startswith("6-way 1-shot on ") for line in done.envelope["set_aside"])
    page = (tmp_path / "reproduce-fig3.md").read_text(encoding="utf-8")
    assert "Accuracy over ways, 1-shot" in page
    assert "Accuracy over shots, 3-way" in page


@pytest.mark.slow
def test_all_end_to_end_with_tunings_and_fine_tunings(bench: Bench, test_data: Path, tmp_path: Path) -> None:
    for task in TASKS:
        make(
            task, tmp_path / "data" / task, classes=4, clips_per_class=66 if task == "esc50" else 10, seconds=0.1
        )  # 132 recordings: a batch
    given = ("--checkpoint", f"audiomae={test_data / 'goldens' / GOLDENS['audiomae']}", "--tuning-data", "esc50")
    cells = ("--n", "3", "--k", "1,2", "--q", "2", "--episodes", "12", "--recipe", "tiny")
    asked = ("reproduce", "all", "--data-dir", tmp_path / "data", *given, *cells, "-o", tmp_path / "out")
    done = bench(*asked, "--json")
    assert done.code == 6  # the other baselines are not here
    assert {need["subject"] for need in done.envelope["missing"]} == {
        f"weights of {name}" for name in ("mae-ast", "maskspec", "beats", "m2d")
    }
    assert done.envelope["set_aside"] == []
    found = {(item["kind"], item["model"]["name"]) for item in done.envelope["items"]}
    tuned = {"uamix", "uamix-none", "uamix-mixup", "uamix-tf-cutmix"}
    assert found == {("fewshot", name) for name in {"audiomae", *tuned}} | {
        ("finetune", name) for name in ("audiomae", "uamix")
    }
    page = (tmp_path / "out" / "reproduce-all.md").read_text(encoding="utf-8")
    assert "by t-SNE" in page
    assert "4 classes of esc50" in page
    again = bench(*asked, "--json")
    assert [item["id"] for item in again.envelope["items"]] == [item["id"] for item in done.envelope["items"]]


def test_a_bad_checkpoint_is_set_aside_and_the_others_go_on(
    bench: Bench, data: Path, test_data: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"no checkpoint")
    given = ("--checkpoint", f"beats={bad}", "--checkpoint", f"audiomae={test_data / 'goldens' / GOLDENS['audiomae']}")
    done = bench("reproduce", "table2", "--data-dir", data, *given, *SMALL, "-o", tmp_path, "--json")
    assert done.code == 6
    assert {item["model"]["name"] for item in done.envelope["items"]} == {"audiomae"}
    assert [line.partition(":")[0] for line in done.envelope["set_aside"]] == [str(bad)]
    assert {need["subject"] for need in done.envelope["missing"]} >= {"weights of m2d", "sounds to tune on"}


def test_a_dry_run_says_all_that_is_missing_and_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from uamix_bench.cli import main; code = main(sys.argv[1:]);"
        "assert not {'torch', 'timm'} & set(sys.modules), 'heavy'; sys.exit(code)"
    )
    asked = ["reproduce", "all", "--dry-run", "--data-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *asked], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (6, "")
    assert f"missing: esc50; uamix-bench tasks prepare esc50 --data-dir {tmp_path}" in done.stdout
    assert "missing: weights of beats; uamix-bench models fetch beats BEATs_iter3_plus_AS2M.pt" in done.stdout
    assert "assumed for fig3, fig4, fig5: 5, 10, 20 and 30 ways" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["table9"], 2, "table9: is no table or figure that can be reproduced; did you mean 'table4'?"),
        (["table2", "--checkpoint", "beat=x"], 2, "did you mean 'beats'?"),
        (["table2", "--checkpoint", "beats"], 2, "is not NAME=PATH of a model here"),
        (["table2", "--checkpoint", "beats=/no/such.pt"], 3, "/no/such.pt: no such file; check --checkpoint"),
        (["table2", "--n", "1"], 2, "1 is not at least 2"),
        (["table2", "-o", "/dev/null/x"], 4, "/dev/null/x: cannot be written"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(bench: Bench, words: list[str], code: int, line: str) -> None:
    done = bench("reproduce", *words)
    assert done.code == code
    assert line in done.error
