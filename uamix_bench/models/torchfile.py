"""Safe reader of ``torch.save`` files, which executes no code in them.

Such a file is a pickle, and a pickle is a program. Torch's weights-only unpickler runs an allow-listed part of it.
Harmless classes that official files hold besides (argparse.Namespace, paths, omegaconf, numpy scalars) are replaced by
inert stubs under their names: nothing is imported or called. Everything else is refused. A file that asks for more
memory than it has bytes is refused before torch sees it.
"""

from __future__ import annotations

import io
import mmap
import re
import sys
import threading
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from uamix_bench.models.pickles import Judge, RefusedError
from uamix_bench.util.errors import BadInputError, MachineError
from uamix_bench.util.text import listed

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6

# Remedies, for this format and the others.
AGAIN = "download it again"
AVOID = "do not use this file"
UNPACK = "unpack it and name the checkpoint in it"
RESAVE = "save its state dict as safetensors where the file is trusted"

_SAFE_TORCH = (2, 10)  # before it weights_only ran code (CVE-2025-32434) and wrote past its memory (CVE-2026-24747)
_MAX_EXTRAS = 200_000  # values; shared references let a small pickle unfold without end
_MAX_DEPTH = 64
_OLD_PICKLES = 5  # of the old format: magic number, protocol, system, content, keys of the storages that follow

# Where state dicts stand. Of the first, which official files have, the first that is there is taken.
_FIRST_KEYS = ("model", "state_dict", "module")
_KEYS = (*_FIRST_KEYS, "model_state_dict", "model_state", "net", "weights", "params", "teacher")
_AVERAGES = ("model_ema", "state_dict_ema")  # of the weights beside them, and taken in their place, as timm does
_WITHIN = 2  # mappings or sequences around the one that holds a state dict
_SAME = 0.5  # share of equal names from which on a second state dict is another one of the same model

# What is data though it stands in the standard library, or is not spelt as a class.
_KNOWN_DATA = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|decimal\.Decimal|uuid\.UUID"
    r"|pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path"  # Python 3.13 pickles paths as pathlib._local
    r"|datetime\.(date|datetime|time|timedelta|timezone)|collections\.(OrderedDict|defaultdict|deque)"
    r"|typing\.(Any|Dict|List|Optional|Tuple|Union)"
    r"|builtins\.(bool|bytes|dict|float|frozenset|int|list|object|range|slice|str|tuple)"
    r"|numpy\.(_?core\.multiarray\.(scalar|_reconstruct)|dtype|ndarray|bool_?|str_|(u?int|float|complex)\d+)"
)


class TorchFile(NamedTuple):
    """Content of a ``torch.save`` file, as in :class:`uamix_bench.models.checkpoint.Checkpoint`, and a remark on it."""

    tensors: dict[str, Tensor]
    extras: dict[str, Any]
    stubbed: tuple[str, ...]
    remark: str


def shown(value: object) -> str:
    """Text from a file, fit for an error line: no control characters, not endless."""
    return ascii(str(value))[1:-1][:120]


class _Stub:
    """Inert stub for an object whose class is not imported. It keeps the pickle's arguments and does nothing."""

    __slots__ = ("arguments", "state")
    global_name = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> Any:
        if cls.global_name in ("collections.defaultdict", "builtins.dict"):
            return {}  # torch lets a pickle fill exact dicts only
        stub = super().__new__(cls)
        stub.arguments, stub.state = arguments, None
        return stub

    def __setstate__(self, state: Any) -> None:
        self.state = state


_LOADING = threading.Lock()  # torch's allow-list belongs to the whole process


