from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from uamix_bench.cli import fewshot as fewshot_command
from uamix_bench.data.task import load_task
from uamix_bench.evaluation.fewshot import draw_episodes, fewshot, fewshot_grid
from uamix_bench.models.loading import load_model
from uamix_bench.records.record import HalfInterval
from uamix_bench.records.results import Result, Score, load_result
from uamix_bench.records.store import ResultStore
from uamix_bench.scoring.classifiers import CLASSIFIERS

from .conftest import SMALL, Bench

FEWSHOT = ("fewshot", "--model", "logmel", *SMALL)


def test_table_result_and_streams(bench: Bench, sounds: Path, bench_home: Path) -> None:
    done = bench("fewshot", "-m", "logmel,random", "-t", sounds, *SMALL)
    assert done.code == 0
    stored = dict(ResultStore())
    assert len(stored) == 2
    first = next(result for result in stored.values() if result.model.name == "logmel")
    assert f"{100 * first.score.accuracy:.2f} ± {100 * first.score.ci95:.2f}" in done.out
    assert "local/tones" in done.out
    assert "Difference to logmel" in done.out
    assert "wrote" not in done.out
    assert sorted(line.removeprefix("wrote ") for line in done.err.splitlines()) == sorted(map(str, stored))
    assert max(map(len, done.out.splitlines())) <= 80
    assert all(path.is_relative_to(bench_home / "results" / "local") for path in stored)


def test_json_is_one_envelope_of_results(bench: Bench, sounds: Path) -> None:
    done = bench(*FEWSHOT, "-t", sounds, "--json")
    assert done.code == 0
    envelope = done.envelope
    assert list(envelope) == ["schema_version", "command", "results", "comparison", "error"]
    assert (envelope["schema_version"], envelope["command"], envelope["error"]) == (1, "fewshot", None)
    result = Result.model_validate_json(json.dumps(envelope["results"][0]), strict=True)
    assert [result] == [stored for _, stored in ResultStore()]


def test_the_library_gives_the_same_result(bench: Bench, sounds: Path) -> None:
    bench(*FEWSHOT, "-t", sounds)
    ((_, stored),) = ResultStore()
    again = fewshot(load_model("logmel"), load_task(str(sounds)), stored.protocol)
    assert again.id == stored.id


