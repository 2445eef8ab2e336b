"""The documented import path of `uamix_bench.records.store`."""

from uamix_bench.records.store import (
    Found as Found,
    ResultStore as ResultStore,
    load_record as load_record,
    read_all as read_all,
    schema as schema,
)