def read_torch(path: Path, *, is_zip: bool, key: str | None = None) -> TorchFile:
    """Reads a file of ``torch.save``.

    Args:
        path: Path of the file.
        is_zip: True if the file begins with `ZIP_MAGIC`, False if it begins with `LEGACY_MAGIC`.
        key: Key of the state dict; None searches for it.

    Raises:
        BadInputError: The file is truncated, damaged, asks for more than data, or holds no state dict, or several.
        MachineError: The installed torch is too old to read such files safely.
        MemoryError: The content does not fit into memory.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < _SAFE_TORCH:
        raise MachineError("torch", f"{torch.__version__} reads no file safely", "install 2.10 or newer")
    names: list[str] = []
    if is_zip:
        _check_archive(path)
    complaint = ""
    with _LOADING, warnings.catch_warnings(action="ignore"):
        try:
            if is_zip:
                names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
                if refused := [name for name in names if not _is_data(name)]:
                    raise _refusal(path, refused)
            _judge(path, is_zip, names)
            stubs = [(type("Stub", (_Stub,), {"__slots__": (), "global_name": name}), name) for name in names]
            with torch.serialization.safe_globals(stubs):  # type: ignore[arg-type]
                content = torch.load(path, map_location="cpu", weights_only=True)
        except (BadInputError, MemoryError):
            raise
        except Exception as error:  # a crafted pickle can make the unpickler raise anything
            complaint = str(error) or type(error).__name__
        finally:  # a load that fails leaves its sparse tensors there, and the next file would be refused for them
            torch._utils._sparse_tensors_to_validate.clear()
    if complaint:  # raised out here, so that torch's advice to switch safety off is in no traceback either
        raise _translated(path, complaint)
    found = _find(path, content, key)
    return TorchFile(_tensors(found.state), _Plain(path).mapping(found.beside, ()), tuple(names), found.remark)


def _judge(path: Path, is_zip: bool, names: Sequence[str]) -> None:
    """Refuses pickles that ask for more than weights and settings, or for more memory than the file has bytes.

    Raises:
        BadInputError: A pickle asks for such.
        Exception: A pickle is truncated, damaged or of another protocol.
    """
    judge = Judge(path.stat().st_size, names if is_zip else None)
    try:
        if is_zip:  # by torch's own reader, which finds entries by other rules than Python's
            judge.read(io.BytesIO(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")))
            return
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pickles:
            all(judge.read(pickles) for _ in range(_OLD_PICKLES))  # type: ignore[arg-type]
    except RefusedError as error:
        if asked := re.fullmatch(r"asks for (\S+)", str(error)):
            raise _refusal(path, [asked[1]]) from None
        raise BadInputError(path, f"refused: the pickle {shown(error)}, which no model file needs", AVOID) from None


def _check_archive(path: Path) -> None:
    """Refuses zip files that are truncated, changed, not torch's, or larger than they look."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise BadInputError(path, "truncated (the zip directory is missing)", AGAIN) from None
    except (OSError, ValueError, NotImplementedError) as error:
        raise BadInputError(path, f"damaged zip directory ({shown(error)})", AGAIN) from None
    with archive:
        entries = archive.infolist()
        parts = {entry.filename.partition("/")[2].lower() for entry in entries}  # torch's reader overlooks case
        if "data.pkl" not in parts:
            raise BadInputError(path, "is a zip archive, but not a file of torch.save", UNPACK)
        if "constants.pkl" in parts:
            raise BadInputError(path, "is a TorchScript archive and holds no state dict", RESAVE)
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise BadInputError(path, "holds compressed entries, which torch.save never writes", AVOID)
        if sum(entry.file_size for entry in entries) > path.stat().st_size or len(parts) < len(entries):
            raise BadInputError(path, "holds overlapping entries, which torch.save never writes", AVOID)
        try:
            changed = archive.testzip()  # torch itself takes a flipped byte without a word
        except (zipfile.BadZipFile, OSError, RuntimeError, EOFError, ValueError) as error:
            raise BadInputError(path, f"truncated or damaged ({shown(error)})", AGAIN) from None
    if changed is not None:
        raise BadInputError(path, f"damaged ({shown(changed)} does not match its checksum)", AGAIN)


def _is_data(name: str) -> bool:
    """Test for a global that may be stubbed: known data, and names spelt as a class outside Python itself.

    A stub is inert under any name. The rule makes sure that a file made to do harm is reported.
    """
    parts = name.split(".")
    return bool(_KNOWN_DATA.fullmatch(name)) or (
        parts[0] not in sys.stdlib_module_names
        and all(part.isidentifier() for part in parts)
        and parts[-1].lstrip("_")[:1].isupper()
    )


