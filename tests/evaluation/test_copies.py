"""Copies of clips under other names: counted and said, and one group where episodes are group-disjoint."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, strategies as st

from uamix_bench.data.copies import first_copies, first_of_equals, one_group
from uamix_bench.data.sound import Sound
from uamix_bench.data.task import TaskData, load_task
from uamix_bench.evaluation.fewshot import draw_episodes, fewshot
from uamix_bench.evaluation.redraw import Redraw
from uamix_bench.finetuning.finetune import finetune
from uamix_bench.finetuning.recipe import PROBE
from uamix_bench.finetuning.splits import plan
from uamix_bench.models.loading import load_model
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.scoring.remarks import remarks

PLAIN = Protocol(name="small", n_way=3, k_shot=2, n_query=3, episodes=30)
APART = PLAIN.model_copy(update={"group_disjoint": True})
Listed = Callable[..., TaskData]


@pytest.fixture
def listed(tmp_path: Path, bench_home: Path) -> Listed:
    """Three classes of eight noises as a CSV; and more rows, each a copy of a clip under another name."""
    numbers = np.random.default_rng(1)
    rows = []
    for label in "abc":
        for number in range(8):
            soundfile.write(tmp_path / f"{label}{number}.wav", 0.1 * numbers.normal(size=800), 16_000)
            rows.append((f"{label}{number}.wav", label))

    def write(*copies: tuple[str, str, str]) -> TaskData:
        for source, name, _ in copies:
            shutil.copy(tmp_path / source, tmp_path / name)
        every = [*rows, *((name, label) for _, name, label in copies)]
        (tmp_path / "own.csv").write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in every))
        return load_task(str(tmp_path / "own.csv"))

    return write


TWICE = [(f"{label}{number}.wav", f"{label}{number}-copy.wav", label) for label in "abc" for number in range(8)]


def both_sides(task: TaskData, protocol: Protocol) -> float:
    """The share of queries whose bytes a support of their episode has, by the files themselves."""
    content = [Path(path).read_bytes() for path in draw_of(task, protocol).table["path"]]
    drawn = draw_episodes(task, protocol)
    met = [
        content[row] in {content[other] for other in support.ravel()}
        for support, query in zip(drawn.support, drawn.query, strict=True)
        for row in query.ravel()
    ]
    return sum(met) / len(met)


def draw_of(task: TaskData, protocol: Protocol) -> TaskData:
    return task.group_copies() if protocol.group_disjoint else task


def test_copies_are_counted_with_the_share_of_queries_they_touch(listed: Listed) -> None:
    task = listed(*TWICE)
    share = both_sides(task, PLAIN)
    assert share > 0.05
    result = fewshot(load_model("logmel"), task, PLAIN)
    (note,) = [note for note in result.status.notes if note.startswith("copies: ")]
    drawn = set(task.table["clip"][draw_episodes(task, PLAIN).clips])
    alike = [clip for clip in drawn if {f"{clip[:2]}.wav", f"{clip[:2]}-copy.wav"} <= drawn]
    assert f" {len(alike)} of {len(drawn)} clips drawn are identical copies (a0-copy.wav and a0.wav, " in note
    assert f"; {100 * share:.1f}% of queries have a copy among their supports; --group-disjoint keeps" in note
    assert "labels" not in note


def test_group_disjoint_keeps_copies_on_one_side(listed: Listed) -> None:
    task = listed(*TWICE)
    assert both_sides(task, APART) == 0.0
    result = fewshot(load_model("logmel"), task, APART)
    assert result.task.clips_sha256 == task.group_copies().clips_sha256 != task.clips_sha256
    assert result.episodes.shared_group_share == 0.0
    assert any("0.0% of queries have a copy among their supports" in note for note in result.status.notes)
    again = Redraw(own=[str(task.root / "own.csv")])(result)
    assert not isinstance(again, str)
    assert again.digest == result.episodes.digest


def test_a_recording_under_two_labels_is_named(listed: Listed) -> None:
    task = listed(("a0.wav", "x.wav", "b"), ("a1.wav", "y.wav", "a"))
    draws = [draw_episodes(task, PLAIN.model_copy(update={"episodes": 200}))]
    (said,) = remarks([PLAIN], draws, task.first_copies(draws[0].clips))
    assert "4 of 26 clips drawn are identical copies (a0.wav and x.wav, a1.wav and y.wav)" in said.text
    assert "; 1 recording stands under several labels (a0.wav as a and x.wav as b);" in said.text


def test_without_copies_nothing_is_said_and_nothing_moves(listed: Listed) -> None:
    task = listed()
    grouped = task.group_copies()
    assert grouped.table.to_pandas().equals(task.table.to_pandas())
    assert grouped.clips_sha256 == task.clips_sha256
    for protocol, said in ((PLAIN, []), (APART, ["groups"])):  # of which there are none
        result = fewshot(load_model("logmel"), task, protocol)
        assert result.task.clips_sha256 == task.clips_sha256
        assert [note.partition(":")[0] for note in result.status.notes] == said


def test_only_files_of_one_size_are_read_and_what_cannot_be_is_no_copy(tmp_path: Path, bench_home: Path) -> None:
    names = [Sound(str(tmp_path / name)) for name in ("a", "b", "c", "d", "gone", "lost")]
    for name, content in zip(names, (b"same", b"1234", b"same", b"longer"), strict=False):
        Path(name.path).write_bytes(content)
    time.sleep(0.11)  # a file just written is not remembered
    assert first_copies(names).tolist() == [0, 1, 0, 3, 4, 5]
    Path(names[3].path).chmod(0)  # the only one of its size: it need not be readable
    assert first_copies(names).tolist() == [0, 1, 0, 3, 4, 5]


@given(
    st.lists(st.tuples(st.sampled_from("pqrstu"), st.sampled_from([b"0", b"1", b"2", b"3"])), min_size=1, max_size=9)
)
def test_groups_that_copies_join_are_one(clips: list[tuple[str, bytes]]) -> None:
    """Held against joining until nothing changes."""
    groups, contents = [group for group, _ in clips], [content for _, content in clips]
    expected = list(groups)
    changed = True
    while changed:
        lowest = {}
        for key, name in [*zip(groups, expected, strict=True), *zip(contents, expected, strict=True)]:
            lowest[key] = min(name, lowest.get(key, name))
        joined = [min(lowest[group], lowest[content]) for group, content in clips]
        changed, expected = joined != expected, joined
    assert one_group(groups, first_of_equals(contents)) == expected


def test_the_projects_own_data_stand_as_published(bench_home: Path) -> None:
    task = load_task("synthetic")
    assert task.group_copies() is task
    assert task.first_copies(np.arange(3)) is None


def test_copies_between_training_and_test_clips_are_said(listed: Listed) -> None:
    task = listed(*TWICE)
    content = np.array([Path(path).read_bytes() for path in task.table["path"]], object)
    copied = sum(int(np.isin(content[fold.test], content[fold.train]).sum()) for fold in plan(task, folds=2).folds)
    assert copied > 0
    probed = finetune(load_model("logmel"), task, PROBE, folds=2)
    assert f"{copied} of 48 test clips are identical copies of a training clip of their fold" in probed.status.notes
