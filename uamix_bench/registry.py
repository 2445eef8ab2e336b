"""The documented import path of `uamix_bench.plugins.registry`."""

from uamix_bench.plugins.registry import (
    Plugin as Plugin,
    RenderedPage as RenderedPage,
    Report as Report,
    find_model as find_model,
    find_report as find_report,
    find_task as find_task,
    from_file as from_file,
    models as models,
    reports as reports,
    tasks as tasks,
)
