"""Checkpoint files of safetensors and of torch, read without running code in them, and written as safetensors."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from uamix_bench.models.torchfile import AGAIN, AVOID, LEGACY_MAGIC, RESAVE, UNPACK, ZIP_MAGIC, read_torch, shown
from uamix_bench.storage.digests import fingerprint
from uamix_bench.util.errors import BadInputError, MachineError
from uamix_bench.util.files import canonical_json, unreadable, write_atomic
from uamix_bench.util.text import listed

AnySettings = TypeVar("AnySettings", bound=BaseModel)

# What DataParallel, torch.compile, Lightning and a model around an encoder put before its keys.
WRAPPERS = ("module.", "_orig_mod.", "model.", "encoder.")

_NAME_IT = "name the checkpoint file"
_ENOUGH = 1 / 3  # of a model's tensors that are looked for, to say that it is there under a prefix
_PART = re.compile(r"-0*(\d+)-of-0*(\d+)\.\w+")  # how transformers names the parts of a large checkpoint

_MAX_HEADER_BYTES = 8 * 2**20  # a safetensors header of ViT size has 50 kB; one of 63 MB takes seconds to parse
_MAX_TENSORS = 20_000
_SMALL_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Checkpoint:
    """Content of one checkpoint file.

    Attributes:
        path: Path of the file.
        sha256: SHA-256 (hex) of the file's bytes.
        tensors: State dict as stored: CPU tensors of any shape and dtype, all values finite.
        extras: Values beside the state dict, as plain data (dict, list, tuple, str, bytes, numbers, None). Objects
            become the dict of their attributes, paths and bare classes a str. No tensors.
        metadata: Header metadata of a safetensors file; empty for others. ``remarks`` holds facts that belong beside
            a score, one a line.
        stubbed: Names of the globals that were replaced by inert stubs, sorted.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    extras: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    stubbed: tuple[str, ...] = ()


def read_checkpoint(path: Path, key: str | None = None, *, part: bool = False) -> Checkpoint:
    """Reads a safetensors file or a file of ``torch.save`` and executes no code in it.

    Args:
        path: Path of the file, or of a folder that holds ``model.safetensors`` (as ``tune --out`` writes).
        key: Key of the state dict in a file of ``torch.save``, such as ``model_ema`` or ``states.0``; by default
            one of the usual keys (``model``, ``state_dict``, ``net``, ...), or the only one that holds tensors.
        part: True reads one of several files of a checkpoint. By default such a file is refused.

    Returns:
        The state dict with its keys unchanged, and the rest of the file.

    Raises:
        BadInputError: The file is missing, truncated, damaged, unsafe, no checkpoint, or holds NaN or infinities; or
            it holds several state dicts to choose from.
        MachineError: The file cannot be read, or does not fit into memory.
    """
    path = Path(path)
    if any("\udc80" <= one <= "\udcff" for one in str(path)):  # no library opens it
        raise BadInputError(path, "has a name that is not UTF-8", "rename it")
    try:
        if path.is_dir():
            if not (path / "model.safetensors").is_file():
                raise BadInputError(path, "is a folder without model.safetensors", _NAME_IT)
            path = path / "model.safetensors"
        if path.exists() and not path.is_file():
            raise BadInputError(path, "is not a regular file", _NAME_IT)
        if not part and (named := _PART.search(path.name)) and named[2] != "1":
            raise BadInputError(path, f"is part {named[1]} of {named[2]} of a checkpoint", "join its parts in one file")
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise unreadable(path, error) from error
    _refuse_other_formats(path, head)
    sha256 = fingerprint(path)
    try:
        if _looks_like_safetensors(head):
            if key is not None:
                raise BadInputError(path, f"is a safetensors file, which has no key {key!a}", "omit the key")
            tensors, metadata = _read_safetensors(path, head)
            checkpoint = Checkpoint(path, sha256, tensors, metadata=metadata)
        else:
            content = read_torch(path, is_zip=head.startswith(ZIP_MAGIC), key=key)
            metadata = with_remark({}, content.remark)
            checkpoint = Checkpoint(path, sha256, content.tensors, content.extras, metadata, content.stubbed)
        _check_tensors(path, checkpoint.tensors)
    except MemoryError:
        if path.stat().st_size < _SMALL_BYTES:  # what it stores takes no more than that: a length in it is false
            raise BadInputError(path, "asks for far more memory than it has bytes", AGAIN) from None
        raise MachineError(path, "does not fit into memory", "use a machine with more") from None
    return checkpoint


def with_remark(metadata: Mapping[str, str], line: str) -> dict[str, str]:
    """Metadata with a line added to its remarks; an empty line adds nothing."""
    return {**metadata, "remarks": "\n".join(filter(None, (metadata.get("remarks"), line)))} if line else {**metadata}


class Unwrapped(NamedTuple):
    """A state dict without a wrapper's prefix, and what should be known of the choice: a line, or nothing."""

    tensors: dict[str, Tensor]
    remark: str


