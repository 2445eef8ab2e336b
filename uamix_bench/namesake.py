"""A module that is called as its public function of the same name.

Importing a module puts it in its package under its name, where `uamix_bench.fewshot` and `uamix_bench.compare` should
be the functions.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Namesake(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*arguments, **options)


def make_callable(module: str) -> None:
    """Makes a module, by its ``__name__``, call its function of that name."""
    sys.modules[module].__class__ = _Namesake
