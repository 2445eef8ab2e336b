"""The same 60 digits as files, as a parquet file and as segments of one recording: one outcome."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from uamix_bench.data.task import TaskData, load_task
from uamix_bench.embeddings.embedding import Embeddings, embed
from uamix_bench.engines.local import Local
from uamix_bench.evaluation.fewshot import fewshot
from uamix_bench.evaluation.on_engine import embed_ahead
from uamix_bench.evaluation.plan import draw_episodes, plan_task
from uamix_bench.models.loading import load_model
from uamix_bench.records.store import ResultStore
from uamix_bench.scoring.classifiers import classify
from uamix_bench.scoring.protocol import Protocol
from uamix_bench.util.errors import BadInputError

PROTOCOLS = [Protocol(n_way=5, k_shot=1, n_query=3, episodes=40, group_disjoint=apart) for apart in (False, True)]


@pytest.fixture(scope="module")
def digits(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Lists named ``digits`` of ten digits by three speakers, twice each, with ids of their own."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder, source = tmp_path_factory.mktemp("digits"), test_data / "data" / "spoken-digits"
    with (source / "digits.csv").open() as file:
        listed = [row for row in csv.DictReader(file) if row["path"].endswith(("_0.wav", "_1.wav"))]
    rows = [row for row in listed if row["group"] in ("george", "jackson", "theo", "nicolas", "lucas", "yweweler")]
    speakers = sorted({row["group"] for row in rows})[:3]
    rows = [row for row in rows if row["group"] in speakers]
    assert len(rows) == 60
    ids = [f"{number:02d}" for number in range(60)]
    parts = [soundfile.read(source / row["path"], dtype="int16") for row in rows]
    ends = np.cumsum([len(samples) for samples, _ in parts])
    for place in ("files", "parquet", "segments"):
        (folder / place).mkdir()
    columns = "clip,label,group,path"
    files = [f"{one},{row['label']},{row['group']},{source / row['path']}" for one, row in zip(ids, rows, strict=True)]
    (folder / "files" / "digits.csv").write_text("\n".join([columns, *files]))
    soundfile.write(folder / "segments" / "long.wav", np.concatenate([samples for samples, _ in parts]), 8_000)
    lines = [
        f"{one},{row['label']},{row['group']},long.wav,{(end - len(samples)) / 8_000},{end / 8_000}"
        for one, row, (samples, _), end in zip(ids, rows, parts, ends.tolist(), strict=True)
    ]
    (folder / "segments" / "digits.csv").write_text("\n".join([f"{columns},onset,offset", *lines]))
    sounds = [{"bytes": (source / row["path"]).read_bytes(), "path": None} for row in rows]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = {"clip": ids, **{name: [row[name] for row in rows] for name in ("label", "group")}}
    pq.write_table(
        pa.table({"audio": pa.array(sounds, kind), **table}), folder / "parquet" / "digits.parquet", row_group_size=7
    )
    names = {"files": "digits.csv", "parquet": "digits.parquet", "segments": "digits.csv"}
    return {place: folder / place / name for place, name in names.items()}


def embedded(data: TaskData, segments: str = "first") -> Embeddings:
    return embed(load_model("uamix-tiny"), data, np.arange(60), segments=segments, cache=False)  # type: ignore[arg-type]


@pytest.mark.usefixtures("bench_home")
def test_the_same_embeddings_episodes_and_predictions(digits: dict[str, Path]) -> None:
    data = {place: load_task(str(path), clip_seconds=0.4) for place, path in digits.items()}
    assert {(one.name, one.clips_sha256) for one in data.values()} == {("local/digits", data["files"].clips_sha256)}
    for segments in ("first", "mean"):
        of_files, of_rows, of_segments = (embedded(data[place], segments) for place in ("files", "parquet", "segments"))
        np.testing.assert_array_equal(of_rows.vectors, of_files.vectors)
        np.testing.assert_array_equal(of_segments.vectors, of_files.vectors)
        assert len(np.unique(of_files.vectors, axis=0)) == 60
    assert of_rows.keys == of_files.keys
    assert len({*of_files.keys, *of_segments.keys}) == 120
    for protocol in PROTOCOLS:
        results = [fewshot(load_model("uamix-tiny"), data[place], protocol) for place in digits]
        for one in results[1:]:
            assert one.episodes == results[0].episodes
            assert (one.score, one.per_class) == (results[0].score, results[0].per_class)
        assert results[0].id == results[1].id  # the rows are the files
        assert results[0].id != results[2].id  # segments are other bytes, and the record says so
        drawn = draw_episodes(data["files"], protocol)
        chosen = [
            classify("nearest-centroid", found.vectors[drawn.clips], *drawn.compact())[2]
            for found in (of_files, of_rows, of_segments)
        ]
        assert all((one == chosen[0]).all() for one in chosen)


@pytest.mark.parametrize("place", ["parquet", "segments"])
def test_a_worker_reads_them_too(
    digits: dict[str, Path], place: str, tmp_path: Path, bench_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(digits[place].parent)
    data, model = load_task(f"./{digits[place].name}"), load_model("uamix-tiny")
    plans, stores = [plan_task(data, PROTOCOLS[:1])], [ResultStore(tmp_path / "results")]
    ahead = embed_ahead(Local("cpu"), [(0, model)], plans, stores)
    assert ahead[0, 0].clips == len(draw_episodes(data, PROTOCOLS[0]).clips)
    found = embed(model, data, draw_episodes(data, PROTOCOLS[0]).clips)
    assert found.embedded_clips == 0
    np.testing.assert_allclose(
        found.vectors, embedded(data).vectors[draw_episodes(data, PROTOCOLS[0]).clips], atol=1e-5
    )


@pytest.mark.usefixtures("bench_home")
def test_copies_silence_and_broken_ones_are_seen_in_segments_and_rows(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    noise = np.random.default_rng(0).normal(scale=0.1, size=8_000)
    noise[4_000:6_000] = 0.0
    soundfile.write(tmp_path / "a.wav", noise, 8_000)
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    lines = ["path,start,end,label", "a.wav,0,0.25,x", "b.wav,0,0.25,x", "a.wav,0.5,0.75,y", "a.wav,0.75,1,y"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    data = load_task(str(tmp_path / "list.csv"))
    rows = np.arange(4)
    assert data.table["clip"].tolist() == ["a.wav#t=0,0.25", "a.wav#t=0.5,0.75", "a.wav#t=0.75,1", "b.wav#t=0,0.25"]
    assert data.first_copies(rows).tolist() == [0, 1, 2, 0]  # type: ignore[union-attr]
    assert len(set(data.group_copies().table["group"])) == 1  # by the copy, both files
    found = embed(load_model("logmel"), data, rows)
    assert found.silent.tolist() == [False, True, False, False]
    (tmp_path / "b.wav").write_bytes((tmp_path / "b.wav").read_bytes()[:2_000])
    with pytest.raises(BadInputError, match=r"b\.wav from 0 to 0.25 s: is truncated.*--keep-going"):
        embed(load_model("logmel"), data, rows)
    aside = embed(load_model("logmel"), data, rows, keep_going=True)
    assert [clip for clip, _ in aside.skipped] == ["b.wav#t=0,0.25"]

    content = (tmp_path / "a.wav").read_bytes()
    table = {"audio": [content, content, content[:2_000]], "label": ["x", "x", "y"]}
    pq.write_table(pa.table(table), tmp_path / "set.parquet")
    data = load_task(str(tmp_path / "set.parquet"))
    assert data.first_copies(rows[:3]).tolist() == [0, 0, 2]  # type: ignore[union-attr]
    with pytest.raises(BadInputError, match=r"set\.parquet row 2: is truncated.*--keep-going"):
        embed(load_model("logmel"), data, rows[:3])
