"""Models of the Hub from the command line: results, what they say, and how they are had again."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from uamix_bench.records.repeat import repeat_command
from uamix_bench.records.results import load_result

from ..baselines import huggingface as small
from .conftest import SMALL, Bench

pytest.importorskip("transformers", reason="transformers is not installed (the extra hf)")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.folder("hubert", tmp_path_factory.mktemp("models"))


def test_a_folder_is_evaluated_and_its_result_is_had_again(
    bench: Bench, sounds: Path, encoder: Path, tmp_path: Path
) -> None:
    command = ["fewshot", "-m", f"hf:{encoder},logmel", "-t", sounds, *SMALL, "-o", tmp_path / "results", "--json"]
    done = bench(*command)
    assert done.code == 0, done.err
    of_hub, of_logmel = done.envelope["results"]
    assert (of_hub["model"]["name"], of_hub["model"]["layer"]) == ("hubert", "last")
    assert not {"layer", "repository", "remote_code"} & of_logmel["model"].keys()
    assert of_hub["cost"]["embedded_clips"] == 32
    assert "transformers" in of_hub["provenance"]["packages"]
    path = next((tmp_path / "results").rglob("hubert/*.json"))
    assert bench("results", "verify", tmp_path / "results").code == 0
    words = shlex.split(repeat_command(load_result(path)).replace("\\\n", ""))
    given = {"hf:FOLDER": f"hf:{encoder}", "FOLDER_OR_CSV": str(sounds)}
    again = bench(*(given.get(word, word) for word in words[1:]), "-o", tmp_path / "again", "--json")
    (result,) = again.envelope["results"]
    assert result["id"] == of_hub["id"]
    assert result["cost"]["embedded_clips"] == 0  # they are kept
    assert bench("report", tmp_path / "results", "-o", tmp_path / "report").code == 0


def test_another_layer_is_another_result(bench: Bench, sounds: Path, encoder: Path, tmp_path: Path) -> None:
    command = ["fewshot", "-m", f"hf:{encoder}", "-t", sounds, *SMALL, "-o", tmp_path, "--json"]
    results = [bench(*command, "--layer", layer).envelope["results"][0] for layer in ("0", "mean")]
    assert [result["model"]["layer"] for result in results] == ["0", "mean"]
    assert results[0]["id"] != results[1]["id"]
    assert "--layer 0" in repeat_command(load_result(next(tmp_path.rglob(f"*{results[0]['id'][:12]}.json"))))
    refused = bench("fewshot", "-m", f"hf:{encoder}", "-t", sounds, *SMALL, "--layer", "7")
    assert refused.code == 2
    assert "last, mean, 0, 1, 2" in refused.err


def test_what_a_model_was_trained_on_can_be_said(bench: Bench, sounds: Path, encoder: Path, tmp_path: Path) -> None:
    command = ["fewshot", "-m", f"hf:{encoder}", "-t", sounds, *SMALL, "-o", tmp_path, "--json"]
    (unsaid,) = bench(*command).envelope["results"]
    (said,) = bench(*command, "--pretrained-on", "LibriSpeech,AudioSet").envelope["results"]
    assert (unsaid["model"]["pretrained_on"], said["model"]["pretrained_on"]) == ([], ["LibriSpeech", "AudioSet"])
    assert unsaid["episodes"] == said["episodes"]
    path = next(tmp_path.rglob(f"*{said['id'][:12]}.json"))
    assert "--pretrained-on LibriSpeech,AudioSet" in repeat_command(load_result(path))
    several = ["fewshot", "-m", f"hf:{encoder},logmel", "-t", sounds, "--pretrained-on", "A"]
    for wrong in ([*command, "--pretrained-on", "none,A"], several):
        refused = bench(*wrong)
        assert refused.code == 2
        assert "--pretrained-on" in refused.err or "--pretrained-on" in refused.out


def test_a_folder_with_a_comma_in_its_name_is_one_model(
    bench: Bench, sounds: Path, encoder: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "a,b"
    odd.symlink_to(encoder)
    command = ["fewshot", "-m", f"hf:{odd}", "-t", sounds, *SMALL, "-o", tmp_path / "results", "--json"]
    assert "cannot name results; give --name LABEL" in bench(*command).out
    done = bench(*command, "--name", "odd")
    assert [result["model"]["name"] for result in done.envelope["results"]] == ["odd"]


def test_errors_have_their_exit_codes(bench: Bench, encoder: Path, tmp_path: Path) -> None:
    def check(reference: object, *more: str) -> tuple[int, str]:
        done = bench("models", "check", f"hf:{reference}", *more)
        return done.code, done.err

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (foreign / "model.safetensors").write_bytes(b"")
    code, error = check(foreign)
    assert code == 2
    assert "wavlm" in error
    assert bench("models", "check", "hf").code == bench("models", "check", f"hf={encoder}").code == 2
    assert check(encoder, "--trust-remote-code")[0] == 2
    assert check(encoder)[0] == 0


def test_listing_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from uamix_bench.cli import main; main(['models', 'ls']); main(['models', 'info', 'hf']);"
        "print({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert "hf:ID_OR_FOLDER[@REVISION]" in done.stdout


def test_class_names_beside_supports(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    clap, results = small.folder("clap", tmp_path), tmp_path / "results"
    few = ("-t", sounds, "--n", "3", "--q", "4", "--episodes", "40")
    done = bench("fewshot", "-m", "logmel", "-m", f"hf:{clap}", *few, "--k", "0,1", "-o", results, "--json")
    assert done.code == 0, done.err
    assert "left out: logmel at --k 0: has no text side" in done.err
    assert done.envelope["left_out"] == [
        line.removeprefix("left out: ") for line in done.err.splitlines() if "text side" in line
    ]
    found = [(one["model"]["name"], one["protocol"]["k_shot"]) for one in done.envelope["results"]]
    assert found == [("logmel", 1), ("clap", 0), ("clap", 1)]
    none = done.envelope["results"][1]
    assert none["protocol"]["template"] == "This is a sound of {}."
    assert none["names"] == {label: label for label in ("high", "low", "mid", "top")}
    shown = bench("fewshot", "-m", f"hf:{clap}", *few, "--k", "0,1", "-o", results)
    assert "k 0: class-names in 'This is a sound of {}.'" in shown.out
    assert "reused" in shown.err
    assert bench("results", "verify", results, "-t", sounds).code == 0
    path = next(results.rglob(f"*{none['id'][:12]}.json"))
    words = shlex.split(repeat_command(load_result(path)).replace("\\\n", ""))
    given = {"hf:FOLDER": f"hf:{clap}", "FOLDER_OR_CSV": str(sounds)}
    again = bench(*(given.get(word, word) for word in words[1:]), "-o", tmp_path / "again", "--json")
    assert [one["id"] for one in again.envelope["results"]] == [none["id"]]
    for command in ("report", "leaderboard"):
        build = ("leaderboard", "build") if command == "leaderboard" else ("report",)
        page = tmp_path / command
        assert bench(*build, results, "--out", page, "--quiet").code == 0
        assert any("0-shot" in path.read_text() for path in page.glob("*.html"))
    assert "0-shot" in bench("results", "export", results, "--format", "latex").out


def test_names_of_classes_are_the_user_s(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    clap = small.folder("clap", tmp_path)
    few = ("-m", f"hf:{clap}", "--n", "3", "--q", "4", "--episodes", "40", "--k", "0", "-o", tmp_path / "r", "--json")
    listed = tmp_path / "classes.csv"
    listed.write_text("label,class_name\nlow,a low tone\nmid,\nhigh,a high tone\ntop,a whistle\n")
    (of_list,) = bench("fewshot", *few, "-t", sounds, "--classes", listed).envelope["results"]
    names = {"low": "a low tone", "mid": "mid", "high": "a high tone", "top": "a whistle"}
    assert of_list["names"] == names
    rows = [
        f"{path.relative_to(sounds)},{path.parent.name},{names[path.parent.name]}" for path in sounds.rglob("*.wav")
    ]
    table = tmp_path / "tones.csv"
    table.write_text("\n".join(["path,label,class_name", *rows]))
    (of_table,) = bench("fewshot", *few, "-t", table, "--audio-root", sounds).envelope["results"]
    assert of_table["names"] == names
    assert of_table["episodes"]["correct"] != []
    table.write_text("\n".join(["path,label,class_name", *rows]).replace("a whistle", "another", 1))
    refused = bench("fewshot", *few, "-t", table, "--audio-root", sounds)
    assert refused.code == 3
    assert "give a class one name" in refused.out


def test_zero_shots_that_cannot_be(bench: Bench, sounds: Path) -> None:
    for arguments, words in (
        (("-m", "logmel", "--k", "0"), "has no text side, so that it knows no class by its name"),
        (("-m", "logmel,random", "--k", "0"), "left out: random at --k 0: has no text side"),
        (("-m", "logmel", "--k", "1", "--template", "a {}"), "--k has no 0"),
        (("-m", "logmel", "--k", "0", "--template", "a"), "does not hold {} once"),
        (("-m", "logmel", "--k", "-1"), "not at least 0"),
    ):
        done = bench("fewshot", "-t", sounds, "--n", "3", "--q", "4", "--episodes", "40", *arguments)
        assert done.code == 2, words
        assert words in done.err
        assert "Traceback" not in done.err