def _refusal(path: Path, names: Sequence[str]) -> BadInputError:
    asked = listed(map(shown, names), 1)
    return BadInputError(path, f"refused: the pickle asks for {asked}, which no model file needs", AVOID)


def _translated(path: Path, complaint: str) -> BadInputError:
    """One-line error for torch's message, which has many lines and advises ``weights_only=False``."""
    if found := re.search(r"GLOBAL (\S+)", complaint):  # old format only: the names in zip files are known by now
        if not _is_data(found[1]):
            return _refusal(path, [found[1]])
        return BadInputError(path, f"is in torch's old format and holds {shown(found[1])} objects", RESAVE)
    if "Unsupported operand" in complaint:
        return BadInputError(path, "holds a pickle of another protocol than torch.save's own", RESAVE)
    if re.search(r"Can only|Trying to call reduce|persistent", complaint):
        return BadInputError(path, "refused: the pickle does more than store weights and settings", RESAVE)
    return BadInputError(path, "truncated or damaged", AGAIN)


class _Found(NamedTuple):
    """A state dict, the values beside it in the file, and a remark on the choice among several."""

    state: Mapping[Any, Any]
    beside: Mapping[Any, Any]
    remark: str


def _find(path: Path, content: Any, key: str | None) -> _Found:
    """Finds the state dict: under `key`, a usual key, bare, or under the only key that holds tensors."""
    held = {".".join(way): (way, state) for way, state in _held(content)}
    there = {name: state for name, (_, state) in held.items()}
    least = min((len(way) for way, _ in held.values()), default=0)
    shallow = [name for name, (way, _) in held.items() if len(way) == least]
    usual = [name for name, (way, _) in held.items() if way[-1] in _KEYS and (name in shallow or _is_plain(way))]
    first = [name for name in _FIRST_KEYS if name in there]
    first = [name for name in _AVERAGES if first and name in there and _are_twins(there[first[0]], there[name])] + first
    if key is not None and key not in there:
        raise BadInputError(path, f"holds no tensors under {key!a}", f"keys that hold some: {_quoted(there)}")
    bare = _tensors(content) if isinstance(content, Mapping) else {}
    most = max((len(_tensors(state)) for state in there.values()), default=0)
    if key is None and not first and len(usual) != 1 and bare and len(bare) >= most:
        return _Found(bare, {name: value for name, value in content.items() if name not in bare}, "")
    chosen = [key] if key is not None else first[:1] or usual or shallow
    if not chosen:
        candidates = [content.get(name) for name in _KEYS] if isinstance(content, Mapping) else [content]
        inner = [value for candidate in candidates if isinstance(candidate, Mapping) for value in candidate.values()]
        for candidate in candidates + inner[:1]:
            if isinstance(candidate, _Stub):
                raise BadInputError(path, f"holds a pickled {shown(candidate.global_name)}, no state dict", RESAVE)
        raise BadInputError(path, "holds no state dict", "name a file with the model's weights")
    if len(chosen) > 1:
        reason = f"holds several state dicts, under {_quoted(chosen)}"
        raise BadInputError(path, reason, "save one of them alone (read_checkpoint(path, key=...) takes one)")
    way, state = held[chosen[0]]
    twins = [name for name in there if name not in chosen and _are_twins(state, there[name])]
    remark = ""
    if twins and key is None:
        remark = f"the weights are those under {_quoted(chosen)}; {_quoted(twins)} holds others of the same names"
        remark += f" (to evaluate those, save read_checkpoint(path, key={shown(twins[0])!r}).tensors in a file)"
    return _Found(state, _beside(content, way), remark)


_Way = tuple[str, ...]


def _held(
    content: Any, above: _Way = (), known: dict[int, bool] | None = None
) -> Iterator[tuple[_Way, Mapping[Any, Any]]]:
    """Mappings in a file that hold tensors, with the keys on the way to each; one that is there twice is yielded once.

    Args:
        content: Content of the file.
        above: Keys on the way to it.
        known: By id, whether a mapping met before holds tensors.
    """
    known = {} if known is None else known
    for key, value in _entries(content).items():
        fresh = id(value) not in known
        if fresh and isinstance(value, Mapping | list | tuple):
            known[id(value)] = isinstance(value, Mapping) and bool(_tensors(value))
        if known.get(id(value)):
            yield (*above, key), value
        elif fresh and len(above) < _WITHIN:
            yield from _held(value, (*above, key), known)


