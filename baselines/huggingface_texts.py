"""Text side of a model that embeds sounds and texts into one space, from the files of its audio side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from uamix_bench.util.arrays import Floats


class TextSide:
    """CLAP's text encoder with its projection, and its tokenizer.

    Args:
        model: The transformers model, in eval mode.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.requires_grad_(False)
        self.tokenizer = tokenizer

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], device: torch.device) -> Floats:
        """Embeds texts of one number of tokens together, so that none is padded.

        Args:
            texts: Texts, C of them.
            device: Device of the computation.

        Returns:
            Embeddings of unit length in the space that sounds and texts share, (C, D) float32.
        """
        self.model.to(device)
        tokens = [self.tokenizer(text)["input_ids"] for text in texts]
        found: list[Floats] = [np.zeros(0, np.float32)] * len(texts)
        for length in sorted(set(map(len, tokens))):
            rows = [row for row, ids in enumerate(tokens) if len(ids) == length]
            ids = torch.tensor([tokens[row] for row in rows], device=device)
            embedded = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).text_embeds
            unit = nn.functional.normalize(embedded.float(), dim=-1).cpu().numpy()
            for row, one in zip(rows, unit, strict=True):
                found[row] = one
        return np.stack(found)
