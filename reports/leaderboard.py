"""The leaderboard: a static site of few-shot results, that opens from disk. One index, and a page of classes a column."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from uamix_bench.reports import figures
from uamix_bench.reports.board import Board, Column, Entrant, Setting, Standing, board, task_label
from uamix_bench.reports.latex import booktabs
from uamix_bench.reports.page import (
    Block,
    Cell,
    Code,
    Facts,
    Figure,
    Page,
    Prose,
    Row,
    Section,
    Table,
    percent,
    render,
    slug,
)
from uamix_bench.reports.published import Published, PublishedRow, PublishedTable, published

from uamix_bench import registry
from uamix_bench.errors import UsageError
from uamix_bench.results import Result

_OVERLAP = "†"
_INTERVALS = {"ci95": "these clips", "ci95_clips": "new clips of these classes", "ci95_classes": "new classes too"}


def leaderboard(records: Iterable[Any], *, title: str = "Few-shot audio leaderboard") -> Page:
    """Renders the site.

    Args:
        records: Of any kind; those of few-shot evaluations are shown.
        title: Of the index.

    Raises:
        UsageError: There is no few-shot result among the records.
    """
    results = [record for record in records if isinstance(record, Result)]
    if not results:
        raise UsageError("leaderboard", "no few-shot result among the records", "run 'uamix-bench fewshot' first")
    table, papers = board(results), published()
    index = render(
        title,
        [
            Section("Accuracy", [_setting(table, setting, papers) for setting in _main_first(table)], id="settings"),
            *_more(table),
            _reading(table, papers),
            Section("Published figures", list(_published(papers)), id="published"),
            Section("All results", [_drawer(table, one) for one in table.results], id="results"),
        ],
        lead=_lead(table),
        footer="Made by uamix-bench. Published figures are their authors' own; all others can be recomputed from the "
        "result files.",
        scripts=["leaderboard.js"],
    )
    files = {
        _class_file(setting, column): _classes(setting, column).html
        for setting in table.settings
        for column in setting.columns
    }
    return Page(index.title, index.html, index.markdown, files)


def _lead(table: Board) -> str:
    newest = max(result.provenance.started_at for result in table.results)[:10]
    text = (
        f"{_count(len(table.entrants), 'model')} on {_count(len(table.tasks), 'task')} at "
        f"{_count(len(table.settings), 'setting')}: {_count(len(table.results), 'result')}, the newest of {newest}."
    )
    if table.superseded:
        text += f" {_count(table.superseded, 'older result')} of the same evaluation left out."
    return text


def _main_first(table: Board) -> list[Setting]:
    first = table.main()
    return [first, *(setting for setting in table.settings if setting is not first)]


# --- one setting


def _setting(table: Board, setting: Setting, papers: Published) -> Section:
    shown = _score_table(setting, papers)
    data = {"way": str(setting.protocol.n_way), "shot": str(setting.protocol.k_shot), "remarks": setting.remarks}
    blocks: list[Block] = [shown]
    if setting.standings:
        blocks += [_forest(setting), *_against_cost(setting)]
    blocks.append(Section("Copy this table", list(_copies(setting, shown)), look="folded"))
    return Section(setting.title, blocks, id=setting.id, data=data)


def _score_table(setting: Setting, papers: Published) -> Table:
    several = len(setting.columns) > 1
    columns = [
        "model",
        "rank>",
        *(["mean>"] if several else []),
        *(
            Cell(f"{column.label}>", note=f"{column.classes:,} classes", href=_class_file(setting, column))
            for column in setting.columns
        ),
        "parameters>",
        "clips/s>",
        "pre-trained on",
    ]
    tests = len(setting.ranking.differences)
    notes = [
        "Each accuracy opens what it comes from. ± is the half-width of the conventional 95% interval, of these clips.",
        f"Bold: the best of a column. Underlined: cannot be told from it (paired t on the same episodes, 5%, Holm over "
        f"the {_count(tests, 'pair')} of this table). Rank: the places a model may have by its mean, Holm over all pairs."
        if tests
        else "",
    ]
    if any(_overlaps(row.entrant, column) for row in setting.standings for column in setting.columns):
        notes.append(f"{_OVERLAP} The model was pre-trained on data of this task.")
    groups = {}
    if setting.apart:
        rows = [_row(setting, Standing(entrant, row), several) for entrant, row in setting.apart]
        groups["Partial or limited, never ranked"] = rows
    for known, rows in _published_here(setting, papers):
        heading = f"Published, not measured here: {known.title.partition(':')[0]}"
        groups[heading] = [_published_row(setting, row, several) for row in rows]
    rows = [_row(setting, standing, several) for standing in setting.standings]
    caption = f"Accuracy in per cent: {_protocol_words(setting)}"
    return Table(columns, rows, caption, "\n\n".join(filter(None, notes)), groups)


def _protocol_words(setting: Setting) -> str:
    protocol = setting.protocol
    words = [
        f"{protocol.episodes:,} episodes of {protocol.n_way} classes",
        f"{_count(protocol.k_shot, 'support')} and {_count(protocol.n_query, 'query', 'queries')} a class",
        protocol.classifier.replace("-", " "),
        f"seed {protocol.seed}",
    ]
    words += ["group-disjoint"] * protocol.group_disjoint + ["mean of all segments"] * (protocol.segments == "mean")
    return ", ".join(words)


def _row(setting: Setting, standing: Standing, several: bool) -> Row:
    entrant = standing.entrant
    if standing.ranks is None:
        rank, mean = Cell(""), Cell("", note=f"{len(standing.results)} of {len(setting.columns)} tasks, not ranked")
        if len(standing.results) == len(setting.columns):
            mean = Cell("", note="not ranked")
    else:
        low, high = standing.ranks
        rank = Cell(f"{low}" if low == high else f"{low} to {high}", sort=-(low + high) / 2)
        mean = percent(standing.mean, standing.half_width)
    speed = entrant.speed
    return (
        Cell(entrant.label),
        rank,
        *((mean,) if several else ()),
        *(_score(setting, entrant, column, standing.results.get(column.label)) for column in setting.columns),
        Cell(_millions(entrant.identity.parameters), sort=entrant.identity.parameters),
        Cell("") if speed is None else Cell(_rate(speed.clips_per_s), sort=speed.clips_per_s),
        Cell(", ".join(entrant.identity.pretrained_on) or "nothing", mark="faint"),
    )


def _score(setting: Setting, entrant: Entrant, column: Column, result: Result | None) -> Cell:
    if result is None:
        return Cell("")
    best, alike = result.id in setting.ranking.best, result.id in setting.ranking.alike
    cell = percent(
        result.score.accuracy,
        result.score.ci95,
        mark="best" if best else "tie" if alike else "",
        href=f"#{_drawer_id(result)}",
        note="" if result.status.complete else _why_apart(result),
    )
    if _overlaps(entrant, column):
        cell = Cell(cell.text, f"{cell.minor} {_OVERLAP}", cell.sort, cell.mark, cell.href, cell.note)
    return cell


def _why_apart(result: Result) -> str:
    if result.status.skipped:
        return f"{_count(len(result.status.skipped), 'clip')} left out"
    limited = any(note.startswith("--limit") for note in result.status.notes)
    return "a part of each class" if limited else "an incomplete copy"


def _published_here(setting: Setting, papers: Published) -> Iterator[tuple[PublishedTable, list[PublishedRow]]]:
    """The rows published for these ways and shots on one of these tasks; of equal ones the first."""
    tasks = {column.name for column in setting.columns}
    seen = set()
    for table in papers.tables:
        if setting.remarks or (table.n_way, table.k_shot) != (setting.protocol.n_way, setting.protocol.k_shot):
            continue
        rows = []
        for row in table.rows:
            said = (row.model, tuple(sorted((task, values[0]) for task, values in row.accuracy.items())))
            if tasks & set(row.accuracy) and said not in seen:
                seen.add(said)
                rows.append(row)
        if rows:
            yield table, rows


def _published_row(setting: Setting, row: PublishedRow, several: bool) -> Row:
    return (
        Cell(row.label),
        "",
        *(("",) if several else ()),
        *(row.cell(column.name) for column in setting.columns),
        Cell(f"{row.trained} trained" if row.trained else ""),
        "",
        "",
    )


def _forest(setting: Setting) -> Figure:
    rows = setting.standings
    panels = {}
    for column in setting.columns:
        scores = [row.results[column.label].score if column.label in row.results else None for row in rows]
        panels[column.label] = (
            [100 * score.accuracy if score else np.nan for score in scores],
            [100 * score.ci95 if score and score.ci95 is not None else np.nan for score in scores],
        )
    return figures.forest(
        f"Accuracy and its 95% interval, {setting.title}",
        [row.entrant.label for row in rows],
        panels,
        x_label="accuracy in %",
        description=f"Accuracies with their 95% intervals at {setting.title}, one row a model, one panel a task. "
        + _best_words(setting),
    )


def _best_words(setting: Setting) -> str:
    words = []
    for column in setting.columns:
        held = [
            (row.results[column.label].score.accuracy, row.entrant.label)
            for row in setting.standings
            if column.label in row.results
        ]
        if held:
            accuracy, label = max(held)
            words.append(f"On {column.label} the highest is {label} with {100 * accuracy:.1f}%.")
    return " ".join(words)


def _against_cost(setting: Setting) -> Iterator[Figure]:
    """Accuracy against speed, of the models that are ranked and were timed."""
    timed = [row for row in setting.standings if row.mean is not None and row.entrant.speed is not None]
    if len(timed) < 2:
        return
    speeds = [row.entrant.speed for row in timed if row.entrant.speed]
    devices = sorted({speed.device for speed in speeds})
    named = {device: f" ({at})" for at, device in enumerate(devices, 1)} if len(devices) > 1 else {}
    where = "; ".join(f"{mark.strip()} {device}" for device, mark in named.items()) or devices[0]
    what = "mean accuracy in %" if len(setting.columns) > 1 else "accuracy in %"
    yield figures.scatter(
        f"Accuracy against cost, {setting.title}",
        [row.entrant.label + named.get(speed.device, "") for row, speed in zip(timed, speeds, strict=True)],
        [speed.clips_per_s for speed in speeds],
        [100 * (row.mean or 0.0) for row in timed],
        half=[100 * row.half_width if row.half_width is not None else np.nan for row in timed],
        x_label="clips embedded per second",
        y_label=what,
        description=f"{what.capitalize()} over embedding speed; further right is faster, higher is better. Timed on {where}.",
        log_x=True,
    )


def _copies(setting: Setting, table: Table) -> Iterator[Code]:
    plain = render(setting.title, [table]).markdown.partition("\n\n")[2]
    yield Code(plain, "Markdown")
    yield Code(booktabs(table), "LaTeX (booktabs)")
    yield Code("\n\n".join(_citations(setting)), "BibTeX")


def _citations(setting: Setting) -> list[str]:
    """The entries of the cards of the models and tasks of a table, each once."""
    cards = [_model_card(row.entrant.identity.name) for row in setting.standings]
    cards += [
        registry.tasks()[column.name].card if column.name in registry.tasks() else None for column in setting.columns
    ]
    cards.append(registry.models()["uamix"].card if "uamix" in registry.models() else None)
    return list(dict.fromkeys(card.citation.strip() for card in cards if card is not None and card.citation))


def _model_card(name: str) -> Any:
    """The card of a registered model or of bundled weights; None for a name that is a user's own."""
    if name in registry.models():
        return registry.models()[name].card
    plugin = registry.bundled_weights().get(name)
    return plugin[0].card if plugin else None


