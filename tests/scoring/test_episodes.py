"""Episodes: derived again from the definition, golden digests, and the properties that comparisons rest on."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

from uamix_bench.data.clip_table import sort_clips
from uamix_bench.scoring.episodes import EpisodeSet
from uamix_bench.scoring.protocol import PAPER, Protocol
from uamix_bench.util.errors import UsageError

from ..sample_records import draw

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "episodes.json").read_text())


class Table:
    """Clip ids, labels and groups of classes of the given sizes; every `group_size` clips of a class share a group."""

    def __init__(self, sizes: list[int], group_size: int = 1) -> None:
        rows = [(c, i) for c, size in enumerate(sizes) for i in range(size)]
        self.clips = [f"c{c}/{i}.wav" for c, i in rows]  # c10 sorts before c2, 10.wav before 2.wav
        self.labels = [f"c{c}" for c, _ in rows]
        self.groups = [f"g{c}-{i // group_size}" for c, i in rows]

    def draw(self, protocol: Protocol, grouped: bool = False, **more: Any) -> EpisodeSet:
        groups = self.groups if grouped else None
        where = {"task": "test", "version": "1"} | more
        return draw(protocol, clips=self.clips, labels=self.labels, groups=groups, **where)

    def names(self, rows: np.ndarray) -> list[str]:
        return [self.clips[row] for row in rows.ravel().tolist()]


def derived(
    table: Table, protocol: Protocol, episode: int, grouped: bool = False
) -> list[tuple[str, list[str], list[str]]]:
    """One episode in plain integers from the words of DESIGN.md and the docstring: class, supports, queries by slot."""
    n, k, q = protocol.n_way, protocol.k_shot, protocol.n_query
    text = (
        f'{{"algorithm":"philox-1","group_disjoint":{str(protocol.group_disjoint).lower()},"n_way":{n},'
        f'"seed":{protocol.seed},"task":"test","version":"1"}}'
    )
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")

    def word(stream: int, index: int, key: int = key) -> int:
        halves = np.array([key % 2**64, key // 2**64 % 2**64], dtype=np.uint64)
        philox = np.random.Philox(key=halves, counter=[0, 0, 0, stream])
        philox.advance(index // 4)
        return int([philox.random_raw() for _ in range(index % 4 + 1)][-1])

    def below(limit: int, word: int) -> int:
        return (word // 2**32) * limit // 2**32

    def take(rank: int, taken: list[int]) -> int:
        for earlier in sorted(taken):
            rank += rank >= earlier
        taken.append(rank)
        return rank

    members: dict[str, list[str]] = {}
    for clip, label in zip(table.clips, table.labels, strict=True):
        members.setdefault(label, []).append(clip)
    eligible = sorted(name for name, clips in members.items() if len(clips) >= k + q)
    taken: list[int] = []
    classes = [eligible[take(below(len(eligible) - i, word(0, episode * n + i)), taken)] for i in range(n)]

    if not protocol.group_disjoint:
        slots = []
        for i, name in enumerate(classes):
            pool, taken = sorted(members[name]), []
            drawn = [pool[take(below(len(pool) - p, word(2 + p, episode * n + i)), taken)] for p in range(q + k)]
            slots.append((name, drawn[q:], drawn[:q]))
        return slots

    group_of = dict(zip(table.clips, table.groups if grouped else table.clips, strict=True))
    groups = sorted(set(group_of.values()))
    for attempt in range(64):
        order = sorted(groups, key=lambda g: word(1, episode * len(groups) + groups.index(g), key + attempt))

        def side(shots: int, order: list[str] = order) -> list[str]:
            held: list[str] = []
            for group in order:
                held.append(group)
                if all(sum(group_of[clip] in held for clip in members[name]) >= shots for name in classes):
                    return held
            return held

        slots = []
        for i, name in enumerate(classes):
            by_group = sorted(members[name], key=lambda clip: (order.index(group_of[clip]), clip))
            behind = [clip for clip in by_group if group_of[clip] not in side(k)]
            taken = []
            queries = [take(below(len(behind) - p, word(2 + p, episode * n + i)), taken) for p in range(q)]
            taken, supports = [], []
            for j in range(k):
                pool = [clip for clip in by_group if group_of[clip] in side(j + 1)]
                supports.append(pool[take(below(len(pool) - j, word(2 + q + j, episode * n + i)), taken)])
            slots.append((name, supports, behind, queries))
        if all(len(behind) >= q for _, _, behind, _ in slots):
            return [(name, supports, [behind[r] for r in queries]) for name, supports, behind, queries in slots]
    raise AssertionError("no order of the groups will do")


@pytest.mark.parametrize(
    ("protocol", "sizes", "group_size"),
    [
        (Protocol(n_way=3, k_shot=2, n_query=4), [9, 12, 5, 30, 7, 6], 1),
        (Protocol(n_way=5, k_shot=1, n_query=3, seed=7), [4] * 12, 1),
        (Protocol(n_way=3, k_shot=3, n_query=4, group_disjoint=True), [16, 12, 15, 30, 14, 5], 3),
        # groups of five of ten clips: an order that gives a support side of two groups leaves no query
        (Protocol(n_way=2, k_shot=3, n_query=4, group_disjoint=True), [10, 10, 10], 5),
        (Protocol(n_way=2, k_shot=2, n_query=3, group_disjoint=True), [8, 9, 10], 1),
    ],
)
def test_twenty_episodes_derived_again(protocol: Protocol, sizes: list[int], group_size: int) -> None:
    table = Table(sizes, group_size)
    for first in (0, 590):
        episodes = table.draw(protocol, grouped=group_size > 1, first=first, episodes=10)
        for e in range(10):
            expected = derived(table, protocol, first + e, grouped=group_size > 1)
            assert [episodes.class_names[c] for c in episodes.classes[e]] == [name for name, _, _ in expected]
            assert [table.names(row) for row in episodes.support[e]] == [supports for _, supports, _ in expected]
            assert [table.names(row) for row in episodes.query[e]] == [queries for _, _, queries in expected]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_digests_are_those_of_every_other_machine(case: dict[str, Any]) -> None:
    episodes = Table(case["sizes"], case["group_size"]).draw(
        Protocol(**case["protocol"]), grouped=case["group_size"] > 1
    )
    assert episodes.support[0].tolist() == case["first_support"]
    assert episodes.digest == case["digest"]


def test_digest_is_over_the_clip_ids_in_order() -> None:
    table = Table([9, 8, 7])
    episodes = table.draw(Protocol(n_way=2, k_shot=2, n_query=3, episodes=4))
    slots = [(e, i) for e in range(4) for i in range(2)]
    ids = [name for e, i in slots for name in table.names(episodes.support[e, i]) + table.names(episodes.query[e, i])]
    text = "[" + ",".join(f'"{name}"' for name in ids) + "]"
    assert episodes.digest == hashlib.sha256(text.encode()).hexdigest()


protocols = st.builds(
    Protocol,
    n_way=st.integers(2, 5),
    k_shot=st.integers(1, 4),
    n_query=st.integers(1, 6),
    episodes=st.integers(1, 40),
    seed=st.integers(0, 2**40),
    group_disjoint=st.booleans(),
)
tables = st.builds(Table, st.lists(st.integers(22, 40), min_size=5, max_size=9), st.integers(1, 4))


def same(left: EpisodeSet, right: EpisodeSet) -> bool:
    pairs = [(left.classes, right.classes), (left.support, right.support), (left.query, right.query)]
    return all(np.array_equal(a, b) for a, b in pairs)


@settings(max_examples=40, deadline=None)
@given(tables, protocols, st.data())
def test_what_every_draw_keeps(table: Table, protocol: Protocol, data: st.DataObject) -> None:
    whole = table.draw(protocol, grouped=True)
    labels, groups = np.array(table.labels), np.array(table.groups)

    # one class a slot, no class twice, no clip twice
    assert all(len(set(row)) == protocol.n_way for row in whole.classes.tolist())
    assert all(len(set(row.ravel())) == row.size for row in whole.drawn)
    assert np.all(labels[whole.drawn] == np.array(whole.class_names)[whole.classes][:, :, None])
    assert whole.drawn.shape[1:] == (protocol.n_way, protocol.k_shot + protocol.n_query)
    if protocol.group_disjoint:
        for support, query in zip(groups[whole.support], groups[whole.query], strict=True):
            assert not set(support.ravel()) & set(query.ravel())

    # any shard is what the whole has there
    first = data.draw(st.integers(0, protocol.episodes - 1))
    count = data.draw(st.integers(1, protocol.episodes - first))
    shard = table.draw(protocol, grouped=True, first=first, episodes=count)
    now = slice(first, first + count)
    assert np.array_equal(shard.classes, whole.classes[now])
    assert np.array_equal(shard.drawn, whole.drawn[now])

    # the order of the table is no part of it
    order = data.draw(st.permutations(range(len(table.clips))))
    shuffled = Table([])
    shuffled.clips, shuffled.labels, shuffled.groups = (
        [column[row] for row in order] for column in (table.clips, table.labels, table.groups)
    )
    assert shuffled.draw(protocol, grouped=True).digest == whole.digest

    # the unique rows, and the same episodes over them alone
    support, query = whole.compact()
    assert whole.clips.tolist() == sorted(set(whole.drawn.ravel().tolist()))
    assert np.array_equal(whole.clips[support], whole.support)
    assert np.array_equal(whole.clips[query], whole.query)


@given(
    st.lists(st.tuples(st.text(max_size=3), st.sampled_from("abc"), st.sampled_from("xyz")), unique_by=lambda r: r[0])
)
def test_a_table_that_comes_sorted_is_sorted_alike(rows: list[tuple[str, str, str]]) -> None:
    clips, labels, groups = ([row[column] for row in sorted(rows)] for column in range(3))
    plain, told = sort_clips(clips, labels, groups), sort_clips(clips, labels, groups, ordered=True)
    assert told.rows.tolist() == plain.rows.tolist()
    assert [told.ids[row] for row in told.rows] == [row[0] for row in sorted(rows, key=lambda row: (row[1], row[0]))]
    assert [told.class_names[code] for code in told.class_of] == labels
    assert [sorted(set(groups))[code] for code in told.group_of] == groups
    assert told.grouped == (len(set(groups)) < len(groups))


@settings(max_examples=40, deadline=None)
@given(tables, protocols)
def test_fewer_shots_are_a_prefix(table: Table, protocol: Protocol) -> None:
    most = table.draw(protocol, grouped=True)
    for k in range(1, protocol.k_shot):
        fewer = table.draw(protocol.model_copy(update={"k_shot": k}), grouped=True)
        assert np.array_equal(fewer.classes, most.classes)
        if protocol.group_disjoint:  # the queries stand behind the supports, and an order may be drawn again
            kept = [e for e in range(protocol.episodes) if np.array_equal(fewer.support[e], most.support[e, :, :k])]
            assert len(kept) >= 0.5 * protocol.episodes or protocol.episodes < 10
        else:
            assert np.array_equal(fewer.query, most.query)
            assert np.array_equal(fewer.support, most.support[:, :, :k])


def test_the_key_holds_what_it_should() -> None:
    table = Table([20] * 8)
    base = table.draw(PAPER, episodes=50)
    for update in ({"name": "other"}, {"classifier": "cosine"}, {"segments": "mean"}, {"episodes": 50}):
        assert same(base, table.draw(PAPER.model_copy(update=update), episodes=50))
    for changed in (
        table.draw(PAPER, episodes=50, task="other"),
        table.draw(PAPER, episodes=50, version="2"),
        table.draw(PAPER.model_copy(update={"seed": 1}), episodes=50),
        table.draw(PAPER.model_copy(update={"group_disjoint": True}), episodes=50),
    ):
        assert changed.digest != base.digest
        assert not np.array_equal(changed.classes, base.classes)


def test_classes_and_clips_come_equally_often() -> None:
    from scipy.stats import chi2

    table = Table([20, 24, 30, 20, 28, 24, 21, 25])
    count, n, k, q = 20_000, 3, 2, 4
    for disjoint in (False, True):
        protocol = Protocol(
            n_way=n, k_shot=k, n_query=q, episodes=count if not disjoint else 3_000, group_disjoint=disjoint
        )
        episodes = table.draw(protocol)
        expected = protocol.episodes * n / 8
        observed = np.bincount(episodes.classes.ravel(), minlength=8)
        # without replacement within an episode: the variance of a count is smaller by (C - N) / (C - 1)
        statistic = ((observed - expected) ** 2 / expected).sum() * 7 / 5
        assert 0.001 < chi2.sf(statistic, 7) < 0.999
        for slot in range(n):
            first = np.bincount(episodes.classes[:, slot], minlength=8)
            assert chi2.sf(((first - first.mean()) ** 2 / first.mean()).sum(), 7) > 0.001
        for rows in (
            episodes.support[..., 0],
            episodes.support[..., 1],
            episodes.query[..., 0],
            episodes.query[..., 3],
        ):
            times = np.bincount(rows.ravel(), minlength=len(table.clips))
            share = observed[episodes.class_of] / np.bincount(episodes.class_of)[episodes.class_of]
            assert chi2.sf(((times - share) ** 2 / share).sum(), len(table.clips) - 8) > 0.001


def test_shared_groups_are_measured() -> None:
    table = Table([12] * 6, group_size=3)
    table.groups[0] = table.groups[-1]  # a recording that spans two classes
    episodes = table.draw(Protocol(n_way=3, k_shot=2, n_query=4, episodes=30), grouped=True)
    shared = [
        table.groups[query] in {table.groups[row] for row in support.ravel()}
        for support, queries in zip(episodes.support, episodes.query, strict=True)
        for query in queries.ravel()
    ]
    assert episodes.shared_group_share == pytest.approx(sum(shared) / len(shared))
    assert 0.1 < episodes.shared_group_share < 0.9
    disjoint = table.draw(Protocol(n_way=3, k_shot=2, n_query=4, episodes=30, group_disjoint=True), grouped=True)
    assert disjoint.shared_group_share == 0.0
    assert table.draw(Protocol(n_way=3, n_query=4)).shared_group_share is None
    assert Table([12] * 6).draw(Protocol(n_way=3, n_query=4), grouped=True).shared_group_share is None


def test_small_classes_are_left_out_and_counted() -> None:
    table = Table([16, 3, 40, 15, 16, 20, 17])
    episodes = table.draw(PAPER)
    assert episodes.classes_left_out == 2
    assert episodes.class_names == ("c0", "c2", "c4", "c5", "c6")
    assert [episodes.class_of[table.labels.index(f"c{c}")] for c in range(7)] == [0, -1, 1, -1, 2, 3, 4]
    assert Counter(table.labels[row].strip("c") for row in episodes.clips).keys() == set("02456")


@pytest.mark.parametrize(
    ("sizes", "protocol", "words"),
    [
        ([16, 16, 16, 9, 12, 2], PAPER, ["5 classes of at least 16", "3 of 6", "c5 has 2, c3 has 9", "--q 8 or less"]),
        ([16, 16], PAPER, ["2 of 2", "--n 2"]),
        ([2, 2, 1], Protocol(n_way=3, k_shot=1, n_query=1), ["c2 has 1", "smaller --k or --n"]),
        ([1] * 8, PAPER, ["0 of 8", "c3 has 1, ..."]),
        ([], PAPER, ["0 of 0"]),
    ],
)
def test_too_few_clips_names_the_counts(sizes: list[int], protocol: Protocol, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        Table(sizes).draw(protocol)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    offered = str(caught.value).partition("--q ")[2].split()
    if offered[1:2] == ["or"]:
        Table(sizes).draw(protocol.model_copy(update={"n_query": int(offered[0])}))


def test_groups_that_cannot_be_parted_name_the_class() -> None:
    table = Table([20] * 5, group_size=2)
    table.groups[40:60] = ["one recording"] * 20
    protocol = Protocol(n_way=5, k_shot=1, n_query=4, group_disjoint=True, episodes=3)
    with pytest.raises(UsageError, match=r"class 'c2': 64 .* fewer than 4 queries"):
        table.draw(protocol, grouped=True)


def test_protocol_is_data_that_round_trips() -> None:
    assert PAPER.model_dump() == {
        "name": "paper",
        "n_way": 5,
        "k_shot": 1,
        "n_query": 15,
        "episodes": 600,
        "seed": 0,
        "classifier": "nearest-centroid",
        "group_disjoint": False,
        "min_clips": None,
        "segments": "first",
    }
    assert Protocol.model_validate_json(PAPER.model_dump_json()) == PAPER
    wrong: list[dict[str, Any]] = [
        {"n_way": 1},
        {"k_shot": 0},
        {"n_query": 0},
        {"episodes": 0},
        {"seed": -1},
        {"name": ""},
        {"segments": "last"},
        {"min_clips": 0},
        {"shots": 1},
    ]
    for field in wrong:
        with pytest.raises(ValidationError):
            Protocol(**field)
    with pytest.raises(ValidationError, match="did you mean 'cosine'"):
        Protocol(classifier="cosin")


SCALE = {"nsynth": (1_006, 305_979), "voxceleb1": (1_251, 153_516)}


def of_real_size(name: str) -> Table:
    classes, clips = SCALE[name]
    return Table([clips // classes + (c < clips % classes) for c in range(classes)])


@pytest.mark.parametrize("name", SCALE)
def test_ten_thousand_episodes_of_real_size(name: str) -> None:
    """Within 1 GiB, the interpreter, numpy and the columns of the table included."""
    classes, clips = SCALE[name]
    code = (
        "from uamix_bench.data.clip_table import sort_clips\n"
        "from uamix_bench.scoring.episodes import draw_sorted\n"
        "from uamix_bench.scoring.protocol import PAPER\n"
        "from uamix_bench.records.provenance import peak_memory_mb\n"
        f"sizes = [{clips // classes} + (c < {clips % classes}) for c in range({classes})]\n"
        "rows = [(c, i) for c, size in enumerate(sizes) for i in range(size)]\n"
        "clips, labels, groups = zip(*((f'c{c}/{i}.wav', f'c{c}', f'g{c}-{i // 2}') for c, i in rows))\n"
        "table = sort_clips(clips, labels, groups)\n"
        "found = draw_sorted(PAPER, table, task='test', version='1', episodes=10_000)\n"
        "print(found.digest, len(found.clips), found.shared_group_share, found.drawn[-1].tolist())\n"
        "print(peak_memory_mb())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found, peak = done.stdout.splitlines()
    assert float(peak) * 1e6 < 1 << 30
    digest, drawn, share, last = found.split(maxsplit=3)
    assert len(digest) == 64
    assert int(drawn) > 0.8 * clips
    assert float(share) == pytest.approx(1 / (clips / classes - 1), rel=0.2)  # the other of a pair is the support
    alone = of_real_size(name).draw(PAPER, episodes=1, first=9_999)
    assert alone.drawn[0].tolist() == json.loads(last)


def test_six_hundred_episodes_draw_a_seventh_of_nsynth() -> None:
    assert len(of_real_size("nsynth").draw(PAPER).clips) / 305_979 == pytest.approx(0.14, abs=0.01)


def test_min_clips_leaves_classes_out_and_moves_no_draw() -> None:
    """The classes are those with enough clips; of them every cell draws what it draws of a table of them alone."""
    sizes = {"a": 4, "b": 6, "c": 9, "d": 9, "e": 12}
    clips = [f"{label}/{number:02d}" for label, size in sizes.items() for number in range(size)]
    labels = [clip[0] for clip in clips]
    for k, fewest, kept in ((1, None, "abcde"), (1, 3, "abcde"), (1, 9, "cde"), (5, None, "cde"), (5, 9, "cde")):
        protocol = Protocol(n_way=2, k_shot=k, n_query=3, episodes=40, min_clips=fewest)
        found = draw(protocol, task="t", version="1", clips=clips, labels=labels)
        assert found.class_names == tuple(kept)
        assert found.classes_left_out == len(sizes) - len(kept)
        plain = protocol.model_copy(update={"min_clips": None})
        chosen = [number for number, label in enumerate(labels) if label in kept]
        alone = draw(plain, task="t", version="1", clips=[clips[i] for i in chosen], labels=[labels[i] for i in chosen])
        assert found.digest == alone.digest
    with pytest.raises(UsageError, match=r"need 4 classes of at least 9 clips \(min_clips\), and 3 of 5"):
        draw(
            Protocol(n_way=4, k_shot=1, n_query=3, episodes=1, min_clips=9),
            task="t",
            version="1",
            clips=clips,
            labels=labels,
        )