def unwrapped(
    tensors: Mapping[str, Tensor],
    marks: Collection[str],
    *,
    path: Path,
    what: str,
    wrappers: Sequence[str] = WRAPPERS,
) -> Unwrapped:
    """State dict without the prefix that wrappers such as ``module.`` add. Keys without the prefix are left out.

    The prefix is empty or made of `wrappers`, in any order. It is the one under which most of `marks` are found. Other
    weights of the model under another prefix, such as a moving average, are left out too, and the remark names them.

    Args:
        tensors: State dict as stored.
        marks: Names of some of the module's own tensors.
        path: Path of the file that holds the tensors, for error lines.
        what: Name of the model, for error lines.
        wrappers: Known prefixes.

    Raises:
        BadInputError: None of `marks` is found, or only under an unknown prefix, or equally many under several.
    """
    everywhere = Counter(prefix for key in tensors for prefix in _endings(key) if key[len(prefix) :] in marks)
    most = max(everywhere.values(), default=0)
    found = {prefix: count for prefix, count in everywhere.items() if prefix in _prefixes(prefix, wrappers)}
    if not found:
        foreign = [f"'{shown(prefix)}'" for prefix, count in everywhere.items() if count == most]
        if most >= _ENOUGH * len(marks):
            reason = f"its keys begin with {' or '.join(foreign[:5])}, which no known wrapper puts there"
            raise BadInputError(
                path, reason, f"save {'one of them' if foreign[1:] else 'the state dict'} without that prefix"
            )
        reason = f"holds no tensor of {what} (its keys: {listed(map(shown, tensors), 5)})"
        raise BadInputError(path, reason, f"this is no checkpoint of {what}")
    best = [prefix for prefix, count in found.items() if count == max(found.values())]
    if len(best) > 1 and "" not in best:
        under = " and ".join(f"'{shown(prefix)}'" for prefix in sorted(best))
        raise BadInputError(path, f"holds the tensors of {what} under {under}", "save one of them alone")
    prefix = "" if "" in best else best[0]
    own = [mark for mark in marks if prefix + mark in tensors]
    copies = [other for other, count in everywhere.items() if other != prefix and count == found[prefix] == most]
    others = [other for other in copies if _differ(tensors, own, prefix, other)]
    remark = ""
    if others:
        taken = f"under '{shown(prefix)}'" if prefix else "without a prefix"
        where = " and ".join(f"'{shown(other)}'" for other in others[:5])
        remark = f"the weights are those {taken}; under {where} are others of the same names"
        remark += " (to evaluate those, save them alone, without it)"
    left = tuple(other for other in copies if other.startswith(prefix))
    return Unwrapped(
        {
            key.removeprefix(prefix): value
            for key, value in tensors.items()
            if key.startswith(prefix) and not (left and key.startswith(left))
        },
        remark,
    )


def _endings(key: str) -> Iterator[str]:
    """All that a wrapper may have put before a key: nothing, and what ends with one of its dots."""
    yield ""
    yield from (key[: at + 1] for at, letter in enumerate(key) if letter == ".")


def _differ(tensors: Mapping[str, Tensor], marks: Sequence[str], one: str, other: str) -> bool:
    """True if tensors of the same names differ under two prefixes."""
    pairs = ((tensors[one + mark], tensors.get(other + mark)) for mark in marks)
    return not all(b is not None and a.shape == b.shape and torch.equal(a, b.to(a.dtype)) for a, b in pairs)


