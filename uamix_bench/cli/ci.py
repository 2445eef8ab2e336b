"""Output of a comparison for a build server: JUnit, annotations, the job's summary, a comment of a bounded size."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple
from xml.etree import ElementTree

from uamix_bench.util.files import machine_error, write_atomic
from uamix_bench.util.text import with_half

if TYPE_CHECKING:
    from uamix_bench.comparison.compare import Comparison
    from uamix_bench.comparison.timings import Timing

COMMENT_BYTES = 65_000  # GitHub refuses a comment of more than 65,536 characters
SUMMARY_BYTES = 2**20  # GitHub drops a step's summary beyond 1 MiB
_ANNOTATIONS = 10  # GitHub shows so many errors of a step
_CUT = "\n\nCut here: the whole report is longer than {limit:,} bytes.\n"


class Case(NamedTuple):
    """Test case of one comparison: its group, name, outcome and message."""

    group: str
    name: str
    outcome: Literal["passed", "failed", "error"]
    message: str


def cases(comparison: Comparison | None, timings: Sequence[Timing]) -> list[Case]:
    """Test cases of all comparisons; a failed gate is a failure, an impossible comparison an error."""
    found = []
    for pair in comparison.pairs if comparison else ():
        evidence = pair.evidence
        message = pair.reason or pair.verdict
        if evidence:
            change = " ".join(with_half(evidence.difference, evidence.half_width, sign="+"))
            message = f"{pair.verdict}: {change} points, {evidence.population}"
            if evidence.smallest is not None:
                message += f"; smallest drop found 8 times in 10: {100 * evidence.smallest:.2f} points"
        outcome: Literal["passed", "failed", "error"] = "failed" if pair.failed else "passed" if evidence else "error"
        group = f"{pair.base.model.name}.{pair.base.task.label}"
        found.append(Case(group, pair.base.setting(), outcome, message))
    for timing in timings:
        known = timing.change is not None
        message = f"{timing.verdict}: median {timing.change:+.1%}" if known else f"{timing.verdict}: {timing.reason}"
        message += f", fails {', '.join(timing.failed)}" if timing.failed else ""
        found.append(Case("speed", timing.name, "failed" if timing.failed else "passed" if known else "error", message))
    return found


def write_junit(path: Path, found: Sequence[Case]) -> None:
    """Writes one test case for each comparison, in the form that build servers read."""
    counts = {outcome: sum(case.outcome == outcome for case in found) for outcome in ("failed", "error")}
    totals = {"tests": str(len(found)), "failures": str(counts["failed"]), "errors": str(counts["error"])}
    root = ElementTree.Element("testsuites", totals)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "uamix-bench compare", "skipped": "0", **totals})
    for case in found:
        element = ElementTree.SubElement(suite, "testcase", {"classname": case.group, "name": case.name, "time": "0"})
        if case.outcome == "passed":
            ElementTree.SubElement(element, "system-out").text = case.message
        else:
            tag = {"failed": "failure", "error": "error"}[case.outcome]
            ElementTree.SubElement(element, tag, {"message": case.message}).text = case.message
    ElementTree.indent(root)
    write_atomic(path, ElementTree.tostring(root, "utf-8", xml_declaration=True) + b"\n")


def annotate(found: Sequence[Case]) -> None:
    """Prints ``::error::`` lines to stderr on GitHub, which reads them there as it does on stdout."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    wrong = [case for case in found if case.outcome != "passed"]
    for case in wrong[:_ANNOTATIONS]:
        print(f"::error title={_property(f'{case.group}, {case.name}')}::{_data(case.message)}", file=sys.stderr)
    if len(wrong) > _ANNOTATIONS:
        print(f"::error::{len(wrong) - _ANNOTATIONS} more comparisons failed", file=sys.stderr)


def summarise(markdown: str) -> None:
    """Appends a report to the job's summary, if ``GITHUB_STEP_SUMMARY`` names its file.

    Raises:
        MachineError: The summary cannot be written.
    """
    name = os.environ.get("GITHUB_STEP_SUMMARY")
    if not name:
        return
    path = Path(name)
    try:
        room = SUMMARY_BYTES - (path.stat().st_size if path.exists() else 0)
        with path.open("ab") as file:
            file.write(cut(markdown, max(0, room)))
    except OSError as error:
        raise machine_error(path, error) from error


def cut(markdown: str, limit: int) -> bytes:
    """UTF-8 bytes of a report, at most `limit`; a longer one is cut after a whole line and says so."""
    content = markdown.encode()
    if len(content) <= limit:
        return content
    words = _CUT.format(limit=limit).encode()
    kept = content[: max(0, limit - len(words))]
    return (kept[: kept.rfind(b"\n") + 1].rstrip(b"\n") + words)[:limit]


def _data(text: str) -> str:
    """Escapes the message of a workflow command, as GitHub's own toolkit does."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