# --- over settings


def _more(table: Board) -> Iterator[Section]:
    blocks: list[Block] = []
    for remarks in dict.fromkeys(setting.remarks for setting in table.settings):
        alike = [setting for setting in table.settings if setting.remarks == remarks]
        for axis, fixed in (("k_shot", "n_way"), ("n_way", "k_shot")):
            if drawn := _curves(alike, axis, fixed, remarks):
                blocks.append(drawn)
    if blocks:
        yield Section("Against shots and ways", blocks, id="curves")
    if len(table.settings) > 1:
        yield Section("All settings in one table", [_wide(table)], id="all-settings", look="folded")


def _curves(settings: Sequence[Setting], axis: str, fixed: str, remarks: str) -> Figure | None:
    """Accuracy over one of ways and shots, at that value of the other that has most points, the paper's where several do."""
    lines: dict[int, list[Setting]] = {}
    for setting in settings:
        lines.setdefault(getattr(setting.protocol, fixed), []).append(setting)
    usual = {"n_way": 5, "k_shot": 1}[fixed]
    value, along = max(lines.items(), key=lambda item: (len(item[1]), item[0] == usual, -item[0]))
    if len(along) < 2:
        return None
    along = sorted(along, key=lambda setting: getattr(setting.protocol, axis))
    panels: dict[str, list[figures.Series]] = {}
    labels = dict.fromkeys(column.label for setting in along for column in setting.columns)
    entrants = dict.fromkeys(row.entrant.label for row in along[0].standings)
    entrants |= dict.fromkeys(row.entrant.label for setting in along for row in setting.standings)
    for label in labels:
        for entrant in entrants:
            points = [
                (getattr(setting.protocol, axis), row.results[label].score)
                for setting in along
                for row in setting.standings
                if row.entrant.label == entrant and label in row.results
            ]
            if points:
                x, scores = zip(*points, strict=True)
                half = [100 * (score.ci95 or 0.0) for score in scores]
                panels.setdefault(label, []).append(
                    figures.Series(entrant, x, [100 * s.accuracy for s in scores], half)
                )
    words = {"k_shot": "shots", "n_way": "ways"}[axis]
    where = f"{value}-way" if fixed == "n_way" else f"{value}-shot"
    where += f", {remarks}" if remarks else ""
    return figures.curves(
        f"Accuracy against {words}, {where}",
        panels,
        x_label=words,
        y_label="accuracy in %",
        description=f"Accuracy with its 95% band over {words} at {where}, one panel a task, one line a model.",
        x_ticks=sorted({getattr(setting.protocol, axis) for setting in along}),
        log_x=axis == "k_shot",
    )


