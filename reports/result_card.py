"""Card of one result on the leaderboard: its provenance, and the command that repeats it."""

from __future__ import annotations

from uamix_bench.plugins.card import trained_on
from uamix_bench.records.repeat import repeat_command
from uamix_bench.records.results import Result
from uamix_bench.reports.blocks import Code, Facts, Section, count
from uamix_bench.reports.board import Board, why_apart
from uamix_bench.util.text import listed, plus_minus

_INTERVALS = {"episodes": "these clips", "clips": "new clips of these classes", "classes": "new classes too"}


def drawer_id(result: Result) -> str:
    """Id of a result's drawer on the page."""
    return f"r-{result.id[:16]}"


def drawers(table: Board) -> list[Section]:
    """Drawers with the provenance of each result, opened by the links of its scores."""
    labels = {entrant.identity: entrant.label for entrant in table.entrants}
    return [drawer(result, labels[result.model]) for result in table.results]


def drawer(result: Result, label: str) -> Section:
    """Drawer with the provenance of a result; `label` is the name of its model on the leaderboard."""
    task, protocol = result.task, result.protocol
    title = f"{label} on {task.label}, {protocol.cell}"
    facts = {**_outcome(result), **_evaluated(result), **_run(result), "result": result.id}
    command = Code(repeat_command(result), "To repeat it")
    return Section(title, [Facts(facts), command], id=drawer_id(result), look="drawer")


def _outcome(result: Result) -> dict[str, object]:
    score, health = result.score, result.health
    facts: dict[str, object] = {"accuracy": f"{100 * score.accuracy:.2f}%"}
    for name, of in _INTERVALS.items():
        interval = getattr(score.intervals, name)
        reason = interval.reason or "all episodes are alike"
        facts[f"95%, {of}"] = plus_minus(interval.half_width or None) or f"not given: {reason}"
    return {
        **facts,
        "status": _status(result),
        "notes": "; ".join(result.status.notes),
        "embeddings": ": ".join(filter(None, [health.verdict, "; ".join(health.notes)])),
    }


def _status(result: Result) -> str:
    if result.status.complete:
        return "complete"
    if not result.cell():
        return f"not ranked: {why_apart(result)}"
    skipped = result.status.skipped
    clips = listed([f"{one.clip} ({one.reason})" for one in skipped])
    return f"compared only with results without the same {count(len(skipped), 'broken clip')}: {clips}"


def _evaluated(result: Result) -> dict[str, object]:
    model, task, protocol, episodes = result.model, result.task, result.protocol, result.episodes
    left_out, shared = episodes.classes_left_out, episodes.shared_group_share
    drawn = [
        f"{protocol.name}: {count(protocol.episodes, 'episode')}",
        f"{count(protocol.n_query, 'query', 'queries')} a class",
        protocol.scored_by,
        f"seed {protocol.seed}",
        *protocol.differences("name", "n_query", "episodes", "seed", "classifier", "template", "neighbors"),
    ]
    return {
        "weights": f"SHA-256 {model.weights_sha256}" if model.weights_sha256 else "none",
        "code": model.source_sha256 and f"SHA-256 {model.source_sha256}",
        "adapter": f"{model.adapter_version}, input {model.input}, pooling {model.pooling}, {model.dtype}"
        + (f", layer {model.layer}" if model.layer else ""),
        "repository": model.repository,
        "arguments": ", ".join(model.arguments),
        "recipe": model.recipe_sha256,
        "licence": model.licence,
        "pre-trained on": trained_on(model.pretrained_on),
        "overlap with the task": result.overlap_known.words,
        "clips": f"{task.clips:,} in {count(task.classes, 'class', 'classes')}, cut at {task.clip_seconds:g} s; "
        f"table {task.clips_sha256[:16]}, sounds {(result.provenance.content_sha256 or 'not recorded')[:16]}",
        "protocol": ", ".join(drawn),
        "class names": listed(
            [f"{name} ({label})" if name != label else name for label, name in result.names.items()], 20
        ),
        "episodes": f"{episodes.algorithm}, digest {episodes.digest[:16]}"
        + (f", {count(left_out, 'class', 'classes')} left out" if left_out else ""),
        "queries of a support's group": None if shared is None else f"{shared:.1%}",
    }


def _run(result: Result) -> dict[str, object]:
    run, cost = result.provenance, result.cost
    revision = f" at {run.revision}" if run.git_revision else ""
    packages = ", ".join(f"{name} {version}" for name, version in run.packages.items())
    return {
        "cost": f"{cost.embedded_clips:,} clips embedded in {cost.embed_s:,.1f} s, episodes {cost.episodes_s:.2f} s",
        "embeddings made earlier": "; ".join(
            f"{one.clips / one.seconds:,.1f} clips/s on {one.device} ({one.clips:,} clips in {one.seconds:,.1f} s)"
            for one in cost.earlier
        ),
        "device": f"{run.device}, {run.platform}",
        "software": f"uamix-bench {run.package}{revision}, Python {run.python}, {packages}",
        "started": run.started_at,
        "command": run.command,
    }
