"""The ESC-50 reader on a miniature of the official layout."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from uamix_bench.data import audio
from uamix_bench.data.task import TaskData, load_task
from uamix_bench.evaluation.fewshot import draw_episodes, fewshot_grid
from uamix_bench.models.loading import load_model
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.tasks.miniature import make
from uamix_bench.util.errors import BadInputError

CSV = "ESC-50-master/meta/esc50.csv"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make("esc50", tmp_path / "esc50", classes=8, clips_per_class=4, seconds=0.02)


@pytest.fixture
def data(root: Path) -> TaskData:
    return load_task("esc50", root.parent)


def test_labels_folds_and_recordings(data: TaskData) -> None:
    table = data.table.to_pandas()
    assert set(table["label"]) == set("dog rooster pig cow frog cat hen insects".split())
    assert set(table["split"]) == {f"fold{number}" for number in range(1, 6)}
    assert data.card.clip_seconds == 5.0
    for row in table.itertuples():
        name = re.fullmatch(r"ESC-50-master/audio/(\d)-(\d{6})-([A-Z])-(\d+)\.wav", row.clip)
        assert name is not None
        assert (row.split, row.group) == (f"fold{name[1]}", name[2])
    # The official data set has four recordings that span two classes and two folds: one group, not two.
    spanning = table[table["group"] == "100100"]
    assert set(spanning["label"]) == {"rooster", "hen"}
    assert spanning["split"].nunique() == 2
    assert len(spanning) == 4


def test_splits_choose_folds(root: Path) -> None:
    chosen = load_task("esc50", root.parent, splits=("fold1", "fold3")).table
    assert set(chosen["split"]) == {"fold1", "fold3"}


@pytest.mark.parametrize("data_dir", ["", "esc50"])
def test_the_root_is_found_below_data_dir_or_is_it(root: Path, data_dir: str) -> None:
    assert load_task("esc50", root.parent / data_dir).root == root


def test_missing_files_are_counted_and_named(root: Path) -> None:
    gone = sorted((root / "ESC-50-master/audio").iterdir())[:5]
    for path in gone:
        path.unlink()
    with pytest.raises(BadInputError, match="27 of 32 clips found") as caught:
        load_task("esc50", root)
    assert gone[0].name in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_list_that_was_cut_is_refused_though_its_files_are_there(root: Path) -> None:
    lines = (root / CSV).read_text().splitlines()
    (root / CSV).write_text("\n".join(lines[:-3]))
    with pytest.raises(BadInputError, match="29 of 32 clips found"):
        load_task("esc50", root)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (",src_file,", ",source,", r"has no column 'src_file' \(it has: filename,"),
        (",True,", ",Tr,ue,", r"line 2 has 8 fields, the first line 7"),
        ("filename", '"filename', "is not a CSV"),
        ("-A-0.wav,1,", "-A-0.wav,2,", "line 2 names '1-100000-A-0.wav', which does not agree with its columns"),
        ("-A-0.wav", "-B-0.wav", "line 2 names '1-100000-B-0.wav', which does not agree with its columns"),
    ],
)
def test_a_damaged_list_is_named(root: Path, old: str, new: str, reason: str) -> None:
    text = (root / CSV).read_text()
    assert old in text
    (root / CSV).write_text(text.replace(old, new, 1))
    with pytest.raises(BadInputError, match=reason) as caught:
        load_task("esc50", root)
    assert CSV in str(caught.value)


def test_a_clip_listed_twice_is_refused(root: Path) -> None:
    lines = (root / CSV).read_text().splitlines()
    (root / CSV).write_text("\n".join([*lines[:-1], lines[1]]))
    with pytest.raises(BadInputError, match=r"lists 'ESC-50-master/audio/.*' twice"):
        load_task("esc50", root)


def test_the_full_miniature_has_the_fifty_classes(tmp_path: Path) -> None:
    make("esc50", tmp_path / "esc50", clips_per_class=1, seconds=0.01)
    card = load_task("esc50", tmp_path).card
    labels = set(load_task("esc50", tmp_path).table["label"])
    assert len(labels) == card.classes == 50
    # The test classes of MetaAudio's split, published apart from the data set.
    assert labels > set(
        "airplane church_bells cow crow dog engine glass_breaking sneezing thunderstorm vacuum_cleaner".split()
    )


def test_the_shared_share_counts_recordings_that_span_two_classes(tmp_path: Path) -> None:
    root = make("esc50", tmp_path, classes=8, clips_per_class=6, seconds=0.01)
    data, protocol = load_task("esc50", root), Protocol(n_way=5, k_shot=2, n_query=3, episodes=300)
    with (root / "ESC-50-master/meta/esc50.csv").open() as file:
        recording = {f"ESC-50-master/audio/{row['filename']}": row["src_file"] for row in csv.DictReader(file)}
    clips, episodes = data.table["clip"].tolist(), draw_episodes(data, protocol)
    shared, of_another_class = 0, 0
    for support, query in zip(episodes.support, episodes.query, strict=True):
        for slot, rows in enumerate(query):
            by_slot = [{recording[clips[row]] for row in rows} for rows in support]
            for row in rows:
                held = [other for other, recordings in enumerate(by_slot) if recording[clips[row]] in recordings]
                shared += bool(held)
                of_another_class += bool(held) and slot not in held
    assert of_another_class > 0  # hen and rooster
    assert episodes.shared_group_share == shared / (300 * 5 * 3)
    apart = draw_episodes(data, protocol.model_copy(update={"group_disjoint": True}))
    assert apart.shared_group_share == 0.0


def test_a_grid_embeds_each_drawn_clip_once(tmp_path: Path, bench_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_task("esc50", make("esc50", tmp_path, clips_per_class=13, seconds=0.02))
    grid = [Protocol(n_way=n, k_shot=k, n_query=3, episodes=4) for n in (5, 10, 20) for k in (1, 5, 10)]
    drawn = set().union(*(draw_episodes(data, protocol).clips.tolist() for protocol in grid))
    decoded: list[Path] = []
    read = audio.read

    def counted(path: Path, *arguments: Any, **options: Any) -> audio.Waveform:
        decoded.append(path)
        return read(path, *arguments, **options)

    monkeypatch.setattr(audio, "read", counted)
    results = fewshot_grid(load_model("logmel"), data, grid)
    assert sorted(map(str, decoded)) == sorted(data.table["path"][row] for row in drawn)
    assert {result.cost.embedded_clips for result in results} == {len(drawn)}
    assert len(drawn) < len(data.table)
    curves = [draw_episodes(data, protocol) for protocol in grid]
    for row in range(0, 9, 3):  # for one n: the same classes and queries, supports that grow
        one, five, ten = curves[row : row + 3]
        assert (one.query == ten.query).all()
        assert (five.support == ten.support[:, :, :5]).all()