def test_a_sweep_shares_one_pass_and_equals_its_cells(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    sweep = bench(
        "fewshot", "-m", "logmel", "-t", sounds, "--n", "2,4", "--k", "1,3", "--q", "4", "--episodes", "20", "--json"
    )
    ids = {(r["protocol"]["n_way"], r["protocol"]["k_shot"]): r["id"] for r in sweep.envelope["results"]}
    assert list(ids) == [(2, 1), (2, 3), (4, 1), (4, 3)]
    alone = bench(
        "fewshot",
        "-m",
        "logmel",
        "-t",
        sounds,
        "--n",
        "4",
        "--k",
        "3",
        "--q",
        "4",
        "--episodes",
        "20",
        "--json",
        "-o",
        tmp_path,
    )
    assert alone.envelope["results"][0]["id"] == ids[4, 3]
    assert alone.envelope["results"][0]["cost"]["embedded_clips"] == 0


def test_q_auto_heeds_groups(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    """Classes of two recordings, each cut in four: one is for the supports, and the other's four are asked."""
    clips = [(path, path.parent.name, int(path.stem) // 4) for path in sorted(sounds.glob("*/*.wav"))]
    rows = [f"{path},{label},{label}{group}" for path, label, group in clips]
    (tmp_path / "cut.csv").write_text("\n".join(["path,label,group", *rows]))
    run = partial(bench, "fewshot", "-m", "logmel", "-t", tmp_path / "cut.csv", "--n", "2", "--episodes", "40")
    apart = ("--k", "1,2", "--group-disjoint")
    auto = run(*apart, "--q", "auto", "--json")
    assert auto.code == 0
    assert [result["protocol"]["n_query"] for result in auto.envelope["results"]] == [4, 4]
    assert "local/cut: 4 queries a class (--q auto)" in auto.err
    more = run(*apart, "--q", "5")
    assert more.code == 2
    assert "random orders of its groups left fewer than" in more.error
    none = run("--k", "7", "--group-disjoint", "--q", "auto")
    assert none.code == 2
    assert "random orders of its groups left fewer than 1 queries" in none.error


def test_q_auto_is_what_the_smallest_class_allows_for_all_shots(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    folder = tmp_path / "few"
    shutil.copytree(sounds, folder)
    (folder / "low" / "0.wav").unlink()  # 7 clips, where the others have 8
    run = partial(bench, "fewshot", "-m", "logmel", "-t", folder, "--n", "2", "--episodes", "20")
    auto = run("--k", "1,3", "--q", "auto", "--json")
    assert auto.err.splitlines()[0] == "local/few: 4 queries a class (--q auto)"
    protocols = [result["protocol"] for result in auto.envelope["results"]]
    assert [(p["k_shot"], p["n_query"], p["name"]) for p in protocols] == [(1, 4, "custom"), (3, 4, "custom")]
    assert all(result["episodes"]["classes_left_out"] == 0 for result in auto.envelope["results"])
    same = run("--k", "3", "--q", "4", "--json")
    assert same.envelope["results"][0]["id"] == auto.envelope["results"][1]["id"]
    enough = run(
        "--protocol", "metaaudio", "--classes", listed(tmp_path, "low", "mid"), "--q", "auto", "--dry-run", "--json"
    )
    assert enough.envelope["items"][0]["protocol"]["n_query"] == 1  # no more than the protocol's
    limited = run("--k", "2", "--q", "auto", "--limit", "5", "--dry-run", "--json")
    assert limited.envelope["items"][0]["protocol"]["n_query"] == 3
    none = run("--k", "7", "--q", "auto")
    assert none.code == 2
    assert "have no query: low has 7; use a smaller --k" in none.error
    refused = run("--q", "15")
    assert refused.code == 2
    assert "low has 7" in refused.error
    assert "use --q 7 or less, or --q auto" in refused.error
    assert bench("fewshot", "-m", "logmel", "-t", folder, "--q", "some").code == 2


def listed(folder: Path, *names: str) -> Path:
    (folder / "classes.txt").write_text("\n".join(names))
    return folder / "classes.txt"


def test_segments_are_averaged_recorded_and_never_mixed_up(bench: Bench, sounds: Path) -> None:
    run = partial(bench, *FEWSHOT, "-t", sounds, "--clip-seconds", "0.1", "--json")  # clips of 0.25 s: three segments
    first, mean = (run("--segments", rule).envelope["results"][0] for rule in ("first", "mean"))
    assert (first["protocol"]["segments"], mean["protocol"]["segments"]) == ("first", "mean")
    assert first["episodes"]["digest"] == mean["episodes"]["digest"]
    assert first["episodes"]["correct"] != mean["episodes"]["correct"]
    assert mean["cost"]["embedded_clips"] == first["cost"]["embedded_clips"] == 32
    model, data = load_model("logmel"), load_task(str(sounds), clip_seconds=0.1)
    cells = [Result.model_validate(result).protocol for result in (first, mean, first)]
    together = fewshot_grid(model, data, cells)
    assert [result.id for result in together] == [first["id"], mean["id"], first["id"]]
    assert "mean of all segments" in bench(*FEWSHOT, "-t", sounds, "--segments", "mean").out


def test_a_csv_is_a_task(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    rows = [f"{path.relative_to(sounds)},{path.parent.name}" for path in sorted(sounds.rglob("*.wav"))]
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    done = bench(*FEWSHOT, "-t", tmp_path / "list.csv", "--audio-root", sounds, "--json")
    folder = bench(*FEWSHOT, "-t", sounds, "--json")
    mine, other = done.envelope["results"][0], folder.envelope["results"][0]
    assert mine["task"] == {**other["task"], "name": "local/list"}


def test_reuse_refuse_and_repeat(bench: Bench, sounds: Path) -> None:
    first = bench(*FEWSHOT, "-t", sounds, "--json").envelope["results"]
    reused = bench(*FEWSHOT, "-t", sounds, "--json")
    assert reused.envelope["results"] == first
    assert reused.err.startswith("reused ")
    refused = bench(*FEWSHOT, "-t", sounds, "--overwrite", "never")
    assert refused.code == 2
    assert "is there already" in refused.error
    again = bench(*FEWSHOT, "-t", sounds, "--overwrite", "always", "--json")
    assert again.envelope["results"][0]["id"] == first[0]["id"]
    assert again.err.startswith("confirmed ")
    assert len(list(ResultStore())) == 1


def test_another_outcome_of_the_same_evaluation_is_an_alarm(bench: Bench, sounds: Path) -> None:
    bench(*FEWSHOT, "-t", sounds)
    ((path, result),) = ResultStore()
    label = next(label for label, (hit, total) in result.per_class.items() if hit < total)
    index = next(i for i, correct in enumerate(result.episodes.correct) if correct < 12)
    correct = list(result.episodes.correct)
    correct[index] += 1
    accuracies = np.array(correct) / 12
    parts = {
        name: getattr(result, name) for name in Result.model_fields if name not in ("id", "schema_version", "kind")
    }
    parts["episodes"] = result.episodes.model_copy(update={"correct": tuple(correct)})
    hit, total = result.per_class[label]
    parts["per_class"] = {**result.per_class, label: (hit + 1, total)}
    half_width = float(1.96 * accuracies.std() / np.sqrt(len(correct)))
    intervals = result.score.intervals.model_copy(update={"episodes": HalfInterval(half_width=half_width)})
    parts["score"] = Score(accuracy=float(accuracies.mean()), intervals=intervals)
    path.unlink()
    forged = ResultStore().write(Result.create(**parts))
    content = forged.read_bytes()
    alarm = bench(*FEWSHOT, "-t", sounds, "--overwrite", "always")
    assert alarm.code == 3
    assert forged.name in alarm.error
    assert [path for path, _ in ResultStore()] == [forged]
    assert forged.read_bytes() == content


@pytest.fixture
def broken(sounds: Path, tmp_path: Path) -> Path:
    """The sounds, with one file that is none."""
    folder = tmp_path / "broken"
    shutil.copytree(sounds, folder)
    (folder / "mid" / "3.wav").write_bytes(b"no sound at all")
    return folder


def test_a_broken_clip_stops_the_run(bench: Bench, broken: Path) -> None:
    done = bench(*FEWSHOT, "-t", broken)
    assert done.code == 3
    assert "3.wav" in done.error
    assert "--keep-going" in done.error
    assert not list(ResultStore())


def test_keep_going_draws_without_the_broken_clip_and_says_so(bench: Bench, broken: Path) -> None:
    done = bench(*FEWSHOT, "-t", broken, "--keep-going", "--json")
    assert done.code == 6
    result = done.envelope["results"][0]
    assert done.envelope["error"] is None
    assert result["status"]["complete"] is False
    assert [skipped["clip"] for skipped in result["status"]["skipped"]] == ["mid/3.wav"]
    assert result["task"]["clips"] == 31

    (broken / "mid" / "3.wav").unlink()
    without = load_task(str(broken))
    protocol = Result.model_validate_json(json.dumps(result), strict=True).protocol
    assert without.clips_sha256 == result["task"]["clips_sha256"]
    table = bench(*FEWSHOT, "-t", broken)
    assert table.code == 0  # complete on the smaller table: its own version and episodes
    assert draw_episodes(without, protocol).digest != result["episodes"]["digest"]


def test_keep_going_without_broken_clips_is_complete(bench: Bench, sounds: Path) -> None:
    plain = bench(*FEWSHOT, "-t", sounds, "--json")
    kept = bench(*FEWSHOT, "-t", sounds, "--json", "--keep-going", "--overwrite", "always")
    assert kept.code == 0
    assert kept.envelope["results"][0]["id"] == plain.envelope["results"][0]["id"]


def test_limit_is_marked_and_not_reused(bench: Bench, sounds: Path) -> None:
    done = bench(*FEWSHOT, "-t", sounds, "--limit", "6")
    assert done.code == 0
    assert "partial" in done.out
    ((_, result),) = ResultStore()
    assert not result.status.complete
    assert result.task.clips == 24
    assert bench(*FEWSHOT, "-t", sounds, "--limit", "6").err.startswith("wrote")


def test_dry_run_writes_nothing_and_loads_no_model(bench: Bench, sounds: Path, bench_home: Path) -> None:
    done = bench(*FEWSHOT, "-t", sounds, "--dry-run", "--json")
    assert done.code == 0
    (plan,) = done.envelope["items"]
    assert plan["clips"] == 32
    assert 0 < plan["clips_drawn"] <= 32
    assert not bench_home.exists()
    assert "local/tones" in bench(*FEWSHOT, "-t", sounds, "--dry-run").out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", "logmle"), 2, "did you mean 'logmel'?"),
        (("--model", "audiomae"), 2, "audiomae=PATH"),
        (("--model", "audiomae=absent.pth"), 3, "absent.pth: no such file"),
        (("--model", "zz*"), 2, "matches nothing"),
        (("--task", "synthetik"), 2, "did you mean 'synthetic'?"),
        (("--task", "./absent"), 3, "absent: no such file or folder"),
        (("--task", "esc50"), 3, "esc50"),
        (("--n", "5"), 2, "use --n 4"),
        (("--q", "50"), 2, "use --q 7 or less"),
        (("--n", "0"), 2, "--n"),
        (("--n", "2,,3"), 2, "empty"),
        (("--classifier", "knnn"), 2, "did you mean 'knn'?"),
        (("--neighbors", "3"), 2, "--neighbors 3: is of no use to the classifier nearest-centroid; give --classifier"),
        (("--classifier", "knn", "--neighbors", "3", "--n", "2"), 2, "--neighbors 3: is more than the 2 supports"),
        (("--model", "logmel,random", "--checkpoint", "pyproject.toml"), 2, "belongs to one model"),
        (("--model", "logmel,random", "--name", "mine"), 2, "gives 1 name for 2 models; name each: logmel, random"),
        (("--name", "../mine"), 2, "cannot name results"),
        (("--pooling", "cls"), 2, "mean-std"),
        (("--device", "abacus"), 2, "--device abacus"),
        (("--device", "meta"), 2, "--device meta"),
        (("--task", "a" * 300), 2, "longer than a file's name may be"),
        (("--device", "cuda:63"), 4, "--device cuda:63"),
        (("--no-such-option",), 2, "--no-such-option"),
        (("--config", "absent.toml"), 2, "absent.toml"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    bench: Bench, sounds: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    base = [*FEWSHOT, *(() if "--task" in arguments else ("-t", sounds))]
    base = base if "--model" not in arguments else ["fewshot", *base[3:]]
    plain = bench(*base, *arguments)
    assert (plain.code, plain.out) == (code, "")
    assert words in plain.error
    as_json = bench(*base, *arguments, "--json")
    assert as_json.code == code
    assert as_json.envelope["results" if as_json.envelope["command"] else "items"] == []
    assert as_json.envelope["error"]["exit_code"] == code
    assert words in as_json.envelope["error"]["message"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_ends_before_any_work(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = bench(*FEWSHOT, "-t", sounds, "-o", tmp_path / "results")
    assert done.code == 4


def test_a_results_folder_that_is_a_file_ends_before_any_work(
    bench: Bench, sounds: Path, bench_home: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    done = bench(*FEWSHOT, "-t", sounds, "-o", tmp_path / "taken")
    assert done.code == 4
    assert "taken" in done.error
    assert not (bench_home / "embeddings").exists()


def test_a_damaged_stored_result_is_refused_by_name(bench: Bench, sounds: Path) -> None:
    bench(*FEWSHOT, "-t", sounds)
    ((path, _),) = ResultStore()
    path.write_bytes(path.read_bytes()[:-200])
    done = bench(*FEWSHOT, "-t", sounds)
    assert done.code == 3
    assert path.name in done.error


def test_config_environment_and_flag_in_that_order(
    bench: Bench, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run.toml"
    run.write_text(f'model = "logmel"\ntask = ["{sounds}"]\nway = [2, 3]\nq = 4\nepisodes = 20\nseed = 1\n')
    plan = [item["protocol"] for item in bench("fewshot", "--config", run, "--dry-run", "--json").envelope["items"]]
    assert [(p["n_way"], p["n_query"], p["episodes"], p["seed"]) for p in plan] == [(2, 4, 20, 1), (3, 4, 20, 1)]
    monkeypatch.setenv("UAMIX_BENCH_FEWSHOT_SEED", "2")
    monkeypatch.setenv("UAMIX_BENCH_FEWSHOT_MODEL", "random,logmel")
    plan = bench("fewshot", "--config", run, "--n", "4", "--dry-run", "--json").envelope["items"]
    assert [(item["model"], item["protocol"]["n_way"], item["protocol"]["seed"]) for item in plan] == [
        ("random", 4, 2),
        ("logmel", 4, 2),
    ]
    run.write_text("ways = 5\n")
    unknown = bench("fewshot", "--config", run)
    assert unknown.code == 2
    assert "did you mean 'way'?" in unknown.error
    run.write_text(f"way = {'[' * 3_000}")
    endless = bench("fewshot", "--config", run)
    assert endless.code == 2
    assert "nested too deeply" in endless.error


def test_json_from_the_environment_covers_errors(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UAMIX_BENCH_FEWSHOT_JSON", "1")
    assert bench("fewshot", "--model", "logmle").envelope["error"]["exit_code"] == 2


def test_the_paper_is_the_default_and_nothing_else_bears_its_name(bench: Bench, sounds: Path) -> None:
    def protocol(*arguments: object) -> dict[str, object]:
        done = bench("fewshot", "-m", "logmel", "-t", sounds, "--dry-run", "--json", *arguments)
        return done.envelope["items"][0]["protocol"]  # type: ignore[no-any-return]

    assert protocol("--n", "2", "--q", "4")["name"] == "custom"
    assert protocol("--n", "2", "--q", "4", "--seed", "3")["seed"] == 3


def test_quiet_is_silent_but_for_the_table(bench: Bench, sounds: Path) -> None:
    done = bench(*FEWSHOT, "-t", sounds, "--quiet")
    assert done.err == ""
    assert "logmel" in done.out


def test_help_names_every_classifier() -> None:
    option = next(option for option in fewshot_command.command.params if option.name == "classifier")
    assert all(name in option.help for name in CLASSIFIERS)  # type: ignore[attr-defined]


def test_neighbors_are_in_the_record_and_its_id_where_there_are_several(bench: Bench, sounds: Path) -> None:
    shown = bench(*FEWSHOT, "-t", sounds, "--classifier", "knn", "--neighbors", "3", "--k", "2", "--n", "2")
    assert "knn of 3 neighbors" in shown.out
    bench(*FEWSHOT, "-t", sounds, "--classifier", "knn", "--k", "2", "--n", "2")
    written = {load_result(path).protocol.neighbors: json.loads(path.read_text()) for path, _ in ResultStore()}
    assert written[3]["protocol"].pop("neighbors") == 3
    assert written[1]["protocol"] == written[3]["protocol"]
    assert written[1]["id"] != written[3]["id"]


def test_no_trace_of_user_host_or_folder_in_a_result(
    bench: Bench, sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["/opt/venv/bin/uamix-bench", "fewshot", "--task", str(sounds), f"--output={sounds}"]
    )
    bench(*FEWSHOT, "-t", sounds)
    ((path, result),) = ResultStore()
    assert result.provenance.command == "uamix-bench fewshot --task tones --output=tones"
    text = path.read_text()
    assert str(sounds.parent) not in text
    assert os.uname().nodename not in text
    assert not any(f'"{part}' in text or f" {part}" in text for part in ("/home", "/tmp", "/root", str(Path.cwd())))


def test_a_nan_model_is_unhealthy_unless_allowed(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "sick.toml").write_text(
        'name = "sick"\ntitle = "t"\nlicence = "x"\nsample_rate = 16000\nembedding_dim = 256\nparameters = 0\n'
    )
    (tmp_path / "sick.py").write_text(
        "from pathlib import Path\n"
        "from uamix_bench.baselines.logmel import LogMelStatistics\n"
        "from uamix_bench.plugins.card import ModelCard, read_card\n"
        "class Sick(LogMelStatistics):\n"
        "    card = read_card(Path(__file__).with_suffix('.toml'), ModelCard)\n"
        "    def pool(self, tokens, mask, how):\n"
        "        return super().pool(tokens, mask, how) * float('nan')\n"
    )
    spec = f"{tmp_path / 'sick.py'}:Sick"
    done = bench("fewshot", "-m", spec, "-t", sounds, *SMALL)
    assert done.code == 3
    assert "unhealthy" in done.error
    allowed = bench("fewshot", "-m", spec, "-t", sounds, *SMALL, "--allow-unhealthy", "--json")
    assert allowed.code == 0
    assert allowed.envelope["results"][0]["health"]["verdict"] == "red"


def test_sigterm_ends_with_143(sounds: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from uamix_bench.cli import main\n"
        "import uamix_bench.data.task as task\n"
        "def load_task(*a, **k):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    raise AssertionError('not reached')\n"
        "task.load_task = load_task\n"
        f"sys.exit(main(['fewshot', '-m', 'logmel', '-t', {str(sounds)!r}]))\n"
    )
    environment = {**os.environ, "UAMIX_BENCH_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 143
    assert done.stderr == "uamix-bench: error: interrupted; finished work is kept: repeat the command to resume\n"


def test_silent_clips_are_scored_not_punished(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    folder = tmp_path / "quiet"
    shutil.copytree(sounds, folder)
    soundfile.write(folder / "low" / "0.wav", np.zeros(4_000), 16_000)
    done = bench(*FEWSHOT, "-t", folder)
    assert done.code == 0
    health = load_result(next(path for path, _ in ResultStore())).health
    assert health.silent == 1
    assert health.notes[-1] == f"1 of {health.clips} clips is silent"
    assert f"logmel on local/quiet: {health.notes[-1]}\n" in done.out


def test_min_clips_leaves_classes_out_and_is_recorded(bench: Bench, sounds: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(sounds, tmp_path / "own"))
    (own / "top" / "7.wav").unlink()

    def told(*more: object) -> tuple[int, int | None, list[str]]:
        done = bench("fewshot", "-m", "logmel", "-t", own, "--n", 2, "--q", 3, "--episodes", 20, *more, "--json")
        assert done.code == 0, done.err
        (result,) = done.envelope["results"]
        return result["episodes"]["classes_left_out"], result["protocol"]["min_clips"], sorted(result["per_class"])

    everything = ["high", "low", "mid", "top"]
    assert told() == (0, None, everything)
    assert told("--min-clips", 4) == (0, None, everything)  # which every class needs anyway
    assert told("--min-clips", 8) == (1, 8, everything[:3])
    refused = bench("fewshot", "-m", "logmel", "-t", own, "--n", 2, "--q", 3, "--min-clips", 9)
    assert refused.code == 2
    assert "need 2 classes of at least 9 clips (min_clips), and 0 of 4" in refused.error