def _wide(table: Board) -> Table:
    columns = [(setting, column) for setting in table.settings for column in setting.columns]
    found = {
        (row.entrant.label, setting.id, label): result
        for setting in table.settings
        for row in setting.standings
        for label, result in row.results.items()
    }
    rows = []
    for entrant in table.entrants:
        cells = [found.get((entrant.label, setting.id, column.label)) for setting, column in columns]
        if any(cells):
            shown = [
                percent(one.score.accuracy, one.score.ci95, href=f"#{_drawer_id(one)}") if one else "" for one in cells
            ]
            rows.append((entrant.label, *shown))
    headings = [Cell(f"{column.label}>", note=setting.title) for setting, column in columns]
    return Table(["model", *headings], rows, "Accuracy in per cent ± half-width of the 95% interval")


# --- one result


def _drawer_id(result: Result) -> str:
    return f"r-{result.id[:16]}"


def _drawer(table: Board, result: Result) -> Section:
    model, task, protocol, episodes, run = (
        result.model, result.task, result.protocol, result.episodes, result.provenance
    )  # fmt: skip
    label = next(entrant.label for entrant in table.entrants if entrant.identity == model)
    score: dict[str, object] = {"accuracy": f"{100 * result.score.accuracy:.2f}%"}
    for name, of in _INTERVALS.items():
        half = getattr(result.score, name)
        reason = next((note.partition(": ")[2] for note in result.status.notes if note.startswith(f"{name}: ")), "")
        score[f"95%, {of}"] = f"± {100 * half:.2f}" if half is not None else f"not given: {reason}"
    other = [note for note in result.status.notes if not note.startswith(tuple(f"{name}: " for name in _INTERVALS))]
    cost = result.cost
    facts = {
        **score,
        "status": "complete" if result.status.complete else f"not ranked: {_why_apart(result)}",
        "notes": "; ".join(other),
        "embeddings": f"{result.health.verdict}" + (f": {'; '.join(result.health.notes)}" if result.health.notes else ""),
        "weights": f"SHA-256 {model.weights_sha256}" if model.weights_sha256 else "none",
        "adapter": f"{model.adapter_version}, input {model.input}, pooling {model.pooling}, {model.dtype}",
        "recipe": model.recipe_sha256,
        "licence": model.licence,
        "pre-trained on": ", ".join(model.pretrained_on) or "nothing",
        "clips": f"{task.clips:,} in {task.classes:,} classes, cut at {task.clip_seconds:g} s; table {task.clips_sha256[:16]}",
        "protocol": f"{protocol.name}: {protocol.episodes:,} episodes, {protocol.n_query} queries a class, "
        f"{protocol.classifier}, seed {protocol.seed}" + (", group-disjoint" if protocol.group_disjoint else ""),
        "episodes": f"{episodes.algorithm}, digest {episodes.digest[:16]}"
        + (f", {episodes.classes_left_out} classes left out" if episodes.classes_left_out else ""),
        "queries of a support's group": None if episodes.shared_group_share is None else f"{episodes.shared_group_share:.1%}",
        "cost": f"{cost.embedded_clips:,} clips embedded in {cost.embed_s:,.1f} s, episodes {cost.episodes_s:.2f} s",
        "device": f"{run.device}, {run.platform}",
        "software": f"uamix-bench {run.package}" + (f" at {run.git_revision[:12]}" if run.git_revision else "")
        + (" with changes" if run.git_dirty else "") + f", Python {run.python}, "
        + ", ".join(f"{name} {version}" for name, version in run.packages.items()),
        "started": run.started_at,
        "result": result.id,
    }  # fmt: skip
    command = Code(repeat_command(result), "To repeat it")
    title = f"{label} on {task_label(task.name, task.version)}, {protocol.n_way}-way {protocol.k_shot}-shot"
    return Section(title, [Facts(facts), command], id=_drawer_id(result), look="drawer")


