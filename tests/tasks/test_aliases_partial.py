"""Other names of tasks, incomplete copies, and MetaAudio's classes."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from uamix_bench.data.clip_table import ClipTable
from uamix_bench.data.task import IncompleteError, TaskData, load_task, table_sha256
from uamix_bench.evaluation.fewshot import draw_episodes, fewshot
from uamix_bench.models.loading import load_model
from uamix_bench.plugins import registry
from uamix_bench.scoring.protocol import METAAUDIO, PAPER, Protocol
from uamix_bench.tasks.miniature import make
from uamix_bench.util.errors import BadInputError, UsageError
from uamix_bench.util.files import canonical_json

SMALL = Protocol(n_way=3, n_query=2, episodes=20)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make("esc50", tmp_path / "esc50", clips_per_class=4, classes=8, seconds=0.05)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", ["esc50", "fsdkaggle2018", "nsynth", "speech-commands", "voxceleb1"])
def test_the_smallest_miniatures_are_read(name: str, count: int, tmp_path: Path) -> None:
    data = load_task(name, make(name, tmp_path, classes=2, clips_per_class=count, seconds=0.01))
    assert list(data.table.sizes("label").values()) == [count, count]


def remove(data: TaskData, *rows: int) -> None:
    for row in rows:
        Path(data.table["path"][row]).unlink()


@pytest.mark.parametrize(("alias", "name"), [("scv2", "speech-commands"), ("kaggle18", "fsdkaggle2018")])
def test_an_alias_is_the_task(alias: str, name: str, tmp_path: Path) -> None:
    make(name, tmp_path, classes=2, seconds=0.02)
    one, other = (load_task(word, tmp_path) for word in (alias, name))
    assert one.name == name
    assert one.clips_sha256 == other.clips_sha256


def test_an_alias_is_suggested_and_names_no_other_task() -> None:
    with pytest.raises(UsageError, match="did you mean 'kaggle18'"):
        registry.find_task("kagle18")
    aliases = [alias for plugin in registry.tasks().values() for alias in plugin.card.aliases]
    assert len({*aliases, *registry.tasks()}) == len(aliases) + len(registry.tasks())


def test_an_incomplete_copy_is_refused_with_counts_and_what_is_there(root: Path) -> None:
    whole = load_task("esc50", root)
    assert whole.partial == ""
    remove(whole, 3, 5)
    with pytest.raises(IncompleteError, match=r"30 of 32 clips found.*--allow-partial") as caught:
        load_task("esc50", root)
    assert caught.value.exit_code == 3
    kept = whole.table.take(np.delete(np.arange(32), [3, 5]))
    assert sorted(caught.value.found["clip"]) == kept["clip"].tolist()
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), len(copied.found)) == (str(caught.value), 30)
    part = load_task("esc50", root, allow_partial=True)
    assert part.table["clip"].tolist() == kept["clip"].tolist()
    assert part.partial.startswith("30 of 32 clips found")
    assert part.clips_sha256 != whole.clips_sha256
    assert part.split("fold1").partial == part.only(["dog"]).partial == part.partial


def test_allow_partial_says_nothing_of_a_whole_copy_and_takes_no_excess_or_nothing(root: Path) -> None:
    data = load_task("esc50", root, allow_partial=True)
    assert data.partial == ""
    mark = root / "MINIATURE"
    mark.write_text("31 clips")
    with pytest.raises(BadInputError, match="32 of 31 clips found; move away"):
        load_task("esc50", root, allow_partial=True)
    mark.write_text("32 clips")
    remove(data, *range(32))
    with pytest.raises(IncompleteError, match="0 of 32 clips found"):
        load_task("esc50", root, allow_partial=True)


def test_a_result_on_a_part_is_not_complete_and_never_that_of_the_whole(root: Path, bench_home: Path) -> None:
    model = load_model("logmel")
    whole = load_task("esc50", root)
    complete = fewshot(model, whole, SMALL)
    remove(whole, 0)
    result = fewshot(model, load_task("esc50", root, allow_partial=True), SMALL)
    assert complete.status.complete
    assert not result.status.complete
    assert result.status.partial.startswith("31 of 32 clips found")
    assert result.task.clips_sha256 != complete.task.clips_sha256
    assert result.id != complete.id
    # The same clips, drawn from a copy that lacks others, are no complete result either: another id, another file.
    labels = sorted(set(whole.table["label"]) - {whole.table["label"][0]})
    part = load_task("esc50", root, allow_partial=True).only(labels)
    rest = fewshot(model, part, SMALL)
    make("esc50", root.parent / "again", clips_per_class=4, classes=8, seconds=0.05)
    same = fewshot(model, load_task("esc50", root.parent / "again").only(labels), SMALL)
    assert rest.task == same.task
    assert rest.episodes == same.episodes
    assert rest.id != same.id


@given(st.lists(st.tuples(*[st.text(max_size=6)] * 4), max_size=8, unique_by=lambda row: row[0]))
def test_the_hash_of_a_table_is_over_canonical_json(rows: list[tuple[str, ...]]) -> None:
    table = ClipTable.of_rows((clip, "", *others) for clip, *others in rows)
    wanted = b"".join(canonical_json(list(row)) + b"\n" for row in sorted(rows))
    assert table_sha256(table) == hashlib.sha256(wanted).hexdigest()


# --- MetaAudio's classes, here as the facts list them

ESC50 = "airplane church_bells cow crow dog engine glass_breaking sneezing thunderstorm vacuum_cleaner"
KAGGLE18 = "Bark Finger_snapping Keys_jangling Knock Laughter Scissors Shatter"


@pytest.mark.parametrize(("name", "classes"), [("esc50", ESC50.split()), ("fsdkaggle2018", KAGGLE18.split())])
def test_metaaudio_restricts_the_table(name: str, classes: list[str], tmp_path: Path) -> None:
    whole = load_task(name, make(name, tmp_path, clips_per_class=2, seconds=0.01))
    chosen = whole.metaaudio()
    assert sorted(set(chosen.table["label"])) == sorted(classes)
    assert len(chosen.table) == 2 * len(classes)
    assert chosen.clips_sha256 != whole.clips_sha256
    small = METAAUDIO.model_copy(update={"episodes": 50})
    episodes = draw_episodes(chosen, small)
    assert episodes.digest != draw_episodes(whole, small).digest
    assert set(episodes.class_names) == set(classes)


def test_every_word_of_speech_commands_is_a_test_class(tmp_path: Path) -> None:
    whole = load_task("scv2", make("speech-commands", tmp_path, clips_per_class=1, seconds=0.01))
    assert whole.metaaudio().clips_sha256 == whole.clips_sha256
    assert whole.card.metaaudio is not None
    assert len(set(whole.card.metaaudio)) == whole.card.classes == 35


@pytest.mark.parametrize("name", ["nsynth", "voxceleb1"])
def test_a_task_without_a_list_asks_for_one(name: str, tmp_path: Path) -> None:
    data = load_task(name, make(name, tmp_path, clips_per_class=1, seconds=0.01))
    with pytest.raises(UsageError, match="list them in a file: --classes FILE"):
        data.metaaudio()


def test_unknown_classes_are_named_with_the_nearest(root: Path) -> None:
    data = load_task("esc50", root)
    with pytest.raises(UsageError, match=r"esc50: has no class 'hens'; did you mean 'hen'\?"):
        data.only(["dog", "hens"])
    with pytest.raises(UsageError, match=r"'qqqq', nor 1 more that are named; known: .*dog"):
        data.only(["zzzz", "qqqq"])
    with pytest.raises(UsageError, match="has no class 'airplane', nor"):
        data.metaaudio()  # of a miniature of eight classes


def test_the_numbers_are_metaaudios() -> None:
    assert PAPER.model_copy(update={"name": "metaaudio", "n_query": 1, "episodes": 10_000}) == METAAUDIO
    assert (METAAUDIO.n_way, METAAUDIO.k_shot) == (5, 1)