def _entries(content: Any) -> dict[str, Any]:
    """Values of a mapping by their text keys, or of a sequence by their number."""
    if isinstance(content, Mapping):
        return {key: value for key, value in content.items() if isinstance(key, str)}
    return (
        {str(at): value for at, value in enumerate(content[:_MAX_DEPTH])} if isinstance(content, list | tuple) else {}
    )


def _beside(content: Any, way: _Way) -> dict[str, Any]:
    """Entries beside a state dict, at every level that contains it."""
    if not way:
        return {}
    entries = _entries(content)
    return {**{key: value for key, value in entries.items() if key != way[0]}, **_beside(entries[way[0]], way[1:])}


def _is_plain(way: _Way) -> bool:
    """True if no key on the path names a kind of weights."""
    return all(key in _KEYS or key.isdecimal() for key in way)


def _are_twins(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    """Test for two state dicts that share most names and shapes but differ in values, such as a weight average."""
    if len(other) < _SAME * len(_tensors(one)):  # an optimiser's, as a rule
        return False
    bare = {_WRAPPED.sub("", key): value for key, value in _tensors(other).items()}
    pairs = [(value, bare.get(_WRAPPED.sub("", key))) for key, value in _tensors(one).items()]
    same = [(a, b) for a, b in pairs if b is not None and a.shape == b.shape]
    return len(same) >= _SAME * len(pairs) and not all(torch.equal(a, b.to(a.dtype)) for a, b in same)


_WRAPPED = re.compile(r"^((module|_orig_mod|model|encoder)\.)+")


def _quoted(names: Iterable[str]) -> str:
    return listed([f"'{shown(name)}'" for name in names], 8) or "none"


def _tensors(values: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {key: item.detach() for key, item in values.items() if isinstance(item, Tensor) and isinstance(key, str)}


class _Plain:
    """Converter of unpickled objects to plain data, within bounds that no model's settings reach."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left = _MAX_EXTRAS

    def mapping(self, values: Mapping[Any, Any], above: tuple[int, ...]) -> dict[Any, Any]:
        return {self._key(key, above): self.value(item, above) for key, item in values.items() if _is_kept(item)}

    def value(self, value: Any, above: tuple[int, ...]) -> Any:
        """Converts one value; `above` holds the ids of the containers around it."""
        self.left -= 1
        if self.left < 0 or len(above) > _MAX_DEPTH:
            raise BadInputError(self.path, "holds settings nested without end", AVOID)
        if value is None or isinstance(value, bool | int | float | str | bytes):
            return value
        if id(value) in above:  # omegaconf's children point at their parents
            return None
        above = (*above, id(value))
        if isinstance(value, Mapping):
            return self.mapping(value, above)
        if isinstance(value, list | tuple | set | frozenset):
            items = [self.value(item, above) for item in value if _is_kept(item)]
            return tuple(items) if isinstance(value, tuple) else items
        if isinstance(value, _Stub):
            return self._stub(value, above)
        return shown(getattr(value, "global_name", value))  # dtypes, devices, bare classes

    def _stub(self, stub: _Stub, above: tuple[int, ...]) -> Any:
        name, state, arguments = stub.global_name, stub.state, stub.arguments
        if isinstance(state, dict):
            if name.startswith("omegaconf."):  # its containers and nodes keep their value beside bookkeeping
                state = state.get("_content", state.get("_val", state))
            return self.value(state, above)
        if name.startswith("pathlib.") and all(isinstance(part, str) for part in arguments):
            return str(PurePosixPath(*arguments))
        if len(arguments) == 1:  # an enum member
            return self.value(arguments[0], above)
        return f"<{shown(name)}>"

    def _key(self, key: Any, above: tuple[int, ...]) -> Any:
        return key if key is None or isinstance(key, int | float | str) else shown(self.value(key, above))


def _is_kept(value: Any) -> bool:
    return not isinstance(value, Tensor | torch.UntypedStorage | torch.TypedStorage)
