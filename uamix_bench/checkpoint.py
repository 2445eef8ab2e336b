"""Checkpoint files, read without ever running what is in them, and written as safetensors.

A `.pth` file is a pickle, and a pickle is a program. Torch's weights-only unpickler runs an allow-listed
part of it; the harmless classes that official files hold besides (argparse.Namespace, paths, omegaconf,
numpy scalars) are given to it as inert stubs under their names: nothing is imported or called.
Everything else is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import sys
import threading
import warnings
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from uamix_bench.cache import file_digests
from uamix_bench.errors import BadInputError, MachineError
from uamix_bench.files import canonical_json, file_sha256, unreadable, write_atomic

AnySettings = TypeVar("AnySettings", bound=BaseModel)

_AGAIN = "download it again"
_AVOID = "do not use this file"
_NAME_IT = "name the checkpoint file"
_UNPACK = "unpack it and name the checkpoint in it"
_RESAVE = "save its state dict as safetensors where the file is trusted"

_MAX_HEADER_BYTES = 8 * 2**20  # a safetensors header of ViT size has 50 kB; one of 63 MB takes seconds to parse
_MAX_TENSORS = 20_000
_REMEMBERED_BYTES = 16 * 2**20  # files from this size on take longer to digest than their digest takes to look up
_MAX_EXTRAS = 200_000  # values; shared references let a small pickle unfold without end
_MAX_DEPTH = 64
_STATE_DICT_KEYS = ("model", "state_dict", "module")
_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6

# What is data though it stands in the standard library, or is not spelt as a class.
_KNOWN_DATA = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|decimal\.Decimal|uuid\.UUID"
    r"|pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path"  # Python 3.13 pickles paths as pathlib._local
    r"|datetime\.(date|datetime|time|timedelta|timezone)|collections\.(OrderedDict|defaultdict|deque)"
    r"|typing\.(Any|Dict|List|Optional|Tuple|Union)"
    r"|builtins\.(bool|bytes|dict|float|frozenset|int|list|object|range|slice|str|tuple)"
    r"|numpy\.(_?core\.multiarray\.(scalar|_reconstruct)|dtype|ndarray|bool_?|str_|(u?int|float|complex)\d+)"
)


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint file holds.

    Attributes:
        path: The file.
        sha256: SHA-256 (hex) of its bytes.
        tensors: The state dict as stored: CPU tensors of any shape and dtype, all values finite.
        extras: What stands beside the state dict, as plain data (dict, list, tuple, str, bytes, numbers,
            None): objects become the dict of their attributes, paths and bare classes a str. No tensors.
        metadata: The header metadata of a safetensors file; empty for others.
        stubbed: Names of the globals that were replaced by inert stubs, sorted.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    extras: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    stubbed: tuple[str, ...] = ()


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a safetensors file or a file of ``torch.save``, executing nothing that is in it.

    Args:
        path: The file, or a folder that holds ``model.safetensors`` (as ``tune --out`` writes).

    Returns:
        The state dict (under ``model``, ``state_dict`` or ``module``, or bare), keys unchanged, and the rest.

    Raises:
        BadInputError: It is missing, truncated, damaged, unsafe, no checkpoint, or holds NaN or infinities.
        MachineError: It cannot be read, or does not fit into memory.
    """
    path = Path(path)
    try:
        if path.is_dir():
            if not (path / "model.safetensors").is_file():
                raise BadInputError(path, "is a folder without model.safetensors", _NAME_IT)
            path = path / "model.safetensors"
        if path.exists() and not path.is_file():
            raise BadInputError(path, "is not a regular file", _NAME_IT)
        with path.open("rb") as file:
            head = file.read(512)
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    _refuse_other_formats(path, head)
    sha256 = _fingerprint(path, size)
    try:
        read = _read_safetensors if _looks_like_safetensors(head) else _read_torch
        checkpoint = read(path, head, size, sha256)
        _check_tensors(path, checkpoint.tensors)
    except MemoryError:
        raise MachineError(path, "does not fit into memory", "use a machine with more") from None
    return checkpoint


