"""Result files from strangers: refused with a documented error, or shown harmless. Never another exception."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from uamix_bench.comparison.compare import compare
from uamix_bench.comparison.sides import read_side
from uamix_bench.evaluation.redraw import Redraw
from uamix_bench.plugins import registry
from uamix_bench.records.export import to_csv, to_eval_results, to_latex, to_model_index
from uamix_bench.records.mteb import to_mteb
from uamix_bench.records.record import load, record_text
from uamix_bench.records.results import Result
from uamix_bench.records.store import KINDS, ResultStore, load_record, read_all, schema
from uamix_bench.util.errors import BadInputError, BenchError
from uamix_bench.util.files import digest
from uamix_bench.util.text import UNFIT

from .comparison.test_timings import file
from .sample_records import few_shot, training

SCRIPTS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "]]></style>",
    "{{ 7*7 }}",
]
MARKDOWN = ["evil | 99.9 |", "[x](http://evil.example)", "`x`", "**x**", "# x", "1) x", "&lt;"]
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)"]
LATEX = ["\\input{/etc/passwd}", "$x^2$", "a & b \\\\", "%", "#1", "~"]
PATHS = ["../up", "/etc/passwd", "a/../b", "..", ".hidden", "a//b", "C:\\x", "a\\b", "con:", "a/", "~", ""]
INVISIBLE = [
    "\u202egnp",
    "\u2066x\u2069",
    "zero\u200bwidth",
    "\ufeffx",
    "nul\x00",
    "esc\x1b[2J",
    "a\nb",
    "tab\tx",
    "\u2028",
]
TEXTS = [*SCRIPTS, *MARKDOWN, *FORMULAS, *LATEX]

VALIDATOR = jsonschema.Draft202012Validator(schema())
NAMES = [("model", "name"), ("task", "name"), ("task", "version")]
FREE = [
    ("model", "licence"),
    ("model", "pooling"),
    ("protocol", "name"),
    ("provenance", "device"),
    ("provenance", "command"),
]


def document(record: Any = None) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(record_text(record or few_shot()))
    return loaded


def signed(changed: dict[str, Any]) -> dict[str, Any]:
    """What a forger writes: the id is that of the content."""
    parts = {name: changed[name] for name in ("kind", "model", "task", "protocol", "episodes", "per_class")}
    return changed | {"id": digest(parts | {"skipped": changed["status"]["skipped"]})}


def written(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "submitted.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("text", [*TEXTS, *PATHS, *INVISIBLE])
@pytest.mark.parametrize("place", NAMES)
def test_names_are_refused(tmp_path: Path, place: tuple[str, str], text: str) -> None:
    forged = document()
    forged[place[0]][place[1]] = text
    with pytest.raises(BadInputError) as caught:
        load_record(written(tmp_path, signed(forged)))
    assert not set(str(caught.value)) & set("\x1b\u202e\u200b\x00")


@pytest.mark.parametrize("text", INVISIBLE)
@pytest.mark.parametrize("place", FREE)
def test_what_is_not_seen_is_refused_everywhere(tmp_path: Path, place: tuple[str, str], text: str) -> None:
    forged = document()
    forged[place[0]][place[1]] = text
    with pytest.raises(BadInputError):
        load_record(written(tmp_path, signed(forged)))


def hostile() -> Result:
    """A result that is accepted, with everything that may be in free text."""
    text = " ".join(TEXTS)
    base = document()
    base["model"] |= {"licence": text, "pooling": text, "pretrained_on": TEXTS}
    base["protocol"]["name"] = text
    base["provenance"] |= {"device": text, "command": text}
    base["per_class"] = dict(zip(TEXTS, [*base["per_class"].values()], strict=False))
    base["status"]["notes"] += TEXTS
    return Result.model_validate_json(json.dumps(signed(base)), strict=True)


def test_what_is_accepted_is_harmless_in_every_form(tmp_path: Path) -> None:
    result = hostile()
    rows = list(csv.DictReader(io.StringIO(to_csv([result]))))
    assert len(rows) == 1
    assert all(not value.startswith(tuple("=+-@\t\r")) for value in rows[0].values())
    for text in (to_model_index([result], {}), to_eval_results([result], {"t": "owner/name"})):
        yaml.safe_load(text)
    assert "\\input" not in to_latex([result]).replace("\\textbackslash{}input", "")
    for path, content in to_mteb([result]).items():
        assert ".." not in path
        json.loads(content)
    page = registry.find_report("regression")(compare([result], [result]), gates=TEXTS)
    assert "<img" not in page.html
    assert "<script>alert" not in page.html
    assert "<img" not in page.markdown
    assert len(re.findall(r"^\| ", page.markdown, re.MULTILINE)) == 3  # heading, rule, one pair
    path = ResultStore(tmp_path).write(result)
    assert path.resolve().is_relative_to(tmp_path.resolve())


def test_a_task_that_looks_like_a_path_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.csv").write_text("path,label\n")
    (tmp_path / "folder").mkdir()
    for name in ("own.csv", "folder/x", "local/x"):
        task = few_shot().task.model_copy(update={"name": name})
        assert isinstance(Redraw(tmp_path)(few_shot(task=task)), str)


def test_sizes_are_bounded(tmp_path: Path) -> None:
    lol = json.dumps(document())
    bombs = {
        "deep": "[" * 100_000 + "]" * 100_000,
        "wide": '{"kind": "fewshot", "x": [' + "0," * 5_000_000 + "0]}",
        "digits": lol.replace('"seed": 0', '"seed": ' + "9" * 4_000),
        "exponent": lol.replace('"embed_s": 1.5', '"embed_s": 1e308').replace(
            '"episodes_s": 0.1', '"episodes_s": 1e309'
        ),
        "key": '{"' + "k" * 9_000_000 + '": 0}',
        "utf-16": lol.encode("utf-16").decode("latin-1"),
        "empty": "",
    }
    for name, text in bombs.items():
        (tmp_path / f"{name}.json").write_text(text, encoding="latin-1")
    found = read_all([tmp_path])
    assert not found.records
    assert len(found.bad) == len(bombs)
    assert all(len(str(error)) < 1_000 for error in found.bad)


# -- fuzzing -----------------------------------------------------------------------------------------------------------

texts = st.one_of(st.sampled_from([*TEXTS, *PATHS, *INVISIBLE]), st.text(max_size=12))
numbers = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -1, 2**53, 2**63, 10**400, 1e308]),
)
values: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), numbers, texts, st.just([]), st.just({}), st.lists(numbers, max_size=3)
)


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all that is in a document."""
    if path:
        yield path
    if isinstance(node, dict):
        for key, value in node.items():
            yield from places(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from places(value, (*path, index))


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A record's file with a few places changed, added, renamed or removed, and now and then its bytes."""
    changed: Any = copy.deepcopy(draw(st.sampled_from([document(), document(training())])))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(changed))))
        parent = changed
        for step in path[:-1]:
            parent = parent[step]
        how = draw(st.sampled_from(["set", "set", "set", "delete", "add", "rename"]))
        if how == "delete":
            del parent[path[-1]]
        elif how == "add" and isinstance(parent, dict):
            parent[draw(texts)] = draw(values)
        elif how == "rename" and isinstance(parent, dict):
            parent[draw(texts)] = parent.pop(path[-1])
        else:
            parent[path[-1]] = draw(values)
        if not changed:
            break
    if draw(st.booleans()) and changed.get("kind") == "fewshot":
        with suppress(KeyError, TypeError, AttributeError, ValueError):  # where nothing is left to sign
            changed = signed(changed)
    content = bytearray(json.dumps(changed, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass"))
    if draw(st.integers(0, 4)) == 0:
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


def survive(content: bytes, folder: Path) -> None:
    """A documented error, or the same content, valid by the published schema, harmless in every form."""
    path = folder / "mutant.json"
    path.write_bytes(content)
    found = read_all([path])
    for error in found.bad:
        assert error.exit_code == 3
        assert not UNFIT.search(str(error))
        return
    record = found.records[0][1]
    again = json.loads(record_text(record))
    VALIDATOR.validate(again)
    assert load(path, KINDS) == record
    stored = ResultStore(folder / "store").write(record)
    assert stored.resolve().is_relative_to(folder.resolve())
    assert load_record(stored) == record
    stored.unlink()
    if isinstance(record, Result):
        for form in (to_csv, to_latex, to_mteb):
            form([record])
        to_model_index([record], {})
        try:
            comparison = compare([record], [record, few_shot()])
        except BenchError:
            return
        page = registry.find_report("regression")(comparison)
        json.dumps(comparison.facts(), allow_nan=False)
        assert "<script>alert" not in page.html


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(mutants())
def test_mutants_are_refused_or_harmless(tmp_path: Path, content: bytes) -> None:
    survive(content, tmp_path)


@pytest.mark.slow
@settings(max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutants())
def test_many_mutants_are_refused_or_harmless(tmp_path: Path, content: bytes) -> None:
    survive(content, tmp_path)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.data())
def test_mutants_of_timings_are_refused_or_read(tmp_path: Path, data: st.DataObject) -> None:
    from uamix_bench.comparison.timings import compare_timings

    changed = {"machine_info": {"cpu": {"count": 2}}, **file([1.0, 2.0, 3.0]).model_dump()}
    changed = json.loads(json.dumps(changed))
    path = data.draw(st.sampled_from(list(places(changed))))
    parent: Any = changed
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = data.draw(values)
    (tmp_path / "timings.json").write_text(json.dumps(changed))
    try:
        timings = read_side(tmp_path / "timings.json").timings
        assert timings is not None
        found = compare_timings(timings, timings)
    except BenchError:
        return
    registry.find_report("regression")(None, found)