def repeat_command(result: Result) -> str:
    """The command line that evaluates a result's cell again, every word of it quoted for a shell.

    A user's own weights and data are no part of a record: a placeholder says where they go.
    """
    model, task, protocol = result.model, result.task, result.protocol
    registered = registry.models().get(model.name)
    name = model.name
    if registered is None and name not in registry.bundled_weights():
        name = f"ARCHITECTURE=WEIGHTS --name {shlex.quote(name)}"
    elif registered is not None and registered.card.needs_weights:
        name = f"{shlex.quote(name)}=WEIGHTS"
    data = "FOLDER_OR_CSV" if task.name.startswith("local/") else shlex.quote(task.name)
    words = [
        f"uamix-bench fewshot --model {name} --task {data}",
        *(["--protocol metaaudio"] if protocol.name.startswith("metaaudio") else []),
        *(["--classes FILE"] if protocol.name.endswith("-classes") else []),
        f"--n {protocol.n_way} --k {protocol.k_shot} --q {protocol.n_query}",
        f"--episodes {protocol.episodes} --seed {protocol.seed} --classifier {shlex.quote(protocol.classifier)}",
        *(["--group-disjoint"] if protocol.group_disjoint else []),
        f"--input {model.input} --pooling {shlex.quote(model.pooling)} --dtype {shlex.quote(model.dtype)}",
    ]
    return " \\\n  ".join(words)


