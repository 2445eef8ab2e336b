"""Provenance of a record, in words that all reports share."""

from __future__ import annotations

from uamix_bench.records.record import Provenance


def facts(run: Provenance) -> dict[str, str]:
    """Device, time and versions of a run, by name; its command stands apart, to be copied."""
    return {"device": run.device, "started": run.started_at, "package": f"{run.package}, revision {run.revision}"}
