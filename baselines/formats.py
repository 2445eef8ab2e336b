"""Recognition of official formats by names and shapes of tensors, to name the model that a wrong checkpoint is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from uamix_bench.models.checkpoint import WRAPPERS, Checkpoint, unwrapped, with_remark
from uamix_bench.util.errors import BadInputError

_BEATS = "patch_embedding.weight"
_MAE_AST = ("enc_sine_pos_embed.pe", "stem.positions")
# MAE's family shares its names, and is told by positions and patch: 64 columns of 8 rows, 62 of 8, and M2D's, whose
# patches divide 80 mel bins.
_POSITIONS = {64 * 8: "audiomae", 62 * 8: "maskspec"}
_M2D_MEL_BINS = 80

# Tensors by which an encoder is found under a wrapper's prefix: official names, and those of our own files.
_MARKS = {
    "beats": (
        _BEATS,
        "encoder.pos_conv.0.bias",
        "encoder.layers.0.fc1.weight",
        f"stem.{_BEATS}",
        "blocks.0.fc1.weight",
    ),
    "mae-ast": (*_MAE_AST, "encoder.layers.0.fc1.weight", "blocks.0.linear1.weight"),
}
_MAE_STEM = ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")
_MAE_REST = ("blocks.0.norm1.weight", "blocks.0.attn.qkv.weight", "norm.weight")
_MAE_MARKS = (
    *(*_MAE_STEM, *_MAE_REST),
    *(f"encoder.stem.{name}" for name in _MAE_STEM),
    *(f"encoder.{name}" for name in _MAE_REST),
)


def own_checkpoint(checkpoint: Checkpoint, name: str, what: str, wrappers: Sequence[str] = WRAPPERS) -> Checkpoint:
    """A model's own checkpoint, its state dict without the prefix of a wrapper; that of another model is refused.

    Args:
        checkpoint: Checkpoint, official or converted by this package.
        name: Name on the command line of the requested model.
        what: Name of that model in the error line (``AudioMAE``).
        wrappers: Known prefixes of wrappers.

    Raises:
        BadInputError: The checkpoint is another model's, and the line says how to give it; or no known model's.
    """
    other = owner(checkpoint.tensors)
    if other not in (None, name):
        raise BadInputError(checkpoint.path, f"is a checkpoint of {other}, not of {what}", f"give it as {other}=PATH")
    marks = _MARKS.get(name, _MAE_MARKS)
    found = unwrapped(checkpoint.tensors, marks, path=checkpoint.path, what=what, wrappers=wrappers)
    return replace(checkpoint, tensors=found.tensors, metadata=with_remark(checkpoint.metadata, found.remark))


def owner(tensors: Mapping[str, Tensor]) -> str | None:
    """Returns the name on the command line of the model that such tensors belong to, or None."""
    if any(key.endswith(_BEATS) for key in tensors):
        return "beats"
    if any(_encoder_tensor(tensors, name) is not None for name in _MAE_AST):
        return "mae-ast"
    patch, positions = (_encoder_tensor(tensors, name) for name in ("patch_embed.proj.weight", "pos_embed"))
    if patch is None or patch.ndim != 4 or patch.shape[1] != 1 or positions is None or positions.ndim != 3:
        return None
    (mel, frames), count = patch.shape[2:], positions.shape[1] - 1
    if (mel, frames) == (16, 16) and count in _POSITIONS:
        return _POSITIONS[count]
    if not mel or _M2D_MEL_BINS % mel or count <= 0 or count % (_M2D_MEL_BINS // mel):
        return None
    return "m2d"


def _encoder_tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor | None:
    """Finds a tensor of the encoder under any prefix (a wrapper's, or this package's)."""
    return next((value for key, value in tensors.items() if f".{key}".endswith(f".{name}")), None)
