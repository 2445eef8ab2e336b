"""Pre-norm transformer block of the vision transformer, bit for bit timm's, without timm's import time.

timm loads torchvision, which takes longer to import than torch itself. The block is that of Dosovitskiy et al. (2021,
arXiv 2010.11929) as MAE builds it (models_mae.py): LayerNorm eps 1e-6, fused qkv with bias, exact GELU, MLP ratio 4.
Parameter names are timm's, so that published state dicts load as they are. `tests/models/test_block.py` compares
outputs, gradients and initial weights with timm's block.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    """Multi-head self-attention.

    Args:
        width: Number of features of a token, D, a multiple of `heads`.
        heads: Number of attention heads.

    Attributes:
        fused_attn: True for torch's fused kernel, False for plain matrix products.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.fused_attn = True
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Attends within each clip.

        Args:
            tokens: Tokens, (B, L, D).
            attn_mask: Mask of the keys, bool, broadcastable to (B, heads, L, L), False where hidden; None for none.

        Returns:
            Tokens, (B, L, D).
        """
        batch, length, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, L, head_dim)
        if self.fused_attn:
            mixed = scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)
        else:
            scores = (query * self.scale) @ key.transpose(-2, -1)  # (B, heads, L, L)
            if attn_mask is not None:
                scores = scores.masked_fill(~attn_mask, float("-inf"))
            mixed = scores.softmax(dim=-1) @ value
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return projected


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them; `hidden` features inside."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps tokens (B, L, D) to tokens (B, L, D)."""
        mapped: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return mapped


class Block(nn.Module):
    """Self-attention, then an MLP, each after a norm and beside a residual path.

    Args:
        width: Number of features of a token, D.
        heads: Number of attention heads.

    Attributes:
        drop_path1: Stochastic depth of the attention path; the identity unless fine-tuning replaces it.
        drop_path2: Stochastic depth of the MLP's path.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.drop_path1: nn.Module = nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)
        self.drop_path2: nn.Module = nn.Identity()

    def forward(self, tokens: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Maps tokens (B, L, D) to tokens (B, L, D); `attn_mask` as in :meth:`Attention.forward`."""
        tokens = tokens + self.drop_path1(self.attn(self.norm1(tokens), attn_mask=attn_mask))
        passed: Tensor = tokens + self.drop_path2(self.mlp(self.norm2(tokens)))
        return passed


class PatchEmbed(nn.Module):
    """Linear embedding of patches, as a convolution whose kernel and stride are the patch.

    Args:
        patch: Height and width of a patch.
        width: Number of features of a token, D.
    """

    def __init__(self, patch: tuple[int, int], width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, kernel_size=patch, stride=patch)

    def forward(self, image: Tensor) -> Tensor:
        """Embeds images (B, 1, H, W) into a grid of tokens (B, D, H / height, W / width)."""
        grid: Tensor = self.proj(image)
        return grid
