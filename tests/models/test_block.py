"""The transformer block and the patch embedding against timm's, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest
import torch
from timm.layers.patch_embed import PatchEmbed as TimmPatchEmbed
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn

from uamix_bench.models.block import Block, PatchEmbed

WIDTH, HEADS = 128, 2


def pair(fused: bool = True) -> tuple[Block, nn.Module]:
    """Both blocks with the same weights, none of them zero or one."""
    own = Block(WIDTH, HEADS)
    timms = TimmBlock(WIDTH, HEADS, mlp_ratio=4.0, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in own.state_dict().values():
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
    timms.load_state_dict(own.state_dict())  # strict: the names are timm's
    own.attn.fused_attn = timms.attn.fused_attn = fused  # type: ignore[union-attr,assignment]
    return own, timms


def tokens(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(3, 11, WIDTH, generator=torch.Generator().manual_seed(2)).to(dtype)


def mask(hidden: int) -> Tensor | None:
    """Keys of three clips, the last of the first clip hidden."""
    keys = torch.ones(3, 1, 1, 11, dtype=torch.bool)
    keys[0, ..., 11 - hidden :] = False
    return keys if hidden else None


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("hidden", [0, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tokens_and_gradients_are_timms(fused: bool, hidden: int, dtype: torch.dtype) -> None:
    passed, gradients = [], []
    for block in pair(fused):
        block.to(dtype)
        given = tokens(dtype).requires_grad_()
        out = block(given, attn_mask=mask(hidden))
        (out.float() ** 2).sum().backward()
        passed.append(out)
        gradients.append({name: part.grad for name, part in block.named_parameters()} | {"input": given.grad})
    assert torch.equal(*passed)
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])  # type: ignore[arg-type]


def test_initial_weights_of_a_seed_are_timms() -> None:
    torch.manual_seed(3)
    own = Block(WIDTH, HEADS).state_dict()
    torch.manual_seed(3)
    timms = TimmBlock(WIDTH, HEADS, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6)).state_dict()  # type: ignore[arg-type]
    assert list(own) == list(timms)
    assert all(torch.equal(own[name], timms[name]) for name in own)


@pytest.mark.parametrize("patch", [(16, 16), (16, 4)])
def test_patches_are_timms(patch: tuple[int, int]) -> None:
    own = PatchEmbed(patch, WIDTH)
    timms = TimmPatchEmbed(None, patch, 1, WIDTH, flatten=False, strict_img_size=False)  # type: ignore[arg-type]
    timms.load_state_dict(own.state_dict())
    image = torch.randn(2, 1, 48, 64, generator=torch.Generator().manual_seed(4))
    assert torch.equal(own(image), timms(image))


def test_an_encoder_imports_neither_timm_nor_torchvision() -> None:
    code = (
        "import sys, uamix_bench.models.vit, uamix_bench.tuning.run; print({'timm', 'torchvision'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
