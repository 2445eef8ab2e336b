"""What every registered task keeps to, asked of the generated task as it is and of the others through miniatures."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import soundfile

from uamix_bench.data.clip_table import COLUMNS
from uamix_bench.data.task import MINIATURE, Task, TaskData, load_task
from uamix_bench.plugins import registry
from uamix_bench.records.record import TaskIdentity
from uamix_bench.tasks.miniature import LAYOUTS, make
from uamix_bench.util.errors import BadInputError, UsageError

PLUGINS = registry.tasks()
BY_CARD = [name for name, plugin in PLUGINS.items() if plugin.card.layout]
READ = [name for name in PLUGINS if name not in BY_CARD]  # by a reader of their own
PUBLISHED = [name for name in READ if PLUGINS[name].card.home]  # the others are generated
PER_CLASS = 8


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The data directory of each task: a miniature of six classes, or nothing for what is generated."""
    folder = tmp_path_factory.mktemp("copies")
    for name in PUBLISHED:
        make(name, folder / name / name, classes=6, clips_per_class=PER_CLASS, seconds=0.05)
    return {name: folder / name for name in READ}


@pytest.fixture(params=READ)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def data(name: str, copies: dict[str, Path]) -> TaskData:
    return load_task(name, copies[name])


def test_every_published_task_has_a_miniature() -> None:
    assert set(LAYOUTS) == set(PUBLISHED)


def test_the_card_says_what_a_reader_needs(name: str) -> None:
    card = PLUGINS[name].card
    assert PLUGINS[name].load().card == card
    assert card.classes
    assert card.clips
    assert card.demonstration or (card.citation and card.home and card.files)
    assert all(file.url or file.page for file in card.files)


def test_the_clip_table_is_one(name: str, data: TaskData) -> None:
    table = data.table
    assert sorted(table.columns) == sorted(COLUMNS)
    assert all(isinstance(value, str) for column in COLUMNS for value in table[column])
    assert table["clip"].tolist() == sorted(set(table["clip"]))
    assert (table["label"] != "").all()
    assert (table["group"] != "").all()
    assert not any(re.search(r"^/|\\|\.\.", clip) for clip in table["clip"])
    assert TaskIdentity.of(data, None).clips == len(table)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_clip_is_its_path_below_the_root(name: str, copies: dict[str, Path]) -> None:
    data = load_task(name, copies[name])
    assert all(
        Path(path) == data.root / clip for clip, path in zip(data.table["clip"], data.table["path"], strict=True)
    )
    assert all(Path(path).is_file() for path in data.table["path"])


def test_counts_are_the_cards(name: str, data: TaskData) -> None:
    assert len(data.table) == data.card.clips
    assert len(set(data.table["label"])) == (6 if name in PUBLISHED else data.card.classes)


def test_the_table_does_not_depend_on_where_the_copy_is(name: str, copies: dict[str, Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    if name in PUBLISHED:
        shutil.copytree(copies[name] / name, elsewhere)
    assert load_task(name, elsewhere).clips_sha256 == load_task(name, copies[name]).clips_sha256


def test_a_miniature_is_no_copy_of_the_data_set(name: str, data: TaskData) -> None:
    card = PLUGINS[name].card
    assert data.card.version == (f"{card.version}-miniature" if name in PUBLISHED else card.version)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_part_of_a_copy_is_refused(name: str, copies: dict[str, Path], tmp_path: Path) -> None:
    task: Task = PLUGINS[name].load()()
    shutil.copytree(copies[name] / name, tmp_path / name)
    root = task.locate(tmp_path)
    assert task.verify(root, deep=True) == []
    clip = Path(task.clips(root)["path"][3])
    clip.unlink()
    with pytest.raises(BadInputError, match=r"\b47 of 48 clips") as caught:
        task.clips(root)
    assert caught.value.exit_code == 3
    assert [problem.reason for problem in task.verify(root)] == [caught.value.reason]
    soundfile.write(clip, [0.0] * 800, 16_000)
    clip.write_bytes(clip.read_bytes()[:-100])
    assert task.verify(root) == []
    assert [problem.subject for problem in task.verify(root, deep=True)] == [str(clip)]
    clip.write_bytes(b"")
    for deep in (False, True):
        found = [problem.subject for problem in task.verify(root, deep)]
        assert found == [str(root) if name == "fsdkaggle2018" else str(clip)]
    soundfile.write(clip, [0.0] * 800, 16_000)
    (root / MINIATURE).unlink()
    with pytest.raises(BadInputError, match=f"48 of {PLUGINS[name].card.clips:,} clips"):
        task.clips(root)
    (root / MINIATURE).write_text("some clips")
    with pytest.raises(BadInputError, match="MINIATURE: does not begin with a number of clips"):
        task.clips(root)


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_absent_data_set_says_where_to_get_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as caught:
        load_task(name, tmp_path)
    assert PLUGINS[name].card.home in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_a_miniature_marks_no_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "precious.wav").write_bytes(b"")
    with pytest.raises(UsageError, match="is not empty; choose a new folder"):
        make("esc50", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.wav"]


def test_miniatures_repeat_by_seed(tmp_path: Path) -> None:
    one, same, other = (
        make("esc50", tmp_path / str(i), classes=2, clips_per_class=1, seconds=0.01, seed=seed)
        for i, seed in enumerate((1, 1, 2))
    )
    sounds = [sorted(path.read_bytes() for path in folder.rglob("*.wav")) for folder in (one, same, other)]
    assert sounds[0] == sounds[1]
    assert sounds[0] != sounds[2]
    with pytest.raises(UsageError, match=r"esc-50: has no miniature; did you mean 'esc50'\?"):
        make("esc-50", tmp_path / "x")
