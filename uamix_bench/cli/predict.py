"""``uamix-bench predict``: labels of sounds by a classifier that ``fit`` wrote, as a table or CSV."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uamix_bench.cli import commands, options, selection
from uamix_bench.cli.errors import Session
from uamix_bench.util.errors import UsageError

if TYPE_CHECKING:
    from uamix_bench.evaluation.classifier import Prediction

_SHOWN = 40  # rows in a terminal; -o has all


@commands.command("predict")
@click.argument("classifier", metavar="CLASSIFIER", callback=options.to_path)
@click.argument("sounds", nargs=-1, metavar="SOUNDS...")
@click.option(
    "-m", "--model", metavar="NAME=PATH", help="Encoder of the classifier, if its weights do not come with its name."
)
@options.checkpoint
@options.trust_remote_code
@click.option("--first", is_flag=True, help="Label only the first window of each sound: what an evaluation hears.")
@options.device
@options.batch_size
@options.keep_going
@options.out("CSV of all labels: path, start_s, end_s, label, score, nearest.", metavar="FILE")
@options.of_a_run
@click.pass_obj
def command(
    session: Session,
    /,
    classifier: Path,
    sounds: tuple[str, ...],
    model: str | None,
    checkpoint: Path | None,
    trust_remote_code: bool,
    first: bool,
    device: str,
    batch_size: int,
    keep_going: bool,
    output: Path | None,
    quiet: bool,
) -> int:
    """Label sounds by a classifier that 'fit' wrote.

    SOUNDS are files, folders of them, CSVs or text lists. A sound longer than the clips fitted is labelled window by
    window. The score is the probability of the nearest class, or without a calibration the lead over the next class.
    An encoder with other weights, code or settings than those fitted with is refused.
    """
    items = session.begin("predict")
    if not sounds:
        raise UsageError("SOUNDS", "none is given", f"uamix-bench predict {classifier} a.wav folder/")
    encoder = None
    if model is not None:
        encoder = selection.one("--model", selection.models(model, checkpoint), "the encoder of a classifier")

    from uamix_bench.cli.progress import TerminalProgress
    from uamix_bench.evaluation.classifier import load_classifier
    from uamix_bench.util import files

    if output is not None:
        files.check_writable(output.absolute().parent)
    made = load_classifier(
        classifier, encoder, checkpoint=checkpoint, device=device, trust_remote_code=trust_remote_code
    )
    found = made.predict(
        sounds, windows=not first, keep_going=keep_going, batch_size=batch_size, progress=TerminalProgress(quiet)
    )
    items += [row._asdict() for row in found.rows]
    calibrated = made.facts.calibration is not None
    session.facts |= {
        "score": "probability" if calibrated else "lead over the next class",
        "skipped": [list(one) for one in found.skipped],
    }
    for path, reason in found.skipped:
        click.echo(f"skipped: {path}: {reason}", err=True)
    if output is not None:
        files.write_atomic(output, _csv(found.rows).encode())
    if not session.json:
        if output is None:
            _show(found.rows, calibrated)
        else:
            labels = ", ".join(
                f"{count:,} {label}" for label, count in Counter(r.label for r in found.rows).most_common()
            )
            print(f"{output}: {labels or 'no label'}")
        if not calibrated:
            click.echo(f"scores are no probabilities: {made.facts.uncalibrated}", err=True)
    return 6 if found.skipped else 0


def _csv(rows: Sequence[Prediction]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "start_s", "end_s", "label", "score", "nearest"))
    for row in rows:
        writer.writerow(
            (row.path, f"{row.start_s:.3f}", f"{row.end_s:.3f}", row.label, f"{row.score:.6g}", row.nearest)
        )
    return text.getvalue()


def _show(rows: Sequence[Prediction], calibrated: bool) -> None:
    from uamix_bench.cli.tables import Table, count, show

    columns = ("nearest", "probability>") if calibrated else ("lead>",)
    table = Table("sound", "from s>", "to s>", "label", *columns, wrapped=("sound",))
    for row in rows[:_SHOWN]:
        nearest = row.nearest if row.nearest != row.label else ""
        scores = (nearest, f"{row.score:.3f}") if calibrated else (f"{row.score:.3g}",)
        table.add(row.path, f"{row.start_s:.2f}", f"{row.end_s:.2f}", row.label, *scores)
    show(table)
    if any(row.nearest != row.label for row in rows[:_SHOWN]):
        print("probability: that of the nearest class, even where the sound is none of these")
    if len(rows) > _SHOWN:
        print(f"{count(_SHOWN)} of {count(len(rows))} are shown; -o FILE.csv has all")
