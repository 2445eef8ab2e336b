"""The encoder beside timm's forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from uamix_bench.reports.page import Prose, Section, Table
from uamix_bench.vit import AudioViT, initialise

from .. import limits, peers, tables
from ..scale import Scale
from ..tables import Case
from ..timing import Side, measure
from ..workloads import operations

SIZES = ((1, 1_024), (2, 496), (16, 96))  # clips of a batch, their frames: AudioMAE's own, 5 s, 1 s
OTHERS = ("timm", "timm, padded to 1,024 frames")


def section(scale: Scale) -> Section:
    shape = scale.encoder
    text = f"""
        A vision transformer of {shape.depth} blocks, {shape.width} wide, on spectrograms of 128 mel bins; random weights,
        the same on both sides. timm's own model takes the same frames (dynamic_img_size), and what AudioMAE's own code
        gives it: all clips padded to 1,024. The limit is the operations of the encoder, 24 T D² + 4 T² D a block,
        at the rate of a matrix product of its size and precision, by the same torch.
    """
    tests = [_table(scale, device, dtype) for device in _devices() for dtype in (torch.float32, torch.bfloat16)]
    return Section("Encoder", [Prose(text), *(table for table in tests if table)])


def _devices() -> list[str]:
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def has_bf16(device: str) -> bool:
    """Whether products in bfloat16 are more than an emulation."""
    return device == "cuda" or torch.cpu._is_avx512_bf16_supported()


def _table(scale: Scale, device: str, dtype: torch.dtype) -> Table | None:
    if dtype == torch.bfloat16 and not has_bf16(device):
        return None
    many = 64 if device == "cuda" else 1
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
        cases = [_case(scale, device, dtype, many * clips, frames) for clips, frames in SIZES]
    title = f"{'GPU' if device == 'cuda' else 'CPU'}, {str(dtype).removeprefix('torch.')}"
    return tables.comparison(title, cases, OTHERS, "ms a clip", tables.milliseconds, "")


def _case(scale: Scale, device: str, dtype: torch.dtype, clips: int, frames: int) -> Case:
    shape = scale.encoder
    ours = AudioViT(shape).eval()
    initialise(ours, torch.Generator().manual_seed(0))
    padding, any_length = (peers.timm_vit(ours, any_length).to(device) for any_length in (False, True))
    ours.to(device)
    image = torch.randn(clips, 1, frames, 128, generator=torch.Generator().manual_seed(2)).to(device)
    few = max(1, clips // 16)  # of those that are padded
    padded = torch.nn.functional.pad(image[:few], (0, 0, 0, 1_024 - frames))
    if frames == 1_024 and dtype == torch.float32 and not torch.allclose(
        forward(ours, image[:1, 0])(), any_length.forward_features(image[:1]), atol=1e-3
    ):
        raise AssertionError("timm's model computes other tokens")
    times = measure(
        {
            "ours": Side(forward(ours, image[:, 0]), clips),
            OTHERS[0]: Side(lambda: any_length.forward_features(image), clips),
            OTHERS[1]: Side(lambda: padding.forward_features(padded), few),
            "product": limits.product(dtype, 65_536 if device == "cuda" else 1_024, device),
        },
        scale.rounds,
        device,
    )
    tokens = 1 + frames // shape.patch_frames * shape.rows
    limit = limits.least(times, product=operations(shape, tokens))
    return Case(f"{clips} × {frames:,} frames", times, limit)


def forward(encoder: AudioViT, spectrogram: Tensor) -> Callable[[], Any]:
    """What timm's `forward_features` computes, of spectrograms (B, T, F)."""
    return lambda: encoder.norm(encoder(spectrogram)[0])
