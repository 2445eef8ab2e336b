"""Mean embedding of the training clips, which a file of weights keeps for the pooling `CENTRED`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from uamix_bench.models.model import AudioModel
from uamix_bench.models.tunable import Tunable
from uamix_bench.tuning.data import Frames, drawn
from uamix_bench.util.progress import SILENT, Progress

_CLIPS = 2_048  # at most; the mean's error is then 1/45 of the embeddings' spread
_BATCH = 64


@torch.inference_mode()
def mean_embedding(model: Tunable, frames: Frames, pooling: str, seed: int, progress: Progress = SILENT) -> Tensor:
    """Mean embedding of the training clips: SimpleShot's base mean (Wang et al. 2019, arXiv 1911.04623, section 3).

    Each clip is heard whole, without augmentation; of more than 2,048 clips the seed draws as many.

    Args:
        model: Model of the project's own, on any device.
        frames: Training data.
        pooling: Pooling of the embeddings.
        seed: Seed of the draw.
        progress: Progress display of the clips.

    Returns:
        Mean, (D,) float32, on the processor.
    """
    assert isinstance(model, AudioModel)
    shape, device = model.encoder.shape, next(model.encoder.parameters()).device
    rows = drawn(len(frames), min(len(frames), _CLIPS), seed)
    columns = (frames.count[rows] // shape.patch_frames).clip(1, shape.columns)
    total = torch.zeros((), dtype=torch.float64)
    with progress.bar("centre", len(rows), "clips") as advance:
        for count in np.unique(columns).tolist():
            alike = rows[columns == count]
            for batch in np.split(alike, range(_BATCH, len(alike), _BATCH)):
                window = np.zeros((len(batch), count * shape.patch_frames, shape.mel_bins), np.float32)
                for row, clip in zip(window, batch, strict=True):
                    own = frames.values[frames.first[clip] :][: min(frames.count[clip], len(row))]
                    row[: len(own)] = own
                tokens, mask = model.encoder(model.normalise(torch.from_numpy(window).to(device)))
                total = total + model.pool(tokens.float(), mask, pooling).double().sum(dim=0).cpu()
                advance(len(batch), "")
    return (total / len(rows)).float()
