"""Survey of sounds on the terminal, and the first command that they allow."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uamix_bench.cli.errors import Session
    from uamix_bench.data.survey import Survey
    from uamix_bench.data.task import TaskData
    from uamix_bench.util.progress import Progress

_SHOTS = (1, 5, 10, 20)
_QUERIES = 15  # the paper's
_WAYS = 5
_NAMED = 5  # clips in one line
_CLASSES = 20  # in the table; --json has all


def facts(found: Survey, data: TaskData, words: Sequence[str]) -> dict[str, Any]:
    """Survey as plain data, with the largest settings that every class serves and a first command.

    Args:
        found: Survey of the sounds.
        data: Their clip table.
        words: Options by which a command line finds them.
    """
    sounds = found.sounds
    return {
        "task": data.name,
        "version": data.card.version,
        "root": str(data.root),
        "clip_seconds": data.card.clip_seconds,
        "clips": found.clips,
        "classes": {label: size._asdict() for label, size in found.classes.items()},
        "splits": found.splits,
        "groups": found.groups,
        "sounds": None if sounds is None else {
            **sounds._asdict(),
            "broken": [{"clip": clip, "reason": reason} for clip, _, reason in sounds.broken],
            "equal": [{"clips": clips, "labels": labels} for clips, labels in sounds.equal],
        },
        "unread": [{"clip": clip, "reason": reason} for clip, reason in found.unread],
        "notes": list(found.remarks),
        "largest": {
            "n": len(found.classes),
            "k": max(found.fewest - _QUERIES, 0),
            "k_with_one_query": max(found.fewest - 1, 0),
        },
        "first_command": first_command(found, data, words),
    }  # fmt: skip


def first_command(found: Survey, data: TaskData, words: Sequence[str]) -> str | None:
    """Command line of a first evaluation that these clips allow; None if there is none."""
    sizes = sorted((size for size in found.usable.values() if size > 1), reverse=True)
    if len(sizes) < 2:
        return None
    ways = min(_WAYS, len(sizes))
    fewest = sizes[-1]
    most = fewest - _QUERIES if fewest >= _QUERIES + _SHOTS[1] else max(2 * fewest // 3, 1)
    shots = [shot for shot in _SHOTS if shot <= most]
    queries = min(_QUERIES, fewest - shots[-1])
    words = ["uamix-bench", "fewshot", "--model", "uamix,logmel", *words]
    words += ["--n", str(ways), "--k", ",".join(map(str, shots))]
    words += ["--q", str(queries)] if queries != _QUERIES else []
    words += ["--keep-going"] if found.unread or (found.sounds and found.sounds.broken) else []
    related = found.groups is not None or (found.sounds is not None and found.sounds.equal)
    words += ["--group-disjoint"] if related and _parts(data, ways, max(shots), queries) else []
    return shlex.join(words)


def plan_sounds(session: Session, tasks: Sequence[TaskData], progress: Progress) -> None:
    """Adds to a dry run what the tasks that are own sounds hold. Sounds are read, and nothing is written."""
    from uamix_bench.cli.tables import show_card
    from uamix_bench.data.survey import survey

    for data in tasks:
        if data.name.startswith("local/"):
            held = facts(survey(data, memo=False, progress=progress), data, [])
            held.pop("first_command")
            session.facts.setdefault("sounds", []).append(held)
            if not session.json:
                print()
                show_card({"sounds": held["task"], **_table_lines(held)})


def show(document: Mapping[str, Any]) -> None:
    """Prints what was found."""
    from uamix_bench.cli.tables import Table, count, show as show_table, show_card

    sounds = document["sounds"]
    classes: Mapping[str, Mapping[str, Any]] = document["classes"]
    table = Table("class", "clips>", *(("seconds>",) if sounds else ()), wrapped=("class",))
    for label, size in list(classes.items())[:_CLASSES]:
        table.add(label, count(size["clips"]), *((f"{size['seconds']:,.1f}",) if sounds else ()))
    show_table(table)
    if len(classes) > _CLASSES:
        print(f"and {count(len(classes) - _CLASSES)} more classes")
    print()
    show_card(_table_lines(document))
    command = document["first_command"]
    print(f"\nfirst command:\n{command}" if command else "\nno evaluation: it takes two classes of two clips or more")


def _table_lines(document: Mapping[str, Any]) -> dict[str, Any]:
    """Facts on the whole table, by name; empty ones are left out."""
    from uamix_bench.cli.tables import count

    sounds, largest = document["sounds"], document["largest"]
    shots = f"--k up to {largest['k']} with {_QUERIES} queries, " if largest["k"] else ""
    serves = f"--n up to {count(largest['n'])}, {shots}--k up to {largest['k_with_one_query']} with one"
    return {
        "clips": count(document["clips"]),
        **(_sound_lines(sounds, document["clip_seconds"]) if sounds else {}),
        "splits": ", ".join(f"{name} {count(clips)}" for name, clips in document["splits"].items()),
        "groups": count(document["groups"]),
        "formats not read": _some([one["clip"] for one in document["unread"]]),
        "notes": document["notes"],
        "every class serves": serves if largest["k_with_one_query"] else "nothing: a class has fewer than two clips",
    }


def _sound_lines(sounds: Mapping[str, Any], clip_seconds: float) -> dict[str, Any]:
    from uamix_bench.cli.tables import count

    lengths = sounds["lengths_s"]
    least, middle, most = lengths or (0.0, 0.0, 0.0)
    cut = f"; {count(sounds['cut'])} are cut at {clip_seconds:g} s" if sounds["cut"] else ""
    copies = [_equal(one["clips"], one["labels"]) for one in sounds["equal"]]
    return {
        "lengths": f"{least:.2f} to {most:.2f} s, median {middle:.2f} s{cut}" if lengths else None,
        "sample rates": ", ".join(f"{rate:,} Hz: {count(clips)}" for rate, clips in sounds["rates"].items()),
        "channels": ", ".join(f"{number}: {count(clips)}" for number, clips in sounds["channels"].items()),
        "silent": _some(sounds["silent"]),
        "broken": [f"{one['clip']}: {one['reason']}" for one in sounds["broken"][:_NAMED]] + _more(sounds["broken"]),
        "equal": copies[:_NAMED] + _more(copies),
    }


def _equal(clips: Sequence[str], labels: Sequence[str]) -> str:
    """Clips of equal content, with their labels if these differ."""
    return " = ".join(clips[:3]) + (f" (as {' and '.join(labels)})" if len(labels) > 1 else "")


def _some(names: Any) -> str:
    """Number of names, and the first of them; empty without any."""
    from uamix_bench.util.text import listed

    return f"{len(names):,}: {listed(list(names), _NAMED)}" if names else ""


def _more(found: Any) -> list[str]:
    return [f"and {len(found) - _NAMED:,} more"] if len(found) > _NAMED else []


def _parts(data: TaskData, ways: int, shots: int, queries: int) -> bool:
    """Test for episodes that can be drawn with no group on both sides."""
    from uamix_bench.evaluation.earlier import draw_tables
    from uamix_bench.evaluation.plan import draw_episodes
    from uamix_bench.scoring.protocol import Protocol
    from uamix_bench.util.errors import UsageError

    protocol = Protocol(n_way=ways, k_shot=shots, n_query=queries, group_disjoint=True)
    try:
        draw_episodes(draw_tables(data, [protocol])[0], protocol)
    except UsageError:
        return False
    return True