# --- the classes of one column


def _class_file(setting: Setting, column: Column) -> str:
    return f"classes-{setting.id}-{slug(column.label)}-{column.digest[:6] or 'partial'}.html"


def _classes(setting: Setting, column: Column) -> Page:
    rows = [row for row in setting.standings if column.label in row.results]
    rows += [Standing(entrant, held) for entrant, held in setting.apart if column.label in held]
    counts = [row.results[column.label].per_class for row in rows]
    labels = sorted({label for one in counts for label in one})
    body = [(label, *(_class_cell(one.get(label)) for one in counts)) for label in labels]
    table = Table(
        ["class", *(f"{row.entrant.label}>" for row in rows)],
        body,
        f"Queries answered rightly, per cent of those asked of each class, {setting.title}",
        "A query is right among the classes of its episode, so a class is easy or hard beside the others of the task.",
    )
    return render(
        f"{column.label}, {setting.title}: accuracy by class",
        [table],
        up=Cell("Leaderboard", href="index.html"),
        lead=f"{_count(len(labels), 'class', 'classes')}, {_count(len(rows), 'model')}.",
    )


def _class_cell(counts: tuple[int, int] | None) -> Cell:
    if counts is None:
        return Cell("")
    hit, total = counts
    return percent(hit / total) if total else Cell("")


# --- words


def _reading(table: Board, papers: Published) -> Section:
    slips = [slip for source in papers.sources.values() for slip in source.slips]
    return Section(
        "How to read it",
        [
            Prose(
                "Only complete results on the same clips, episodes and precision share a column. The ± of a table is the "
                "half-width of the conventional 95% interval, 1.96 x population std / sqrt(episodes): another draw of "
                "episodes from these clips. It says nothing of other clips or classes; where a result has intervals for "
                "those, its drawer shows them.\n\n"
                "A mean over tasks is shown only where every task is there. The places of a model are from pairwise tests of "
                "the means on the same episodes: from one more than the models that are significantly better, to all but "
                "those that are significantly worse.\n\n"
                "Clips per second is the embedding rate of the run that embedded most clips, on the device that the drawer "
                "names. Published figures are other people's, under protocols that may differ, and are never ranked."
            ),
            Facts({f"slip {at} of the paper": slip for at, slip in enumerate(slips, 1)}),
        ],
        id="reading",
    )


def _published(papers: Published) -> Iterator[Block]:
    for table in papers.tables:
        yield Section(table.title.split(":")[0], [papers.show(table)], id=f"published-{table.id}", look="folded")


def _overlaps(entrant: Entrant, column: Column) -> bool:
    """Whether a data set that the model learned from is named after the task, or is it."""
    names = {column.name}
    if plugin := registry.tasks().get(column.name):
        names |= {*plugin.card.aliases, plugin.card.title.split(":")[0]}
    pattern = "|".join(re.escape(re.sub(r"[^a-z0-9]", "", name.lower())) for name in names)
    return any(re.search(pattern, re.sub(r"[^a-z0-9]", "", one.lower())) for one in entrant.identity.pretrained_on)


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f}M" if parameters else "0"


def _rate(clips_per_s: float) -> str:
    return f"{clips_per_s:,.0f}" if clips_per_s >= 10 else f"{clips_per_s:.1f}"
