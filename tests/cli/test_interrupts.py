"""Ctrl-C in the middle of each command: one line, exit code 130, nothing half, and the same command then finishes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from uamix_bench.cli import main
from uamix_bench.cli.errors import Session, guarded
from uamix_bench.cli.training import stoppable
from uamix_bench.plugins import registry
from uamix_bench.util.files import file_sha256

from .conftest import SMALL

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

TOY = ("frames=[64]", "width=64", "depth=2", "heads=1", "decoder_width=24", "decoder_depth=1", "decoder_heads=1")
FEW = ("batch=8", "epochs=2", "checkpoint_every=2")
HEAD = ("frames=[16]", "queue=16", "top_k=3", "projector=[16,16,8]", "predictor=16")

# {in} holds what a command reads, {out} is where it writes, below a folder that every run gets afresh.
COMMANDS: dict[str, tuple[str, ...]] = {
    "fewshot": ("fewshot", "-m", "logmel,random", "-t", "{in}/tones", *SMALL, "-o", "{out}"),
    "compare": ("compare", "{in}/results", "{in}/results", "--html", "{out}/page.html", "--junit", "{out}/cases.xml"),
    "results export": ("results", "export", "{in}/results", "--format", "mteb", "-o", "{out}"),
    "results verify": ("results", "verify", "{in}/results"),
    "report": ("report", "{in}/results", "-o", "{out}"),
    "leaderboard build": ("leaderboard", "build", "{in}/results", "--out", "{out}/site"),
    "models convert": ("models", "convert", "{in}/encoder/model.safetensors", "-o", "{out}/again.safetensors"),
    "models check": ("models", "check", "audiomae={in}/encoder/model.safetensors"),
    "tasks miniature": ("tasks", "miniature", "esc50", "{out}/esc50", "--classes", "3", "--clips-per-class", "3"),
    "tasks verify": ("tasks", "verify", "esc50", "--data-dir", "{in}/data", "--deep"),
    "pretrain": ("pretrain", "--data", "{in}/tones", "--out", "{out}", *(f"--set={text}" for text in (*TOY, *FEW))),
    "tune": (
        *("tune", "--init", "audiomae={in}/encoder/model.safetensors", "--data", "{in}/tones", "--out", "{out}"),
        *(f"--set={text}" for text in (*FEW, *HEAD)),
    ),
    "finetune": ("finetune", "--task", "{in}/tones", "--freeze", "all", "--folds", "2", "-o", "{out}"),
    "ablate": (
        *("ablate", "--init", "audiomae={in}/encoder/model.safetensors", "--data", "{in}/tones", "--mix", "mixup"),
        *("--task", "{in}/tones", "--out", "{out}", "--n", "3", "--k", "1", "--q", "3", "--episodes", "30", "--jobs=1"),
        *(f"--set={text}" for text in (*FEW, *HEAD)),
    ),
    "reproduce": (
        *("reproduce", "table2", "--data-dir", "{in}/data", "--checkpoint", "uamix={in}/uamix.safetensors"),
        *("--n", "2", "--k", "1", "--q", "2", "--episodes", "5", "-o", "{out}"),
    ),
    "env": ("env",),
}


class Ended(NamedTuple):
    code: int
    err: str
    opened: int


class World(NamedTuple):
    """What the commands read, and a home folder in which the sounds are decoded already."""

    inputs: Path
    home: Path

    def run(self, name: str, place: Path, interrupt_at: int = 0) -> Ended:
        """Runs a command in a child that gets SIGINT when it opens its `interrupt_at`-th file."""
        (place / "out").mkdir(parents=True, exist_ok=True)
        if not (place / "home").exists():
            shutil.copytree(self.home, place / "home")
        places = {"in": str(self.inputs), "out": str(place / "out")}
        arguments = [part.format_map(places) for part in COMMANDS[name]]
        child = os.fork()
        if not child:
            _act(arguments, place, interrupt_at)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return Ended(code, (place / "err").read_text(), int((place / "opened").read_text()))


def _act(arguments: list[str], place: Path, interrupt_at: int) -> None:
    """What the child does; it never returns."""
    code = 99
    try:
        os.environ["UAMIX_BENCH_HOME"] = str(place / "home")
        torch.set_num_threads(1)
        with (place / "err").open("w") as err, (place / "printed").open("w") as out:
            sys.stdout, sys.stderr = out, err
            opened, running = 0, True

            def see(event: str, _: tuple[Any, ...]) -> None:
                nonlocal opened
                if event == "open" and running:
                    opened += 1
                    if opened == interrupt_at:
                        os.kill(os.getpid(), signal.SIGINT)

            sys.addaudithook(see)
            code = main(arguments)
            running = False  # what the child opens from here on is its own
        (place / "opened").write_text(str(opened))
    except BaseException:
        (place / "err").write_text(traceback.format_exc())
        (place / "opened").write_text("0")
    finally:
        os._exit(code)


@pytest.fixture(scope="module")
def world(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    import matplotlib.pyplot  # noqa: F401  # once, not in every child
    import sklearn.linear_model  # noqa: F401

    from uamix_bench.tasks.miniature import make

    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(sounds, folder / "tones")
    encoder = {"in": str(folder), "out": str(folder / "encoder")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UAMIX_BENCH_HOME", str(folder / "home"))
        assert main([part.format_map(encoder) for part in COMMANDS["pretrain"]]) == 0
        for model in ("logmel", "random"):
            places = ("-t", str(folder / "tones"), "-o", str(folder / "results"))
            assert main(["fewshot", "-m", model, *places, *SMALL]) == 0
        make("esc50", folder / "data" / "esc50", classes=3, clips_per_class=3, seconds=0.1)
        plugin, weights = registry.bundled_weights()["uamix-tiny"]
        shutil.copy(plugin.folder / weights.file, folder / "uamix.safetensors")
        shutil.rmtree(folder / "home" / "embeddings")
    return World(folder, folder / "home")


def _content(place: Path) -> dict[str, str]:
    """Every file that a run left; of weights the digest too, for they hold neither times nor places."""
    left = [path for name in ("out", "home") for path in (place / name).rglob("*") if path.is_file()]
    kept = [path for path in left if "embeddings" not in path.parts and "checkpoints" not in path.parts]
    return {str(path.relative_to(place)): file_sha256(path) if path.suffix == ".safetensors" else "" for path in kept}


@pytest.mark.parametrize("shares", [(0.6,), pytest.param((0.1, 0.3, 0.5, 0.7, 0.9), marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.over_3s
def test_an_interrupted_command_says_so_and_then_finishes(
    name: str, shares: tuple[float, ...], world: World, tmp_path: Path
) -> None:
    whole = world.run(name, tmp_path / "whole")
    assert whole.code in (0, 6), whole.err
    expected = _content(tmp_path / "whole")
    stopped = 0
    for share in shares:
        place = tmp_path / f"{share:g}"
        ended = world.run(name, place, max(1, round(share * whole.opened)))
        assert ended.code in (whole.code, 130), ended.err  # a training that was all but done may end
        assert "Traceback" not in ended.err
        if ended.code == 130:
            stopped += 1
            lines = [line for line in ended.err.splitlines() if "error:" in line]
            assert len(lines) == 1, ended.err
            assert "repeat the command" in lines[0], ended.err
        assert not list(place.rglob(".tmp-*"))
        assert set(_content(place)) <= set(expected)
        again = world.run(name, place)
        assert again.code == whole.code, again.err
        assert _content(place) == expected
    assert stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_at_once(number: signal.Signals) -> None:
    def run(_: list[str], __: Session) -> int:
        with stoppable() as stop:
            os.kill(os.getpid(), number)
            assert stop()  # the first one waits for the step
            os.kill(os.getpid(), number)
            raise AssertionError("not reached")

    assert guarded(run, []) == 128 + number
