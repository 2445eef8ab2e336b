"""The documented import path of `uamix_bench.plugins.registry`."""

from uamix_bench.plugins.registry import (
    Plugin as Plugin,
)
from uamix_bench.plugins.registry import (
    RenderedPage as RenderedPage,
)
from uamix_bench.plugins.registry import (
    Report as Report,
)
from uamix_bench.plugins.registry import (
    find_model as find_model,
)
from uamix_bench.plugins.registry import (
    find_report as find_report,
)
from uamix_bench.plugins.registry import (
    find_task as find_task,
)
from uamix_bench.plugins.registry import (
    from_file as from_file,
)
from uamix_bench.plugins.registry import (
    models as models,
)
from uamix_bench.plugins.registry import (
    reports as reports,
)
from uamix_bench.plugins.registry import (
    tasks as tasks,
)
