"""The documented import path of `uamix_bench.records.store`."""

from uamix_bench.records.store import (
    Found as Found,
)
from uamix_bench.records.store import (
    ResultStore as ResultStore,
)
from uamix_bench.records.store import (
    load_record as load_record,
)
from uamix_bench.records.store import (
    read_all as read_all,
)
from uamix_bench.records.store import (
    schema as schema,
)
