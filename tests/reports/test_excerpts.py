"""Excerpts of confused clips: which clips, by a plain count; what is heard; how much of it at most."""

from __future__ import annotations

import base64
import io
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from uamix_bench.data.clip_table import ClipTable
from uamix_bench.evaluation.replay import Replay
from uamix_bench.reports import excerpts
from uamix_bench.reports.blocks import Prose, Sound
from uamix_bench.reports.page import render
from uamix_bench.scoring.protocol import Protocol

from ..sample_records import draw


@pytest.fixture
def replayed(tmp_path: Path) -> Replay:
    """Random predictions of 40 episodes on three classes of ten sounds."""
    generator = np.random.default_rng(0)
    clips = [f"{label}{number}.wav" for label in "abc" for number in range(10)]
    for clip in clips:
        soundfile.write(tmp_path / clip, 0.1 * generator.standard_normal(4 * 16_000), 16_000)
    labels, paths = [clip[0] for clip in clips], [str(tmp_path / clip) for clip in clips]
    table = ClipTable({"clip": clips, "label": labels, "path": paths})
    protocol = Protocol(n_way=2, k_shot=1, n_query=4, episodes=40)
    drawn = draw(protocol, task="t", version="1", clips=clips, labels=labels)
    chosen = generator.integers(0, 2, drawn.query.shape).astype(np.uint8)
    data: Any = SimpleNamespace(table=table)
    return Replay(data, drawn, chosen, None)  # type: ignore[arg-type]


def test_the_most_confused_clips_are_those_of_a_plain_count(replayed: Replay) -> None:
    times: Counter[tuple[int, str]] = Counter()
    asked: Counter[int] = Counter()
    drawn = replayed.episodes
    for episode in range(40):
        for slot in range(2):
            for place in range(4):
                row, given = int(drawn.query[episode, slot, place]), int(replayed.chosen[episode, slot, place])
                asked[row] += 1
                if given != slot:
                    times[row, drawn.class_names[drawn.classes[episode, given]]] += 1
    found = excerpts.confused(replayed, most=5)
    assert [count for _, _, count, _ in found] == sorted((count for *_, count, _ in found), reverse=True)
    assert all(times[row, label] == count and asked[row] == of for row, label, count, of in found)
    best = {row: max(count for (other, _), count in times.items() if other == row) for row, _ in times}
    assert [count for *_, count, _ in found] == sorted(best.values(), reverse=True)[:5]
    assert len({row for row, *_ in found}) == 5


def test_an_excerpt_is_the_beginning_of_the_sound(replayed: Replay) -> None:
    path = Path(replayed.data.table["path"][3])
    source = excerpts.excerpt(path)
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    assert rate == 16_000
    np.testing.assert_allclose(heard, soundfile.read(path)[0][: 3 * 16_000], atol=2 / 2**15)


def test_excerpts_keep_to_their_limit_and_say_so(replayed: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(excerpts.blocks({"m": replayed}))
    sounds = [block for block in found if isinstance(block, Sound)]
    assert len(sounds) == excerpts.CLIPS
    assert "by m" in sounds[0].title
    room = len(sounds[0].source) + len(sounds[1].source) + 1_000
    monkeypatch.setattr(excerpts, "MOST_BYTES", room)
    less = list(excerpts.blocks({"m": replayed}))
    held = [block for block in less if isinstance(block, Sound)]
    assert 0 < sum(len(one.source) for one in held) <= room
    assert isinstance(less[-1], Prose)
    assert f"{excerpts.CLIPS - len(held)} more clips are left out" in less[-1].text
    Path(replayed.data.table["path"][excerpts.confused(replayed)[0][0]]).unlink()
    assert any("no such file" in block.text for block in excerpts.blocks({"m": replayed}) if isinstance(block, Prose))


def test_only_a_page_with_sounds_may_play_and_nothing_is_fetched() -> None:
    assert "media-src" not in render("t", [Prose("x")]).html
    page = render("t", [Sound("a <b>", "data:audio/flac;base64,AAAA")])
    assert "media-src data:" in page.html
    assert "a &lt;b&gt;" in page.html
    assert "base64" not in page.markdown
    for source in ("https://example.org/a.flac", "a.flac", "data:text/html;base64,AAAA", 'data:audio/flac;base64,A"'):
        with pytest.raises(ValueError, match="data URI"):
            Sound("x", source)
