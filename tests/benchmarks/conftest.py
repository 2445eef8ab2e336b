"""Benchmarks compare CPU time on one thread, and get a second chance: a neighbour's noise can hide a ratio."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import timing


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with timing.one_thread():
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Measures again where a ratio was missed; a ratio that is not there is missed again."""
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    try:
        pyfuncitem.obj(**arguments)
    except AssertionError as error:
        print(f"measured again, after: {error}")
        pyfuncitem.obj(**arguments)
    return True
