"""docs/ci.md and .github/workflows: the workflows are hardened, and their commands exist."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from uamix_bench.cli import cli

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "ci.md").read_text(encoding="utf-8")
WORKFLOWS: list[dict[Any, Any]] = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
OURS: dict[str, dict[Any, Any]] = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
}
RUN_BY_STRANGERS = {"pull_request"}


def steps(workflow: dict[Any, Any]) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job["steps"]


def triggers(workflow: dict[Any, Any]) -> set[str]:
    on = workflow[True]  # YAML 1.1 reads the key `on` so
    return {on} if isinstance(on, str) else set(on)


def test_there_are_two() -> None:
    assert [workflow["name"] for workflow in WORKFLOWS] == ["evaluate", "comment"]


def test_our_own_run_on_a_push_a_week_and_a_tag() -> None:
    assert {name: workflow["name"] for name, workflow in OURS.items()} == {name: name for name in OURS}
    assert {name: triggers(workflow) for name, workflow in OURS.items()} == {
        "newest": {"schedule", "workflow_dispatch"},
        "tests": {"push", "pull_request"},
        "wheel": {"push"},
    }
    assert OURS["wheel"][True] == {"push": {"tags": ["v*"]}}


def test_our_own_run_scripts_that_are_there() -> None:
    scripts = [
        word for workflow in OURS.values() for step in steps(workflow) for word in step.get("run", "").split()[:1]
    ]
    scripts = [word for word in scripts if word.startswith(".ci/")]
    assert set(scripts) == {".ci/run", ".ci/newest", ".ci/sets", ".ci/wheel"}
    assert all(os.access(REPOSITORY / script, os.X_OK) for script in scripts)


@pytest.mark.parametrize("workflow", [*WORKFLOWS, *OURS.values()], ids=lambda workflow: workflow["name"])
def test_a_workflow_is_hardened(workflow: dict[Any, Any]) -> None:
    assert workflow["permissions"] == {}
    assert "pull_request_target" not in triggers(workflow)
    for job in workflow["jobs"].values():
        assert "self-hosted" not in job["runs-on"]
        assert job["timeout-minutes"] <= 60
        granted = {scope for scope, level in job["permissions"].items() if level == "write"}
        assert granted <= (set() if triggers(workflow) & RUN_BY_STRANGERS else {"pull-requests"})
    for step in steps(workflow):
        assert "${{" not in step.get("run", ""), "an expression in a script is a way in: pass it through env"
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), "pin actions by their commit"
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_no_stranger_s_code_runs_where_a_token_may_write() -> None:
    (comment,) = (workflow for workflow in WORKFLOWS if not triggers(workflow) & RUN_BY_STRANGERS)
    script = "\n".join(step.get("run", "") for step in steps(comment))
    assert not any("uses" in step for step in steps(comment))
    assert not re.search(r"\b(git|python|pip|bash|sh|source|eval)\b", script)
    assert "head.sha" in script


def test_no_secret_is_where_strangers_run() -> None:
    assert "secrets." not in PAGE
    assert not any("secrets." in str(workflow) for workflow in OURS.values())


def test_the_commands_are_ours() -> None:
    lines = {line.strip().removeprefix("- run: ") for line in PAGE.splitlines()}
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("uamix-bench ")]
    assert {name for name, *_ in commands} == {"fewshot", "compare"}
    for name, *arguments in commands:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        command.make_context(name, arguments, resilient_parsing=False, obj=None)
