"""Safety check of ``torch.save`` pickles by their opcodes, before torch runs them. Nothing is built or called.

Torch's weights-only unpickler calls its allowed functions with any arguments from the file: ``bytearray(10**11)``, a
tensor larger than its storage, sets of one list over and over. A `Judge` runs the same stack machine over sizes
instead of values.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import torch
from torch._utils import IMPORT_MAPPING, NAME_MAPPING

_MAX_OPERATIONS = 5_000_000  # a training state of 20,000 tensors has two million
_MAX_UNFOLDED = 200_000  # values of a tuple; references let a short pickle unfold without end
_MAX_DEPTH = 64
_MAX_KEY = 100  # values of a tuple that is hashed
_COPIES = 4  # times its own bytes that a pickle may copy in calls; those of torch.save copy each of their values once


class RefusedError(Exception):
    """Refusal of a pickle that holds more than weights and settings; the text names the excess."""


class _Global(NamedTuple):
    """A class or function, by its full name."""

    name: str


class _Tuple(NamedTuple):
    items: Sequence[Any]
    unfolded: int
    depth: int


class _Storage(NamedTuple):
    nbytes: int
    itemsize: int


@dataclass
class _Object:
    """Any other value except numbers, texts and None: its maker, its size as an argument, its largest tuple."""

    made_by: str
    size: int = 1
    largest: int = 0


class Judge:
    """Safety check of the pickles of one file.

    Args:
        available: Size of the file in bytes, which its storages share.
        inert: Names that are replaced by stubs for torch; None if there are no stubs and torch stops at unknown names.
    """

    def __init__(self, available: int, inert: Collection[str] | None) -> None:
        self.available = self.unclaimed = available
        self.inert = inert
        self.operations = _MAX_OPERATIONS
        self.copies = _COPIES * available
        self.storages: dict[str, int] = {}

    def read(self, file: BinaryIO) -> bool:
        """Reads one pickle to its end, or to the opcode at which torch stops. Returns True at the end.

        Raises:
            RefusedError: The pickle asks for more than weights and settings, or more memory than the file has bytes.
            Exception: The pickle is truncated, damaged or of another protocol. The type depends on the damage.
        """
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        argument: Any
        for opcode, argument, _ in pickletools.genops(file):
            self.operations -= 1
            if self.operations < 0:
                raise RefusedError(f"has more than {_MAX_OPERATIONS:,} operations")
            match opcode.name:
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                    stack.append(argument)
                case "NONE":
                    stack.append(None)
                case "NEWTRUE" | "NEWFALSE":
                    stack.append(opcode.name == "NEWTRUE")
                case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
                    stack.append(_Object(opcode.name, size=0))
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "GLOBAL":
                    name = _global(argument)
                    if self.inert is None and name not in _CALLS and not name.startswith("torch."):
                        return False
                    stack.append(_Global(name))
                case "MARK":
                    marks.append(stack)
                    stack = []
                case "EMPTY_TUPLE":
                    stack.append(_tuple(()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    count = int(opcode.name[-1])
                    stack[-count:] = [_tuple([stack[at] for at in range(-count, 0)])]
                case "TUPLE":
                    items, stack = stack, marks.pop()
                    stack.append(_tuple(items))
                case "APPEND":
                    item = stack.pop()
                    _put(stack[-1], [item])
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    _put(stack[-1], [value], [key])
                case "APPENDS":
                    items, stack = stack, marks.pop()
                    _put(stack[-1], items)
                case "SETITEMS":
                    items, stack = stack, marks.pop()
                    _put(stack[-1], items[1::2], items[::2])
                case "REDUCE" | "NEWOBJ":
                    arguments, function = stack.pop(), stack.pop()
                    stack.append(self._call(function, arguments))
                case "BUILD":
                    stack.pop()
                    if not isinstance(stack[-1], _Object) or stack[-1].made_by not in _WITH_STATE:
                        raise RefusedError("sets the state of what has none")
                case "BINPERSID":
                    stack.append(self._storage(stack.pop()))
                case "PROTO" | "STOP":
                    pass
                case other:
                    raise ValueError(f"Unsupported operand {other}")
        return True

    def _call(self, function: Any, arguments: Any) -> Any:
        """Stand-in for the value that a class or function would return."""
        if not isinstance(function, _Global) or not isinstance(arguments, _Tuple):
            raise RefusedError("calls what is no class or function")
        name, values = function.name, arguments.items
        if self.inert is not None and name in self.inert:
            return _Object(_STUB)
        if name not in _CALLS:
            raise RefusedError(f"asks for {name}")
        size = sum(map(_size, values))
        self.copies -= size
        if self.copies < 0:
            raise RefusedError("copies its values over and over")
        try:
            made = _CALLS[name](self, *values)
        except (TypeError, ValueError, AttributeError):
            shown = ", ".join(str(value) if isinstance(value, int) else "..." for value in values)
            raise RefusedError(f"asks for {name}({shown[:60]})") from None
        return _Object(name, size) if made is None else made

    def _storage(self, identity: Any) -> _Storage:
        """Storage of a persistent id, which holds kind, key, device and elements; in the old format None follows."""
        try:
            word, kind, key, _, elements, *view = identity.items
            itemsize = _itemsize(kind.name)
            if word != "storage" or not isinstance(key, str) or view not in ([], [None]):
                raise ValueError
            fresh = key not in self.storages
            nbytes = self.storages.setdefault(key, _whole(elements) * itemsize)
        except (TypeError, ValueError, AttributeError):
            raise RefusedError("names a storage as torch.save does not") from None
        self.unclaimed -= nbytes if fresh else 0
        if self.unclaimed < 0:
            raise RefusedError(
                f"asks for storages of {self.available - self.unclaimed:,} bytes, more than the file has"
            )
        return _Storage(nbytes, itemsize)


# --- values


def _global(argument: str) -> str:
    """Name of a GLOBAL as torch reads it, with names of Python 2 mapped to those of Python 3."""
    module, _, name = argument.rpartition(" ")
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _tuple(items: Sequence[Any]) -> _Tuple:
    inner = [item for item in items if isinstance(item, _Tuple)]
    made = _Tuple(
        items, len(items) + sum(item.unfolded for item in inner), 1 + max((i.depth for i in inner), default=0)
    )
    if made.unfolded > _MAX_UNFOLDED or made.depth > _MAX_DEPTH:
        raise RefusedError("holds values nested without end")
    return made


def _put(target: Any, items: Sequence[Any], keys: Sequence[Any] = ()) -> None:
    if any(isinstance(key, _Tuple) and key.unfolded > _MAX_KEY for key in keys):
        raise RefusedError("holds keys nested without end")
    if isinstance(target, _Object):
        target.size += len(items)
        target.largest = max(target.largest, *map(_largest, items), 0)


def _largest(value: Any) -> int:
    return value.unfolded if isinstance(value, _Tuple) else value.largest if isinstance(value, _Object) else 0


def _size(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    return len(value.items) if isinstance(value, _Tuple) else value.size if isinstance(value, _Object) else 1


def _whole(value: Any) -> int:
    """A count, at least 0; any other value raises an error."""
    if not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def _itemsize(storage: str) -> int:
    """Size in bytes of an element of ``torch.FloatStorage`` and similar types."""
    dtype = getattr(getattr(torch, storage.removeprefix("torch."), None), "dtype", None)
    return dtype.itemsize if isinstance(dtype, torch.dtype) else 1


# --- what may be called: each returns what stands for the value, or None; and raises where the arguments will not do


def _tensor(judge: Judge, storage: _Storage, offset: Any, size: _Tuple, stride: _Tuple, *rest: Any) -> None:
    """Checks a strided view. Its last element must lie within its storage, which torch would otherwise enlarge."""
    _view(storage, storage.itemsize, offset, size, stride)


def _typed_tensor(
    judge: Judge,
    storage: _Storage,
    offset: Any,
    size: _Tuple,
    stride: _Tuple,
    grad: Any,
    hooks: Any,
    dtype: _Global,
    *_: Any,
) -> None:
    _view(storage, getattr(torch, dtype.name.removeprefix("torch.")).itemsize, offset, size, stride)


def _quantised(judge: Judge, storage: _Storage, offset: Any, size: _Tuple, stride: _Tuple, *rest: Any) -> None:
    """Checks a quantised tensor. Torch makes a whole tensor first, so no two elements may share memory."""
    _view(storage, storage.itemsize, offset, size, stride)
    if math.prod(map(_whole, size.items)) * storage.itemsize > storage.nbytes:
        raise ValueError


def _view(storage: _Storage, itemsize: int, offset: Any, size: _Tuple, stride: _Tuple) -> None:
    sizes, strides = list(map(_whole, size.items)), list(map(_whole, stride.items))
    end = sum((count - 1) * step for count, step in zip(sizes, strides, strict=True)) + 1 if all(sizes) else 0
    if (_whole(offset) + end) * itemsize > storage.nbytes:
        raise ValueError


def _inner(judge: Judge, value: Any, *rest: Any) -> Any:
    return value


def _subclass(judge: Judge, function: _Global, kind: _Global, arguments: _Tuple, *state: Any) -> Any:
    if not function.name.startswith("torch._utils._rebuild_"):
        raise ValueError
    return judge._call(function, arguments)


def _small(judge: Judge, *values: Any) -> None:
    if not all(value is None or isinstance(value, int | float | str) for value in values):
        raise ValueError


def _copied(judge: Judge, *values: Any) -> None:
    if len(values) > 1 or any(_largest(value) > _MAX_KEY for value in values):
        raise ValueError


def _encoded(judge: Judge, text: str, encoding: str) -> None:
    """Checks bytes, which the protocol stores as a text of equal length."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError


def _bytes(judge: Judge, *values: Any) -> None:
    if len(values) > 1 or any(not isinstance(value, _Object) or value.made_by != "_codecs.encode" for value in values):
        raise ValueError


_STUB = "a stub"
_WITH_STATE = (_STUB, "collections.OrderedDict", "collections.Counter")
_CALLS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encoded,
    "builtins.bytearray": _bytes,
    "builtins.complex": _small,
    "builtins.set": _copied,
    "collections.Counter": _copied,
    "collections.OrderedDict": _copied,
    "torch.Size": lambda judge, size: list(map(_whole, size.items)) and None,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch._utils._rebuild_meta_tensor_no_storage": lambda judge, *values: None,
    "torch._utils._rebuild_parameter": _inner,
    "torch._utils._rebuild_parameter_with_state": _inner,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_sparse_tensor": lambda judge, *values: None,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch.device": _small,
    "torch.nn.parameter.Parameter": _inner,
    "torch.serialization._get_layout": _small,
}
