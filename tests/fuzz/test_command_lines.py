"""Command lines that no one would write: a documented exit code, one line of error, nothing outside the folder."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import click
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from uamix_bench.cli import COMMANDS, main
from uamix_bench.cli.errors import EXIT_CODES
from uamix_bench.records.store import ResultStore

from ..sample_records import few_shot, training
from .sandbox import Sandbox

# Long work is planned only; what would fetch stays off the network.
HEAD = ["--set=batch=8", "--set=queue=16", "--set=top_k=3", "--set=projector=[16,16,8]", "--set=frames=[16]"]
ALWAYS = {
    "fewshot": ["--dry-run"],
    "tune": ["--dry-run", "--data", "tones/", *HEAD],
    "ablate": ["--dry-run", "--data", "tones/", *HEAD],
    "finetune": ["--dry-run", "--task", "tones/"],
    "pretrain": ["--dry-run", "--data", "tones/", "--set=batch=8"],
    "reproduce": ["--dry-run"],
    "recommend": ["--model", "logmel", "--task", "tones/", "--k", "1"],
    "models fetch": ["--offline"],
    "tasks prepare": ["--offline"],
}
PATHS = ["tones/", "tones.csv", "results", "m.safetensors", "run.toml", "missing", "new/folder", ".", "", "a\n", "ä/ö"]
TEXTS = [
    *(
        "",
        "-",
        "-1",
        "0",
        "1",
        "2",
        "1e999",
        "NaN",
        "5,10",
        "a,,b",
        "auto",
        "*",
        "[",
        "[a-",
        "x=y",
        "=",
        "x=",
        "{}",
        "[1",
    ),
    *(
        "../../../../escape",
        "/proc/self/mem",
        "\x00",
        "\x1b[2J",
        "\u202eevil",
        "\udc80",
        "a" * 300,
        "a" * 5_000,
        "9" * 40,
    ),
    *("logmel", "uamix", "random", "esc50", "synthetic", "synthetic:train", "uamix=m.safetensors", "tones.csv:X"),
    *("cuda:7", "m.py:M", "accuracy:1pp", "accuracy:nan", "alpha=0.5", "views.x=1", "frames=[16]", "tiny", "paper"),
]
WRITTEN = {"output", "out", "html", "junit", "markdown", "folder"}  # an absolute path would be a folder that is named
STRAYS = ["--", "--nosuch", "nosuch", "-q", "--help"]


def commands() -> dict[str, click.Command]:
    """Every command and sub-command by its words."""
    found: dict[str, click.Command] = {}
    for name in sorted(set(COMMANDS) - {"demo"}):  # which runs others of these, longer than a sandbox waits
        command = import_module(f"uamix_bench.cli.{name}").command
        children = command.commands if isinstance(command, click.Group) else {"": command}
        found |= {f"{name} {child}".strip(): children[child] for child in children}
    return found


KNOWN = commands()


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    name = draw(st.sampled_from(sorted(KNOWN)))
    words = [*name.split(), *ALWAYS.get(name, [])]
    for parameter in draw(st.lists(st.sampled_from(KNOWN[name].params or [None]), max_size=5)):
        if parameter is None:
            continue
        if isinstance(parameter, click.Option):
            words.append(draw(st.sampled_from(parameter.opts)))
            if parameter.is_flag:
                continue
        kinds = [st.sampled_from(PATHS)]
        if parameter.name not in WRITTEN:
            kinds += [st.sampled_from(TEXTS), st.text(max_size=8)]
        if isinstance(parameter.type, click.Choice):
            kinds.append(st.sampled_from(list(parameter.type.choices)))
        words.append(draw(st.one_of(kinds)))
    if draw(st.integers(0, 9)) == 0:
        words.insert(draw(st.integers(0, len(words))), draw(st.sampled_from(STRAYS)))
    return words


def run(words: list[str]) -> tuple[int, str, str]:
    """Runs a command line; returns its exit code and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    import numpy as np
    import soundfile
    import torch  # noqa: F401  # once, before the child is made
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("commands")
    work = folder / "work"
    rows = ["path,label"]
    for label in "abc":
        (work / "tones" / label).mkdir(parents=True)
        for number in range(4):
            soundfile.write(work / "tones" / label / f"{number}.wav", np.full(800, 0.1 * (number + 1)), 16_000)
            rows.append(f"tones/{label}/{number}.wav,{label}")
    (work / "tones.csv").write_text("\n".join(rows))
    for record in (few_shot(), training()):
        ResultStore(work / "results").write(record)
    save_file({"x": np.ones(3, np.float32)}, work / "m.safetensors")
    (work / "run.toml").write_text('model = "logmel"\n')
    (work / "m.py").write_text("class M: pass\n")
    shutil.copytree(work, folder / "fresh")

    def ask(words: list[str]) -> tuple[int, str, str]:
        shutil.rmtree(work)
        shutil.copytree(folder / "fresh", work)
        with contextlib.chdir(work):
            return run(words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UAMIX_BENCH_HOME", str(folder / "home"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HOME", str(folder))
        made = Sandbox(ask, folder, programs=True)
        yield made
        made.close()


def ends_well(sandbox: Sandbox, words: list[str]) -> None:
    told: Any = sandbox.ask(words)
    code, out, err = told.value
    assert code in EXIT_CODES, (code, err)
    assert code != 1, err
    verbose = not {"-v", "--verbose"}.isdisjoint(words)
    assert verbose or "Traceback" not in err, err
    errors = [line for line in err.splitlines() if line.startswith("uamix-bench: error: ")]
    assert len(errors) <= 1, err
    assert code in (0, 2, 6) or errors, (code, err)
    if out and "--json" in words and "--" not in words and "--help" not in words:
        json.loads(out)


@settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(command_lines())
def test_command_lines_end_in_a_documented_code(sandbox: Sandbox, words: list[str]) -> None:
    ends_well(sandbox, words)


@pytest.mark.slow
@settings(max_examples=800, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(command_lines())
def test_many_command_lines_end_in_a_documented_code(sandbox: Sandbox, words: list[str]) -> None:
    ends_well(sandbox, words)
