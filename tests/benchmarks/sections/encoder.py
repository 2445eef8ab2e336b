"""The encoder beside timm's forward."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from uamix_bench.reports.blocks import Prose, Section, Table

from .. import limits, peers, tables
from ..scale import Scale
from ..tables import Case
from ..timing import Side, measure
from ..workloads import encoder, final_tokens, operations

LONGEST = 1_024  # frames, AudioMAE's own
SIZES = ((2, LONGEST), (4, 496), (16, 96))  # clips of a batch, their frames: 10 s, 5 s, 1 s
SAME, PADDED = "timm, same frames", "timm, padded"


def section(scale: Scale) -> Section:
    shape = scale.encoder
    text = f"""
        A vision transformer of {shape.depth} blocks, {shape.width} wide, on spectrograms of 128 mel bins; random
        weights, the same on both sides. timm's own model takes the same frames (dynamic_img_size), and what AudioMAE's
        own code gives it: all clips padded to {LONGEST:,}. The limit is the operations of the encoder, 24 T D² + 4 T² D
        a block, at the rate of a matrix product of its size and precision, by the same torch. Medians of
        {scale.encoder_rounds} rounds.
    """
    tests = [_table(scale, device, dtype) for device in limits.devices() for dtype in (torch.float32, torch.bfloat16)]
    return Section("Encoder", [Prose(text), *(table for table in tests if table)])


def _table(scale: Scale, device: str, dtype: torch.dtype) -> Table | None:
    if dtype == torch.bfloat16 and not limits.has_bf16(device):
        return None
    many = 64 if device == "cuda" else 1
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
        cases = [_case(scale, device, dtype, many * clips, frames) for clips, frames in SIZES]
    title = f"{'GPU' if device == 'cuda' else 'CPU'}, {str(dtype).removeprefix('torch.')}"
    return tables.comparison(title, cases, (SAME, PADDED), "ms a clip", tables.milliseconds)


def _case(scale: Scale, device: str, dtype: torch.dtype, clips: int, frames: int) -> Case:
    shape = scale.encoder
    ours = encoder(shape)
    any_length, full_length = (peers.timm_vit(ours, any_length).to(device) for any_length in (True, False))
    ours.to(device)
    image = torch.randn(clips, 1, frames, 128, generator=torch.Generator().manual_seed(2)).to(device)
    sides = {
        "ours": Side(lambda: final_tokens(ours, image[:, 0]), clips),
        SAME: Side(lambda: any_length.forward_features(image), clips),
        "product": limits.product(dtype, device),
    }
    absent = {}
    if frames == LONGEST:
        absent[PADDED] = "the same"
        if dtype == torch.float32 and not torch.allclose(sides["ours"].run(), sides[SAME].run(), atol=1e-3):  # type: ignore[arg-type]
            raise AssertionError("timm's model computes other tokens")
    else:
        few = max(1, clips // 16)
        padded = pad(image[:few], (0, 0, 0, LONGEST - frames))
        sides[PADDED] = Side(lambda: full_length.forward_features(padded), few)
    times = measure(sides, scale.encoder_rounds, device)
    tokens = 1 + frames // shape.patch_frames * shape.rows
    return Case(f"{clips} × {frames:,} frames", times, limits.least(times, product=operations(shape, tokens)), absent)
