"""Conversion of official checkpoints to safetensors: tensors under the adapter's names, all else as header text.

It works for every adapter by one convention: `state_dict` and `metadata` define a model completely. Settings that
tensors do not hold (BEATs' cfg, M2D's sizes) are put into `metadata` by ``from_checkpoint``, which looks there first.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from uamix_bench.models.checkpoint import read_checkpoint, write_safetensors
from uamix_bench.models.model import AudioModel
from uamix_bench.plugins import registry
from uamix_bench.storage.digests import fingerprint
from uamix_bench.util.errors import BadInputError, MachineError, UsageError


class Converted(NamedTuple):
    """A converted file.

    Attributes:
        path: Path of the file.
        sha256: SHA-256 (hex) of the file's bytes.
        bytes: Size of the file in bytes.
        difference: Largest change of an embedding of noise, as a share of its largest value; 0.0 is bit-equal.
    """

    path: Path
    sha256: str
    bytes: int
    difference: float


def convert(model: AudioModel, path: Path, dtype: torch.dtype = torch.float32) -> Converted:
    """Writes a model as safetensors, reads it back, and compares the embeddings of the two.

    The file's digest is stored, so that the first load on this machine need not read the whole file for it.

    Args:
        model: Model with weights, on the CPU.
        path: Path of the file to write.
        dtype: Data type of the parameters: float32 keeps embeddings bit for bit, float16 halves the file and rounds.

    Raises:
        BadInputError: The model read back gives other embeddings, or float16 cannot hold its weights.
        MachineError: The file cannot be written.
    """
    sha256 = save(model, path, dtype)
    try:
        again = type(model).from_checkpoint(path)
        again.requires_grad_(False).eval()
        again.input, again.pooling = model.input, model.pooling
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, 2 * model.sample_rate).astype(np.float32)
        one, other = (each.embed([noise], model.sample_rate) for each in (model, again))
        difference = float(np.abs(one - other).max() / np.abs(one).max())
        if dtype == torch.float32 and difference:
            remedy = "its adapter must rebuild a model from its state_dict and metadata"
            raise BadInputError(path, f"gives other embeddings ({difference:.1e}) than the file it came from", remedy)
        if fingerprint(path) != sha256:  # and by this its digest is known when it is first loaded
            raise BadInputError(path, "holds something else than what was written", "convert it again, to another disk")
    except BaseException:  # an interrupt too: what was not compared does not stay
        path.unlink(missing_ok=True)
        raise
    return Converted(path, sha256, path.stat().st_size, difference)


def save(model: AudioModel, path: Path, dtype: torch.dtype = torch.float32) -> str:
    """Writes a model's state dict with its metadata and card, and returns the file's SHA-256 (hex).

    Parameters are stored as `dtype`; buffers (positions, statistics) stay unchanged.

    Raises:
        BadInputError: A weight is beyond the range of `dtype`.
        MachineError: The file cannot be written.
    """
    tensors = model.state_dict()
    for name, parameter in model.named_parameters():
        tensors[name] = parameter.detach().to(dtype)
        if not torch.isfinite(tensors[name]).all():
            raise BadInputError(path, f"{name} is beyond what {dtype} holds", "convert with --dtype float32")
    metadata = {
        **model.metadata,
        "model": model.card.name,
        "adapter_version": model.adapter_version,
        "card": model.card.model_dump_json(),
        "source_sha256": model.metadata.get("sha256") or (model.identity and model.identity.weights_sha256) or "",
    }
    metadata.pop("sha256", None)  # of the file read: that of the new one is another
    return write_safetensors(path, tensors, metadata)


def owner(path: Path) -> str:
    """Finds the one registered model that accepts a checkpoint file.

    Raises:
        UsageError: Several models accept the file.
        BadInputError: No model accepts the file, or it is damaged or unsafe.
        MachineError: A package that the bundled models need does not load.
    """
    read_checkpoint(path)  # an unsafe file is refused before any adapter, a stranger's among them, opens it
    takers, refusals = [], []
    for name, plugin in registry.models().items():
        if not plugin.card.needs_weights or plugin.card.reference:
            continue
        try:
            adapter = plugin.load()
        except (BadInputError, MachineError) as error:
            if plugin.entry_point.value.startswith("uamix_bench."):
                raise
            warnings.warn(f"model '{name}' is left out: {error}", stacklevel=2)
            continue
        try:
            adapter.from_checkpoint(path)
            takers.append(name)
        except Exception as error:  # whatever a stranger's adapter raises at a file that is not its own
            refusals.append(error)
    if len(takers) == 1:
        return takers[0]
    if takers:
        remedy = f"say which: {' or '.join(f'{name}={path}' for name in takers)}"
        raise UsageError(path, f"is a checkpoint of {' and '.join(takers)}", remedy)
    if refusals and len({str(error) for error in refusals}) == 1:  # not about the model but about the file
        raise refusals[0]
    raise BadInputError(path, "no model takes it", "name the model, NAME=FILE, to see why")
