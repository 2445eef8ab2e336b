"""The clip table beside a DataFrame of pandas with the same columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from uamix_bench.data.clip_table import COLUMNS, ClipTable, earlier_equals
from uamix_bench.data.sound import Sound, sounds

ROWS = st.lists(st.tuples(*[st.text("abé", max_size=2)] * 5), max_size=9)


@given(ROWS, st.data())
def test_it_answers_as_pandas_does(rows: list[tuple[str, ...]], data: st.DataObject) -> None:
    table, frame = ClipTable.of_rows(rows), pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
    assert table.to_pandas().equals(frame)
    assert ClipTable(frame).to_pandas().equals(frame)
    assert ClipTable(frame.to_dict("list")).to_pandas().equals(frame)
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), np.bool_)
    assert table.take(chosen).to_pandas().equals(frame[chosen].reset_index(drop=True))
    assert table.take(np.flatnonzero(chosen)).to_pandas().equals(frame[chosen].reset_index(drop=True))
    assert table.among("label", {"a", ""}).tolist() == frame["label"].isin(["a", ""]).tolist()
    assert table.sizes("label") == frame["label"].value_counts().to_dict()
    assert earlier_equals(table["label"]).tolist() == frame.groupby("label").cumcount().tolist()
    assert table.by_clip().to_pandas().equals(frame.sort_values("clip", kind="stable", ignore_index=True))
    assert table.ordered == frame["clip"].is_monotonic_increasing
    other = table.assign(split="x", start=range(len(rows)), end=[None] * len(rows))
    joined = pd.concat([frame, frame.assign(split="x", start=np.arange(len(rows)), end=np.nan)], ignore_index=True)
    assert ClipTable.joined([table, other]).to_pandas().equals(joined.astype({"start": float, "end": float}))


def test_a_name_that_is_not_utf_8_becomes_a_cell() -> None:
    table = ClipTable.of_rows([("\udce4.wav", "", "", "", "")])
    assert table.to_pandas()["clip"].tolist() == ["\udce4.wav"]


def test_segments_and_rows_beside_whole_files() -> None:
    frame = pd.DataFrame({"path": ["a", "b", "c"], "start": [0.5, None, None], "end": [1.0, None, None]})
    wanted = [Sound("a", 0.5, 1.0), Sound("b", None, None), Sound("c", None, None, 7)]
    assert sounds(ClipTable(frame.assign(row=[None, None, 7]))) == wanted


def test_nobody_changes_a_table() -> None:
    labels = np.array(["a", "b"], object)
    table = ClipTable({"clip": ["1", "2"], "label": labels})
    with pytest.raises(ValueError, match="read-only"):
        table["label"][0] = "c"
    labels[0] = "b"  # what it was made of is still the caller's
    assert table["label"].tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="differ in length"):
        ClipTable({"clip": ["1"], "label": labels})