def load_state(
    module: nn.Module, tensors: Mapping[str, Tensor], *, path: Path, what: str, ignore: Sequence[str] = ()
) -> None:
    """Fills every parameter and persistent buffer of `module`; keys that it does not have are passed over.

    A module on the meta device gets float32 copies of its own, so that a model is built without initialising
    its weights twice; elsewhere the values are copied into the tensors that are there.

    Args:
        module: The module to fill.
        tensors: State dict with the module's own key names, of any floating dtype.
        path: The file the tensors came from, for error lines.
        what: The model's name, for error lines (``AudioMAE``).
        ignore: Prefixes of the module's keys that the file need not hold; what is absent keeps its value.

    Raises:
        BadInputError: Keys are missing or have other shapes; the line counts them and names the first five.
    """
    own = module.state_dict()
    wanted = {key: value for key, value in own.items() if key in tensors or not key.startswith(tuple(ignore))}
    verdict = f"this is not a checkpoint of {what}"
    missing = [key for key in wanted if key not in tensors]
    if missing:
        raise BadInputError(path, f"lacks {len(missing)} of {len(wanted)} encoder tensors ({_first(missing)})", verdict)
    wrong = [
        f"{key} is {list(tensors[key].shape)}, expected {list(value.shape)}"
        for key, value in wanted.items()
        if tensors[key].shape != value.shape
    ]
    if wrong:
        reason = f"has {len(wrong)} of {len(wanted)} encoder tensors in another shape ({_first(wrong)})"
        raise BadInputError(path, reason, f"{verdict} of this size")
    on_meta = any(value.is_meta for value in own.values())
    state = {
        key: tensors[key].to(
            torch.float32 if value.is_floating_point() else value.dtype,
            copy=on_meta,
            memory_format=torch.contiguous_format,
        )
        for key, value in wanted.items()
    }
    module.load_state_dict(state, strict=False, assign=on_meta)  # every key was checked above


def read_settings(
    checkpoint: Checkpoint, kind: type[AnySettings], official: Any, *, what: str, see: str
) -> AnySettings:
    """Reads a model's settings: from the metadata of a converted file, or else from what the official one holds.

    Args:
        checkpoint: The file.
        kind: What the settings are read into.
        official: The official file's own settings; None where it holds none.
        what: The model's name, for errors.
        see: The remedy where the settings are another model's.

    Raises:
        BadInputError: There are none, or they describe another model; the line names the setting.
    """
    try:
        if "cfg" in checkpoint.metadata:
            return kind.model_validate_json(checkpoint.metadata["cfg"])
        if official is None:
            raise BadInputError(
                checkpoint.path, f"holds no cfg of {what}", "name the official file, with cfg and model"
            )
        return kind.model_validate(official)
    except ValidationError as error:
        first = error.errors()[0]
        setting = ".".join(map(str, ("cfg", *first["loc"])))
        reason = f"{setting}: {first['msg']}, so it is no supported {what}"
        raise BadInputError(checkpoint.path, reason, see) from error


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Writes tensors and metadata as a safetensors file, atomically; equal input gives equal bytes.

    Args:
        path: The file to write.
        tensors: Tensors of any shape, dtype and device; those that share memory are stored separately.
        metadata: Text for the header.

    Returns:
        SHA-256 (hex) of the file.

    Raises:
        MachineError: The disk is full or the folder cannot be written.
    """
    own = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    blob = memoryview(save(own, dict(metadata)))
    start = 8 + struct.unpack("<Q", blob[:8])[0]
    header = canonical_json(json.loads(bytes(blob[8:start])))  # safetensors writes metadata in a random order
    header += b" " * (-len(header) % 8)
    parts = (struct.pack("<Q", len(header)), header, blob[start:])
    sha256 = hashlib.sha256()

    def content(file: BinaryIO) -> None:
        for part in parts:
            sha256.update(part)
            file.write(part)

    write_atomic(path, content)
    return sha256.hexdigest()


def _fingerprint(path: Path, size: int) -> str:
    """Digests a file; of a large one, which an earlier run may have done, that is remembered as for sound files."""
    if size < _REMEMBERED_BYTES:
        return file_sha256(path)
    done = file_digests([str(path)])
    if done.failed:
        raise done.failed[0]
    return done.digests[0].hex()


# --- which format


def _refuse_other_formats(path: Path, head: bytes) -> None:
    """Says what a file is that is neither safetensors nor torch's, from its first 512 bytes."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        raise BadInputError(path, "is empty", _AGAIN)
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        raise BadInputError(path, "is an HTML page, not a checkpoint", "download the file itself")
    if text.startswith(b"version https://git-lfs"):
        raise BadInputError(path, "is a git-lfs pointer, not the file itself", "fetch it with `git lfs pull`")
    if _looks_like_safetensors(head) or head.startswith((_ZIP_MAGIC, _LEGACY_MAGIC)):
        return
    if head[257:262] == b"ustar":
        raise BadInputError(path, "is a tar archive and holds no state dict", _UNPACK)
    if head.startswith(b"\x1f\x8b"):
        raise BadInputError(path, "is a gzip archive and holds no state dict", _UNPACK)
    if head.startswith(b"\x80"):
        raise BadInputError(path, "is a bare pickle, not a file of torch.save, and was not opened", _RESAVE)
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        raise BadInputError(path, "is a text file, not a checkpoint", _NAME_IT)
    raise BadInputError(path, "is neither a safetensors nor a torch file", _NAME_IT)