def _prefixes(key: str, wrappers: Sequence[str]) -> Iterator[str]:
    """Prefixes of a key that are made of wrappers, the empty one first."""
    end = 0
    while True:
        yield key[:end]
        wrapper = next((wrapper for wrapper in wrappers if key.startswith(wrapper, end)), "")
        if not wrapper:
            return
        end += len(wrapper)


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], *, path: Path, what: str) -> None:
    """Fills every parameter and persistent buffer of `module`. Keys that the module does not have are skipped.

    A module on the meta device gets its own float32 copies, so that its weights are not initialised twice. On other
    devices the values are copied into the existing tensors.

    Args:
        module: Module to fill.
        tensors: State dict with the module's own key names, bare or under a prefix that `unwrapped` knows, of any
            floating dtype.
        path: Path of the file that holds the tensors, for error lines.
        what: Name of the model, for error lines (``AudioMAE``).

    Raises:
        BadInputError: Keys are missing, have other shapes, or are integers where the module has none; the line counts
            them and names the first five.
    """
    wanted = module.state_dict()
    if wanted:
        tensors, remark = unwrapped(tensors, wanted.keys(), path=path, what=what)
        if remark:
            warnings.warn(f"{path}: {remark}", stacklevel=2)
    missing = [key for key in wanted if key not in tensors]
    if missing:
        reason = f"lacks {len(missing)} of {len(wanted)} encoder tensors ({listed(map(shown, missing), 5)})"
        raise BadInputError(path, reason, f"this is no whole checkpoint of {what}")
    wrong = [
        f"{key} is {list(tensors[key].shape)}, expected {list(value.shape)}"
        for key, value in wanted.items()
        if tensors[key].shape != value.shape
    ]
    if wrong:
        reason = f"has {len(wrong)} of {len(wanted)} encoder tensors in another shape ({listed(map(shown, wrong), 5)})"
        raise BadInputError(path, reason, f"this is not a checkpoint of {what} of this size")
    coded = [key for key, value in wanted.items() if value.is_floating_point() > tensors[key].is_floating_point()]
    if coded:
        kind = str(tensors[coded[0]].dtype).removeprefix("torch.")
        reason = f"holds {len(coded)} of {len(wanted)} encoder tensors as {kind} ({listed(map(shown, coded), 5)})"
        raise BadInputError(path, reason, "save them as float32, as they were before")
    on_meta = any(value.is_meta for value in wanted.values())
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
    """Reads a model's settings from the metadata of a converted file, else from the official file's own settings.

    Args:
        checkpoint: Content of the checkpoint file.
        kind: Pydantic class of the settings.
        official: Settings in the official file; None if it holds none.
        what: Name of the model, for errors.
        see: Remedy for settings of another model.

    Raises:
        BadInputError: The file holds no settings, or settings of another model; the line names the setting.
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
    """Writes tensors and metadata as a safetensors file, atomically. Equal input gives equal bytes.

    Args:
        path: Path of the file to write.
        tensors: Tensors of any shape, dtype and device. Tensors that share memory are stored separately.
        metadata: Texts for the header, by name.

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


# --- which format


def _refuse_other_formats(path: Path, head: bytes) -> None:
    """Refuses a file that is neither safetensors nor torch's, and names its format, from its first 512 bytes."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        raise BadInputError(path, "is empty", AGAIN)
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        raise BadInputError(path, "is an HTML page, not a checkpoint", "download the file itself")
    if text.startswith(b"version https://git-lfs"):
        raise BadInputError(path, "is a git-lfs pointer, not the file itself", "fetch it with `git lfs pull`")
    if _looks_like_safetensors(head) or head.startswith((ZIP_MAGIC, LEGACY_MAGIC)):
        return
    if head[257:262] == b"ustar":
        raise BadInputError(path, "is a tar archive and holds no state dict", UNPACK)
    if head.startswith(b"\x1f\x8b"):
        raise BadInputError(path, "is a gzip archive and holds no state dict", UNPACK)
    if head.startswith(b"\x80"):
        raise BadInputError(path, "is a bare pickle, not a file of torch.save, and was not opened", RESAVE)
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        raise BadInputError(path, "is a text file, not a checkpoint", _NAME_IT)
    raise BadInputError(path, "is neither a safetensors nor a torch file", _NAME_IT)


def _looks_like_safetensors(head: bytes) -> bool:
    """Test for the beginning of a safetensors file: a length (uint64, little-endian), then JSON."""
    return head[8:9] == b"{" and not head.startswith(ZIP_MAGIC)


def _read_safetensors(path: Path, head: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Maps a safetensors file into memory and returns its tensors and the metadata of its header."""
    (header_bytes,) = struct.unpack("<Q", head[:8])
    if header_bytes > min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
        raise BadInputError(path, f"truncated or damaged (claims a header of {header_bytes} bytes)", AGAIN)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except MemoryError:
        raise
    except Exception as error:  # what torch lacks, safetensors tells by whatever it meets
        if unknown := re.search(r"Dtype not understood: (\w+)|unknown variant `(\w+)`", str(error)):
            reason = f"holds values of the type {unknown[1] or unknown[2]}, which this torch and safetensors lack"
            raise BadInputError(path, reason, "save it as float32") from None
        raise BadInputError(path, f"truncated or damaged ({shown(error)})", AGAIN) from None


# --- what the tensors are


def _check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuses too many tensors, and any that is not dense, is larger than the bytes behind it, or is not finite."""
    if len(tensors) > _MAX_TENSORS:
        raise BadInputError(path, f"holds {len(tensors)} tensors, more than any model", AVOID)
    for key, tensor in tensors.items():
        name = shown(key)
        dense = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested
        if not dense or tensor.device.type != "cpu":
            raise BadInputError(path, f"{name} is not a plain dense tensor", RESAVE)
        if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise BadInputError(path, f"{name} has more elements ({tensor.numel()}) than the file holds", AVOID)
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        # The sum of finite values is finite unless it overflows: only then is each value looked at.
        try:
            wide = tensor.float() if tensor.itemsize < 4 else tensor
        except NotImplementedError:  # two numbers to a byte
            reason = f"{name} is of the type {str(tensor.dtype).removeprefix('torch.')}, which torch cannot convert"
            raise BadInputError(path, reason, "save it as float32") from None
        if not torch.isfinite(wide.sum()) and not torch.isfinite(wide).all():
            raise BadInputError(path, f"{name} holds NaN or infinite values", AGAIN)
