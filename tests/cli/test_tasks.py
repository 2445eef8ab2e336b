"""tasks status, verify, prepare and miniature; fewshot on aliases, parts, and MetaAudio's classes."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from uamix_bench.plugins import registry
from uamix_bench.plugins.card import RemoteFile
from uamix_bench.tasks.miniature import make

from .conftest import Bench

FEW = ("-m", "logmel", "--n", "3", "--q", "2", "--episodes", "20")


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address it is served at."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def with_files(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives a task's reader a card with other files."""

    def given(name: str, *files: RemoteFile, **fields: Any) -> None:
        reader = registry.find_task(name).load()
        monkeypatch.setattr(reader, "card", reader.card.model_copy(update={"files": files, **fields}))

    return given


def zipped(target: Path, root: Path, keep: Callable[[str], bool] = lambda _: True) -> str:
    """Packs what lies in a folder; returns the archive's SHA-256."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(root.rglob("*")):
            if path.is_file() and keep(path.relative_to(root).as_posix()):
                archive.write(path, path.relative_to(root))
    return hashlib.sha256(target.read_bytes()).hexdigest()


# --- ls and info, miniature, verify, status


def test_aliases_are_listed_and_show_the_card(bench: Bench) -> None:
    assert "fsdkaggle2018@1 kaggle18" in bench("tasks", "ls").out
    shown = bench("tasks", "info", "kaggle18").out
    assert "Bark, Finger_snapping, Keys_jangling, Knock, Laughter, Scissors, Shatter" in shown
    assert "--task fsdkaggle2018" in shown
    (card,) = bench("tasks", "info", "scv2", "--json").envelope["items"]
    assert (card["name"], card["aliases"]) == ("speech-commands", ["scv2"])


def test_a_miniature_is_made_verified_listed_and_evaluated(bench: Bench, tmp_path: Path) -> None:
    data = tmp_path / "data"
    made = bench("tasks", "miniature", "scv2", data / "speech-commands", "--classes", "3", "--seconds", "0.05")
    assert (made.code, made.err) == (0, "")
    assert "speech-commands@1-miniature: 12 clips" in made.out
    words = shlex.split(made.out.splitlines()[-1])
    assert words[:2] == ["uamix-bench", "fewshot"]
    assert bench(*words[1:], "--episodes", 9, "-m", "logmel").code == 0
    again = bench("tasks", "miniature", "scv2", data / "speech-commands")
    assert again.code == 2
    assert "is not empty" in again.error
    verified = bench("tasks", "verify", "scv2", "--deep", "--data-dir", data)
    assert (verified.code, verified.err) == (0, "")
    assert verified.out.endswith("speech-commands, all decoded\n")
    done = bench("fewshot", "-t", "scv2", "--data-dir", data, *FEW, "--json")
    assert done.code == 0
    (result,) = done.envelope["results"]
    assert (result["task"]["name"], result["task"]["version"]) == ("speech-commands", "1-miniature")
    both = bench("fewshot", "-t", "scv2,speech-commands", "--data-dir", data, *FEW, "--json")
    assert len(both.envelope["results"]) == 1


def test_miniature_says_what_has_none(bench: Bench, tmp_path: Path) -> None:
    done = bench("tasks", "miniature", "synthetic", tmp_path / "x", "--json")
    assert done.code == 2
    assert "has no miniature" in done.envelope["error"]["message"]
    assert bench("tasks", "miniature", "esc5", tmp_path / "x").code == 2
    (item,) = bench("tasks", "miniature", "esc50", tmp_path / "y", "--seconds", "0.01", "--json").envelope["items"]
    assert item == {"task": "esc50", "version": "1-miniature", "root": str(tmp_path / "y"), "clips": 200}


def test_verify_counts_and_deep_names_the_bad_files(bench: Bench, tmp_path: Path) -> None:
    root = make("nsynth", tmp_path / "nsynth", classes=3, clips_per_class=2, seconds=0.05)
    clips = sorted(root.rglob("*.wav"))
    clips[0].unlink()
    clips[1].write_bytes(clips[1].read_bytes()[:-50])
    flat = bench("tasks", "verify", "nsynth", "--data-dir", tmp_path)
    assert flat.code == 3
    assert "5 of 6 clips found" in flat.out
    assert "nsynth: 1 problem; unpack" in flat.error
    deep = bench("tasks", "verify", "nsynth", "--data-dir", tmp_path, "--deep", "--json")
    assert deep.code == 3
    (item,) = deep.envelope["items"]
    assert item["deep"]
    assert [problem["subject"] for problem in item["problems"]] == [str(root), str(clips[1])]
    assert deep.envelope["error"]["exit_code"] == 3


def test_verify_says_where_it_looked(bench: Bench, bench_home: Path) -> None:
    done = bench("tasks", "verify", "esc50")
    assert done.code == 3
    assert str(bench_home / "data" / "esc50") in done.error
    assert "uamix-bench tasks prepare esc50" in done.error


def test_a_path_is_no_name_of_a_published_data_set(bench: Bench, tmp_path: Path) -> None:
    done = bench("tasks", "prepare", tmp_path)
    assert done.code == 2
    assert "is a path, where the name of a published data set goes; 'uamix-bench tasks info PATH'" in done.error


def test_status_names_what_is_missing(bench: Bench, tmp_path: Path) -> None:
    make("esc50", tmp_path / "esc50", classes=2, clips_per_class=1, seconds=0.01)
    words = make("speech-commands", tmp_path / "speech-commands", classes=3, seconds=0.01)
    nsynth = make("nsynth", tmp_path / "nsynth", classes=3, seconds=0.01)
    (nsynth / "nsynth-train/examples.json").unlink()
    (nsynth / "MINIATURE").unlink()
    (tmp_path / "voxceleb1/wav").mkdir(parents=True)
    archives = tmp_path / "archives/fsdkaggle2018"
    archives.mkdir(parents=True)
    for name in ("FSDKaggle2018.meta.zip", "FSDKaggle2018.audio_train.zip.part", "other.zip"):
        (archives / name).touch()
    done = bench("tasks", "status", "--data-dir", tmp_path, "--json")
    assert done.code == 0
    items = {item.pop("task"): item for item in done.envelope["items"]}
    by_card = {name: items.pop(name)["state"] for name, plugin in registry.tasks().items() if plugin.card.layout}
    assert set(by_card.values()) == {"absent"}
    assert {name: item["state"] for name, item in items.items()} == {
        "esc50": "miniature",
        "fsdkaggle2018": "absent",
        "nsynth": "partial",
        "speech-commands": "miniature",
        "instruments": "bundled",
        "studio-samples": "bundled",
        "synthetic": "generated",
        "voxceleb1": "partial",
    }
    assert items["esc50"]["missing"] == items["speech-commands"]["missing"] == []
    assert items["nsynth"]["missing"] == ["nsynth-train/examples.json"]
    assert items["voxceleb1"]["missing"] == ["iden_split.txt"]
    assert items["fsdkaggle2018"]["archives"] == ["FSDKaggle2018.audio_train.zip.part", "FSDKaggle2018.meta.zip"]
    shown = bench("tasks", "status", "--data-dir", tmp_path)
    assert all(name in shown.out for name in items)
    shutil.rmtree(words / "bird")
    (tmp_path / "esc50/ESC-50-master/meta/esc50.csv").unlink()
    broken = bench("tasks", "status", "--data-dir", tmp_path, "--json").envelope["items"]
    assert [(item["state"], item["missing"]) for item in broken if item["task"] in ("esc50", "speech-commands")] == [
        ("miniature", ["ESC-50-master/meta/esc50.csv"]),
        ("miniature", ["bird"]),
    ]
    make("esc50", tmp_path / "whole/esc50", classes=2, clips_per_class=1, seconds=0.01)
    (tmp_path / "whole/esc50/MINIATURE").unlink()
    items = bench("tasks", "status", "--data-dir", tmp_path / "whole/esc50", "--json").envelope["items"]
    here = next(item for item in items if item["task"] == "esc50")
    assert (here["state"], here["root"], here["missing"]) == ("here", str(tmp_path / "whole/esc50"), [])


@pytest.mark.parametrize("name", ["esc50", "fsdkaggle2018", "nsynth", "speech-commands", "voxceleb1"])
def test_the_cards_list_what_a_copy_holds(name: str, tmp_path: Path) -> None:
    root = make(name, tmp_path / name, clips_per_class=4, seconds=0.01)
    card = registry.find_task(name).card
    assert [entry for entry in card.holds if not (root / entry).exists()] == []
    assert {entry.split("/")[0] for entry in card.holds} <= {path.name for path in root.iterdir()}


def test_status_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from uamix_bench.cli import main; "
        f"code = main(['tasks', 'status', '--data-dir', {str(tmp_path)!r}]); "
        "sys.exit(code or 9 * ('torch' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


# --- prepare


def test_prepare_downloads_checks_unpacks_and_counts(
    bench: Bench, tmp_path: Path, served: tuple[Path, str], with_files: Callable[..., None]
) -> None:
    folder, address = served
    mini = make("fsdkaggle2018", tmp_path / "mini", classes=3, seconds=0.01)
    files = []
    for part in ("audio_train", "audio_test", "meta"):
        name = f"FSDKaggle2018.{part}.zip"
        top = f"FSDKaggle2018.{part}/"
        zipped(
            folder / name, mini, lambda path, top=top: path.startswith(top) or (path == "MINIATURE" and "meta" in top)
        )
        files.append(RemoteFile(name=name, url=f"{address}/{name}?download=1"))
    with_files("fsdkaggle2018", *files)
    data = tmp_path / "data"
    archives = data / "archives/fsdkaggle2018"
    done = bench("tasks", "prepare", "kaggle18", "--data-dir", data, "--json")
    assert done.code == 0, done.err
    (item,) = done.envelope["items"]
    assert (item["task"], item["clips"], item["root"]) == ("fsdkaggle2018", 12, str(data / "fsdkaggle2018"))
    assert {path.name for path in archives.iterdir()} >= {file.name for file in files}
    assert bench("tasks", "verify", "kaggle18", "--deep", "--data-dir", data).code == 0
    # whole: nothing is downloaded again, and the archives may go
    for file in files:
        (folder / file.name).unlink()
        (archives / file.name).unlink()
    assert bench("tasks", "prepare", "kaggle18", "--data-dir", data).code == 0
    next((data / "fsdkaggle2018").rglob("*_train/*.wav")).unlink()
    spoilt = bench("tasks", "prepare", "kaggle18", "--data-dir", data)
    assert spoilt.code == 3
    assert "11 of 12 clips found" in spoilt.error
    assert "although every archive is unpacked" in spoilt.error


def test_prepare_takes_an_archive_without_a_folder_of_its_own(
    bench: Bench, tmp_path: Path, served: tuple[Path, str], with_files: Callable[..., None]
) -> None:
    folder, address = served
    mini = make("speech-commands", tmp_path / "mini", classes=2, seconds=0.01)
    with tarfile.open(folder / "sc.tar.gz", "w:gz") as archive:
        for path in sorted(mini.iterdir()):
            archive.add(path, path.name)
    content = (folder / "sc.tar.gz").read_bytes()
    file = RemoteFile(name="sc.tar.gz", url=f"{address}/sc.tar.gz", sha256=hashlib.sha256(content).hexdigest())
    with_files("speech-commands", file.model_copy(update={"sha256": "0" * 64}))
    wrong = bench("tasks", "prepare", "scv2", "--data-dir", tmp_path / "data")
    assert wrong.code == 3
    assert "is not the published 0000" in wrong.error
    assert not (tmp_path / "data/speech-commands").exists()
    with_files("speech-commands", file)
    assert bench("tasks", "prepare", "scv2", "--data-dir", tmp_path / "data").code == 0
    assert (tmp_path / "data/speech-commands/testing_list.txt").is_file()


def test_prepare_refuses_an_archive_that_leads_out(
    bench: Bench, tmp_path: Path, served: tuple[Path, str], with_files: Callable[..., None]
) -> None:
    folder, address = served
    with zipfile.ZipFile(folder / "esc.zip", "w") as archive:
        archive.writestr("../../escaped.txt", "x")
    with_files("esc50", RemoteFile(name="esc.zip", url=f"{address}/esc.zip"))
    done = bench("tasks", "prepare", "esc50", "--data-dir", tmp_path / "data")
    assert done.code == 3
    assert "leads out of the folder" in done.error
    assert not list(tmp_path.rglob("escaped.txt"))
    assert bench("tasks", "prepare", "esc50", "--data-dir", tmp_path / "other", "--offline").code == 3
    (folder / "esc.zip").unlink()
    gone = bench("tasks", "prepare", "esc50", "--data-dir", tmp_path / "other")
    assert gone.code == 4
    assert "status 404" in gone.error


def test_prepare_says_what_to_request_and_checks_what_it_finds(
    bench: Bench, tmp_path: Path, served: tuple[Path, str], with_files: Callable[..., None]
) -> None:
    folder, address = served
    mini = make("voxceleb1", tmp_path / "mini", classes=4, clips_per_class=2, seconds=0.01)
    dev = tmp_path / "dev.zip"
    zipped(dev, mini, lambda path: path == "MINIATURE" or path.startswith(("wav/id10001", "wav/id10002")))
    whole = dev.read_bytes()
    half = len(whole) // 2
    test = tmp_path / "vox1_test_wav.zip"
    zipped(test, mini, lambda path: path.startswith(("wav/id10003", "wav/id10004")))
    (folder / "iden_split.txt").write_bytes((mini / "iden_split.txt").read_bytes())

    def asked(name: str, content: bytes, **fields: Any) -> RemoteFile:
        digest = hashlib.sha256(content).hexdigest()
        return RemoteFile(name=name, page="https://example.org/request", sha256=digest, **fields)

    aa, ab = asked("vox1_dev_wav_partaa", whole[:half]), asked("vox1_dev_wav_partab", whole[half:])
    joined = asked("vox1_dev_wav.zip", whole, parts=(aa.name, ab.name))
    splits = RemoteFile(name="iden_split.txt", url=f"{address}/iden_split.txt")
    with_files("voxceleb1", aa, ab, joined, asked(test.name, test.read_bytes()), splits)
    data = tmp_path / "data"
    run = partial(bench, "tasks", "prepare", "voxceleb1", "--data-dir", data)
    archives = data / "archives/voxceleb1"
    first = run("--offline")
    assert first.code == 3
    assert "3 files must be requested from https://example.org/request" in first.error
    assert f"put {aa.name}, {ab.name}, {test.name} into {archives} and run this again" in first.error
    archives.mkdir(parents=True)
    (archives / aa.name).write_bytes(whole[:half])
    second = run()
    assert f"2 files must be requested from https://example.org/request ({aa.name}: here and right)" in second.error
    (archives / ab.name).write_bytes(b"<!doctype html>")
    third = run()
    assert third.code == 3
    assert f"{ab.name}: is a web page" in third.error
    (archives / ab.name).write_bytes(whole[half:])
    (archives / test.name).write_bytes(test.read_bytes())
    done = run()
    assert done.code == 0, done.err
    assert "voxceleb1@1-miniature: 8 clips" in done.out
    verified = bench("tasks", "verify", "voxceleb1", "--data-dir", data, "--json")
    assert verified.envelope["items"][0]["problems"] == []
    (data / "voxceleb1/iden_split.txt").unlink()
    assert run().code == 0  # the list is brought again, the archives are not looked at
    assert (data / "voxceleb1/iden_split.txt").is_file()


@pytest.mark.parametrize(
    ("name", "words"), [("synthetic", "made on first use"), ("instruments", "come with the package")]
)
def test_what_is_generated_or_bundled_needs_no_preparation(bench: Bench, name: str, words: str) -> None:
    done = bench("tasks", "prepare", name)
    assert done.code == 2
    assert words in done.error
    assert words.removeprefix("come ") in bench("tasks", "ls").out


# --- fewshot on parts and on classes


def test_a_part_is_refused_then_marked(bench: Bench, tmp_path: Path) -> None:
    root = make("esc50", tmp_path / "esc50", classes=5, seconds=0.05)
    next(root.rglob("*.wav")).unlink()
    refused = bench("fewshot", "-t", "esc50", "--data-dir", tmp_path, *FEW)
    assert refused.code == 3
    assert "19 of 20 clips found" in refused.error
    assert "--allow-partial" in refused.error
    done = bench("fewshot", "-t", "esc50", "--data-dir", tmp_path, *FEW, "--allow-partial", "--json")
    assert done.code == 6
    (result,) = done.envelope["results"]
    assert not result["status"]["complete"]
    assert "19 of 20 clips found" in result["status"]["partial"]
    assert str(tmp_path) not in done.out
    shown = bench("fewshot", "-t", "esc50", "--data-dir", tmp_path, "-m", "logmel,random", *FEW[2:], "--allow-partial")
    assert shown.code == 6
    assert "not comparable" in " ".join(shown.out.split())
    assert "Difference" not in shown.out
    absent = bench("fewshot", "-t", "nsynth", "--data-dir", tmp_path, *FEW, "--allow-partial")
    assert absent.code == 3
    assert "tasks prepare nsynth" in absent.error


def test_metaaudio_has_its_own_classes_and_numbers(bench: Bench, tmp_path: Path) -> None:
    make("esc50", tmp_path / "esc50", clips_per_class=2, seconds=0.01)
    make("nsynth", tmp_path / "nsynth", classes=6, clips_per_class=2, seconds=0.01)
    plan = partial(bench, "fewshot", "-m", "logmel", "--data-dir", tmp_path, "--dry-run", "--json")
    (cell,) = plan("-t", "esc50", "--protocol", "metaaudio").envelope["items"]
    assert cell["clips"] == 20
    settings = ("name", "n_way", "k_shot", "n_query", "episodes")
    assert [cell["protocol"][name] for name in settings] == ["metaaudio", 5, 1, 1, 10_000]
    (own,) = plan("-t", "esc50", "--protocol", "metaaudio", "--episodes", "600", "--n", "3").envelope["items"]
    assert [own["protocol"][name] for name in settings] == ["metaaudio-custom", 3, 1, 1, 600]
    (paper,) = plan("-t", "esc50", "--q", "1").envelope["items"]
    assert (paper["clips"], paper["protocol"]["name"]) == (100, "custom")
    asked = plan("-t", "nsynth", "--protocol", "metaaudio")
    assert asked.code == 2
    assert "--classes FILE" in asked.envelope["error"]["message"]


def test_classes_of_ones_own(bench: Bench, tmp_path: Path) -> None:
    root = make("nsynth", tmp_path / "nsynth", classes=6, clips_per_class=3, seconds=0.05)
    names = sorted({path.name.rsplit("-", 2)[0] for path in root.rglob("*.wav")})
    listed = tmp_path / "classes.txt"
    listed.write_text("\n".join([*names[:4], "", names[0]]) + "\n")
    run = partial(bench, "fewshot", "-t", "nsynth", "--data-dir", tmp_path, "-m", "logmel", "--n", "3", "--json")
    small = ("--q", "1", "--episodes", "20")
    (chosen,) = run("--classes", listed, *small).envelope["results"]
    (whole,) = run(*small).envelope["results"]
    assert (chosen["task"]["classes"], whole["task"]["classes"]) == (4, 6)
    assert chosen["task"]["clips_sha256"] != whole["task"]["clips_sha256"]
    assert chosen["episodes"]["digest"] != whole["episodes"]["digest"]
    assert (chosen["protocol"]["name"], whole["protocol"]["name"]) == ("custom-classes", "custom")
    meta = run("--classes", listed, "--protocol", "metaaudio", "--dry-run").envelope["items"][0]["protocol"]
    assert (meta["name"], meta["episodes"], meta["n_query"]) == ("metaaudio-classes", 10_000, 1)
    plain = bench(
        "fewshot", "-t", "nsynth", "--data-dir", tmp_path, "-m", "logmel", *small, "--n", "3", "--classes", listed
    )
    assert "nearest-centroid, custom-classes\n" in plain.out
    listed.write_text(f"{names[0]}x\n")
    unknown = run("--classes", listed)
    assert unknown.code == 2
    assert f"did you mean '{names[0]}'?" in unknown.envelope["error"]["message"]
    listed.write_text("\n")
    assert run("--classes", listed).code == 3
    assert run("--classes", tmp_path / "none.txt").code == 3


def test_own_sounds_are_looked_at_and_their_first_command_runs(
    bench: Bench, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = bench("tasks", "info", sounds)
    assert done.code == 0, done.err
    for line in ("low        8      2.0", "sample rates        16,000 Hz: 32", "--n up to 4, --k up to 7 with one"):
        assert line in done.out
    command = done.out.splitlines()[-1]
    (document,) = bench("tasks", "info", sounds, "--json").envelope["items"]
    assert document["first_command"] == command
    assert document["largest"] == {"n": 4, "k": 0, "k_with_one_query": 7}
    words = shlex.split(command)
    assert words[0] == "uamix-bench"
    assert bench(*words[1:], "--episodes", 20).code == 0
    monkeypatch.chdir(sounds.parent)
    assert f"--task ./{sounds.name} " in bench("tasks", "info", sounds.name).out


def test_broken_and_equal_sounds_are_named_by_info_verify_and_the_dry_run(
    bench: Bench, sounds: Path, tmp_path: Path
) -> None:
    own = tmp_path / "my sounds"
    shutil.copytree(sounds, own)
    (own / "low" / "0.wav").write_bytes(b"RIFF")
    shutil.copy(own / "mid" / "1.wav", own / "top" / "copy.wav")
    done = bench("tasks", "info", own)
    assert done.code == 0
    assert "low/0.wav" in done.out
    assert "mid/1.wav = top/copy.wav (as mid and top)" in done.out
    words = shlex.split(done.out.splitlines()[-1])
    assert {"--keep-going", "--group-disjoint"} <= set(words)
    assert bench(*words[1:], "--episodes", 20).code == 6
    checked = bench("tasks", "verify", own)
    assert checked.code == 3
    assert "1 sound cannot be read: low/0.wav" in checked.err
    assert "mid/1.wav = top/copy.wav" in checked.out
    assert bench("tasks", "verify", sounds).code == 0
    planned = bench("fewshot", "-t", own, "--n", 3, "--q", 2, "--dry-run")
    assert planned.code == 0
    assert "low/0.wav" in planned.out
    facts = bench("fewshot", "-t", own, "--n", 3, "--q", 2, "--dry-run", "--json").envelope
    assert [one["clip"] for one in facts["sounds"][0]["sounds"]["broken"]] == ["low/0.wav"]


def test_info_says_what_a_copy_of_a_published_data_set_holds(bench: Bench, tmp_path: Path) -> None:
    assert "copy" in bench("tasks", "info", "esc50").out
    bench("tasks", "miniature", "esc50", tmp_path / "mini")
    done = bench("tasks", "info", "esc50", "--data-dir", tmp_path / "mini")
    assert done.code == 0, done.err
    assert "every class serves" in done.out
    assert f"--task esc50 --data-dir {tmp_path / 'mini'}" in done.out
