"""Other forms of results, read back by the readers that they are for."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from uamix_bench.records.export import frame, to_csv, to_eval_results, to_latex, to_model_index
from uamix_bench.records.mteb import META, to_mteb
from uamix_bench.records.results import Result
from uamix_bench.util.errors import UsageError
from uamix_bench.util.latex import escape

from ..sample_records import few_shot


def of(part: str, **changes: Any) -> Result:
    return few_shot(**{part: getattr(few_shot(), part).model_copy(update=changes)})


MORE = "2-queries-3-episodes"  # what the sample's setting has besides ways and shots
HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0"]


def test_the_table_has_a_row_a_result() -> None:
    table = frame([few_shot(), of("protocol", seed=1)])
    assert table[["model", "task", "n_way", "k_shot", "seed"]].to_numpy().tolist() == [
        ["m", "t", 2, 1, 0],
        ["m", "t", 2, 1, 1],
    ]
    assert table["accuracy"].tolist() == [pytest.approx(8 / 12)] * 2
    assert list(frame([]).columns) == list(table.columns)


def test_no_cell_of_the_csv_is_a_formula() -> None:
    results = [of("model", licence=text) for text in HOSTILE] + [of("protocol", name='a",b')]
    rows = list(csv.DictReader(io.StringIO(to_csv(results))))
    assert [row["licence"] for row in rows[:-1]] == [f"'{text}" for text in HOSTILE]
    assert rows[-1]["protocol"] == 'a",b'
    assert all(not value.startswith(tuple("=+-@\t\r")) for row in rows for value in row.values())
    assert float(rows[0]["accuracy"]) == few_shot().score.accuracy


def test_the_hub_s_own_reader_takes_the_model_index() -> None:
    text = to_model_index([few_shot(), of("protocol", k_shot=5)], {"t": "owner/benchmark"})
    document = yaml.safe_load(text)
    name, found = model_index_to_eval_results(document["model-index"])
    assert name == "m"
    assert [
        (one.task_type, one.dataset_type, one.dataset_config, one.metric_type, one.metric_value) for one in found
    ] == [
        ("audio-classification", "owner/benchmark", f"2-way-{shots}-shot-{MORE}", "accuracy", 66.67) for shots in (1, 5)
    ]
    assert ModelCardData(**document, ignore_metadata_errors=False).eval_results == found


def test_eval_results_hold_what_the_hub_requires() -> None:
    (entry,) = yaml.safe_load(to_eval_results([few_shot()], {"t": "owner/benchmark"}))
    assert entry["dataset"] == {"id": "owner/benchmark", "task_id": f"2-way-1-shot-{MORE}"}
    assert entry["value"] == 66.67
    assert isinstance(entry["date"], str)
    with pytest.raises(UsageError, match="--hub-dataset t=OWNER/NAME"):
        to_eval_results([few_shot()], {})
    for form in (to_eval_results, to_model_index):
        with pytest.raises(UsageError, match="a, m: are several models"):
            form([few_shot(), of("model", name="a")], {"t": "owner/benchmark"})


def test_latex_is_a_booktabs_table_of_escaped_text() -> None:
    text = to_latex([few_shot(), of("model", name="a_b"), of("protocol", k_shot=5), of("task", name="x_y")])
    assert text.startswith("\\begin{tabular}{lrrr}\n\\toprule\n")
    assert "\\bottomrule\n\\end{tabular}\n" in text
    assert text.rstrip().endswith("It is not known whether the model was trained on data of this task.")
    assert "a\\_b & 66.67 $\\pm$ " in text
    assert "x\\_y@1" in text
    assert escape('\\input{a}%$&#_^~<|>"') == (
        r"\textbackslash{}input\{a\}\%\$\&\#\_\textasciicircum{}\textasciitilde{}\textless{}\textbar{}\textgreater{}\textquotedbl{}"
    )
    with pytest.raises(UsageError, match="would share a cell"):
        to_latex([few_shot(), few_shot((3, 4, 2))])


def test_results_of_other_settings_models_or_clips_share_no_column_row_or_cell() -> None:
    plain, other = few_shot(), few_shot().model.model_copy(update={"name": "n"})
    protocol = plain.protocol.model_copy(update={"classifier": "knn", "seed": 7, "segments": "mean"})
    text = to_latex([plain, few_shot(model=other, protocol=protocol)])
    assert "2-way 1-shot, 2 queries, 3 episodes, seed 7, knn, segments mean" in text
    assert "n &  & 66.67" in text
    weights = plain.model.model_copy(update={"weights_sha256": "1" * 64})
    text = to_latex([plain, few_shot(model=weights, task=plain.task.model_copy(update={"name": "u"}))])
    assert "m 000000 & 66.67" in text
    assert "m 111111 &  & 66.67" in text
    clips = plain.task.model_copy(update={"clip_seconds": 1.0})
    with pytest.raises(UsageError, match="of other clips, sounds or episodes"):
        to_latex([plain, few_shot(model=other, task=clips)])
    pooled = few_shot(
        model=plain.model.model_copy(update={"pooling": "cls"}), task=plain.task.model_copy(update={"name": "u"})
    )
    with pytest.raises(UsageError, match="several models have this name and these weights"):
        to_mteb([plain, pooled])
    for form in (to_eval_results, to_model_index):
        with pytest.raises(UsageError, match="m cls, m mean: are several models"):
            form([plain, pooled], {"t": "o/t", "u": "o/u"})
    table = frame([plain, few_shot(protocol=protocol, task=clips)])
    assert table[["segments", "clip_seconds"]].to_numpy().tolist() == [["first", 2.0], ["mean", 1.0]]


def test_a_partial_result_is_in_the_table_alone_which_says_so() -> None:
    status = few_shot().status.model_copy(update={"complete": False, "partial": "lacks 2 clips"})
    partial = few_shot(status=status)
    assert frame([partial])[["complete", "partial"]].to_numpy().tolist() == [[False, "lacks 2 clips"]]
    for form in (to_latex, to_mteb, lambda results: to_eval_results(results, {"t": "o/t"})):
        with pytest.raises(UsageError, match="is partial"):
            form([partial])


def test_overlap_with_the_training_data_is_marked_in_every_form() -> None:
    task = few_shot().task.model_copy(update={"name": "esc50"})
    trained = few_shot(task=task, model=few_shot().model.model_copy(update={"pretrained_on": ("ashraq/esc50",)}))
    assert frame([trained])[["overlap", "overlap_reason"]].to_numpy().tolist() == [["overlaps", "trained on ESC-50"]]
    text = to_latex([trained])
    assert "66.67 $\\pm$ 35.28 \\dag{}" in text
    assert "\\dag{} The model was trained on data of this task" in text
    said = "overlap with the training data overlaps: trained on ESC-50"
    (entry,) = yaml.safe_load(to_eval_results([trained], {"esc50": "o/t"}))
    assert said in entry["notes"]
    assert said in " ".join(to_model_index([trained], {}).split())


def test_results_on_other_classes_never_share_a_column_or_a_setting() -> None:
    whole = few_shot()
    swept = Result.create(
        **{
            name: getattr(whole, name)
            for name in type(whole).model_fields
            if name not in ("id", "task", "episodes", "model")
        },
        model=whole.model.model_copy(update={"name": "n"}),
        task=whole.task.model_copy(update={"classes": whole.task.classes + 3}),
        episodes=whole.episodes.model_copy(update={"classes_left_out": 3}),
    )
    drawn, classes = whole.task.classes, whole.task.classes + 3
    heads = (
        f" & 2-way 1-shot, 2 queries, 3 episodes & 2-way 1-shot, {drawn} of {classes} classes, 2 queries, 3 episodes "
    )
    assert heads in to_latex([whole, swept])
    assert frame([whole, swept])[["classes", "classes_left_out"]].to_numpy().tolist() == [[drawn, 0], [classes, 3]]
    (path,) = [path for path in to_mteb([swept]) if not path.endswith(META)]
    assert path.endswith(f"/t-2-way-1-shot-{drawn}-of-{classes}-classes-{MORE}.json")
    (entry,) = yaml.safe_load(to_eval_results([swept], {"t": "o/t"}))
    assert entry["dataset"]["task_id"] == f"2-way-1-shot-{drawn}-of-{classes}-classes-{MORE}"