def _looks_like_safetensors(head: bytes) -> bool:
    """Tells whether a file begins as safetensors does: a length (uint64, little-endian), then JSON."""
    return head[8:9] == b"{" and not head.startswith(_ZIP_MAGIC)


def _read_safetensors(path: Path, head: bytes, size: int, sha256: str) -> Checkpoint:
    (header_bytes,) = struct.unpack("<Q", head[:8])
    if header_bytes > min(_MAX_HEADER_BYTES, size - 8):
        raise BadInputError(path, f"truncated or damaged (claims a header of {header_bytes} bytes)", _AGAIN)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            keys = list(file.keys())
            _check_count(path, keys)
            tensors = {key: file.get_tensor(key) for key in keys}
            return Checkpoint(path, sha256, tensors, metadata=file.metadata() or {})
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise BadInputError(path, f"truncated or damaged ({_shown(error)})", _AGAIN) from None


# --- torch files


class _Stub:
    """Stands for an object whose class is not imported: keeps what the pickle hands it and does nothing."""

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


def _read_torch(path: Path, head: bytes, size: int, sha256: str) -> Checkpoint:
    names: list[str] = []
    is_zip = head.startswith(_ZIP_MAGIC)
    if is_zip:
        _check_archive(path, size)
    complaint = ""
    with _LOADING, warnings.catch_warnings(action="ignore"):
        try:
            if is_zip:
                names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
                if refused := [name for name in names if not _is_data(name)]:
                    raise _refusal(path, refused)
            stubs = [(type("Stub", (_Stub,), {"__slots__": (), "global_name": name}), name) for name in names]
            with torch.serialization.safe_globals(stubs):  # type: ignore[arg-type]
                content = torch.load(path, map_location="cpu", weights_only=True)
        except (BadInputError, MemoryError):
            raise
        except Exception as error:  # a crafted pickle can make the unpickler raise anything
            complaint = str(error) or type(error).__name__
    if complaint:  # raised out here, so that torch's advice to switch safety off is in no traceback either
        raise _translated(path, complaint)
    tensors, rest = _split(path, content)
    return Checkpoint(path, sha256, tensors, _Plain(path).mapping(rest, ()), stubbed=tuple(names))


def _check_archive(path: Path, size: int) -> None:
    """Refuses zip files that are cut, changed, not torch's, or larger than they look."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise BadInputError(path, "truncated (the zip directory is missing)", _AGAIN) from None
    except (OSError, ValueError, NotImplementedError) as error:
        raise BadInputError(path, f"damaged zip directory ({_shown(error)})", _AGAIN) from None
    with archive:
        entries = archive.infolist()
        parts = {entry.filename.partition("/")[2] for entry in entries}
        if "data.pkl" not in parts:
            raise BadInputError(path, "is a zip archive, but not a file of torch.save", _UNPACK)
        if "constants.pkl" in parts:
            raise BadInputError(path, "is a TorchScript archive and holds no state dict", _RESAVE)
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise BadInputError(path, "holds compressed entries, which torch.save never writes", _AVOID)
        if sum(entry.file_size for entry in entries) > size or len(parts) < len(entries):
            raise BadInputError(path, "holds overlapping entries, which torch.save never writes", _AVOID)
        try:
            changed = archive.testzip()  # torch itself takes a flipped byte without a word
        except (zipfile.BadZipFile, OSError, RuntimeError, EOFError, NotImplementedError) as error:
            raise BadInputError(path, f"truncated or damaged ({_shown(error)})", _AGAIN) from None
    if changed is not None:
        raise BadInputError(path, f"damaged ({_shown(changed)} does not match its checksum)", _AGAIN)


def _is_data(name: str) -> bool:
    """Tells whether a global may be stubbed: known data, and what is spelt as a class outside Python itself.

    A stub is inert whatever its name; the rule keeps a file that was made to do harm from passing in silence.
    """
    parts = name.split(".")
    return bool(_KNOWN_DATA.fullmatch(name)) or (
        parts[0] not in sys.stdlib_module_names
        and all(part.isidentifier() for part in parts)
        and parts[-1].lstrip("_")[:1].isupper()
    )


def _refusal(path: Path, names: Sequence[str]) -> BadInputError:
    asked = _shown(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    return BadInputError(path, f"refused: the pickle asks for {asked}, which no model file needs", _AVOID)


def _translated(path: Path, complaint: str) -> BadInputError:
    """Rewrites torch's message, which runs over many lines and advises ``weights_only=False``."""
    if found := re.search(r"GLOBAL (\S+)", complaint):  # old format only: the names in zip files are known by now
        if not _is_data(found[1]):
            return _refusal(path, [found[1]])
        return BadInputError(path, f"is in torch's old format and holds {_shown(found[1])} objects", _RESAVE)
    if "Unsupported operand" in complaint:
        return BadInputError(path, "holds a pickle of another protocol than torch.save's own", _RESAVE)
    if re.search(r"Can only|Trying to call reduce|persistent", complaint):
        return BadInputError(path, "refused: the pickle does more than store weights and settings", _RESAVE)
    return BadInputError(path, "truncated or damaged", _AGAIN)


def _split(path: Path, content: Any) -> tuple[dict[str, Tensor], dict[Any, Any]]:
    """Finds the state dict; returns it and what stands beside it."""
    if isinstance(content, dict):
        for key in _STATE_DICT_KEYS:
            inner = content.get(key)
            if isinstance(inner, dict) and (tensors := _tensors(path, inner)):
                return tensors, {other: value for other, value in content.items() if other != key}
        if tensors := _tensors(path, content):
            return tensors, {key: value for key, value in content.items() if key not in tensors}
    candidates = [content.get(key) for key in _STATE_DICT_KEYS] if isinstance(content, dict) else [content]
    for candidate in candidates:
        if isinstance(candidate, _Stub):
            raise BadInputError(path, f"holds a pickled {_shown(candidate.global_name)}, no state dict", _RESAVE)
    raise BadInputError(path, "holds no state dict", "name a file with the model's weights")


def _tensors(path: Path, values: Mapping[Any, Any]) -> dict[str, Tensor]:
    found = {key: item.detach() for key, item in values.items() if isinstance(item, Tensor) and isinstance(key, str)}
    _check_count(path, found)
    return found


class _Plain:
    """Turns unpickled objects into plain data, within bounds that no model's settings reach."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left = _MAX_EXTRAS

    def mapping(self, values: Mapping[Any, Any], above: tuple[int, ...]) -> dict[Any, Any]:
        return {self._key(key, above): self.value(item, above) for key, item in values.items() if _is_kept(item)}

    def value(self, value: Any, above: tuple[int, ...]) -> Any:
        """Converts one value; `above` holds the ids of the containers around it."""
        self.left -= 1
        if self.left < 0 or len(above) > _MAX_DEPTH:
            raise BadInputError(self.path, "holds settings nested without end", _AVOID)
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
        return _shown(getattr(value, "global_name", value))  # dtypes, devices, bare classes

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
        return f"<{_shown(name)}>"

    def _key(self, key: Any, above: tuple[int, ...]) -> Any:
        return key if key is None or isinstance(key, int | float | str) else _shown(self.value(key, above))


def _is_kept(value: Any) -> bool:
    return not isinstance(value, Tensor | torch.UntypedStorage | torch.TypedStorage)


# --- what the tensors are


def _check_count(path: Path, names: Collection[str]) -> None:
    if len(names) > _MAX_TENSORS:
        raise BadInputError(path, f"holds {len(names)} tensors, more than any model", _AVOID)


def _check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuses tensors that are not dense, larger than the bytes behind them, or not finite."""
    for key, tensor in tensors.items():
        name = _shown(key)
        dense = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested
        if not dense or tensor.device.type != "cpu":
            raise BadInputError(path, f"{name} is not a plain dense tensor", _RESAVE)
        if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise BadInputError(path, f"{name} has more elements ({tensor.numel()}) than the file holds", _AVOID)
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        # The sum of finite values is finite unless it overflows: only then is each value looked at.
        wide = tensor.float() if tensor.itemsize < 4 else tensor
        if not torch.isfinite(wide.sum()) and not torch.isfinite(wide).all():
            raise BadInputError(path, f"{name} holds NaN or infinite values", _AGAIN)


def _first(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(_shown(name) for name in names[:count]) + (", ..." if len(names) > count else "")


def _shown(value: object) -> str:
    """Text from a file, fit for an error line: no control characters, not endless."""
    return ascii(str(value))[1:-1][:120]
