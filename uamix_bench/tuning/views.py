"""Augmentations that make a view, all on log-mel spectrograms, vectorised over the batch.

On a logarithmic power scale a gain is an offset, an equaliser a curve over mel bins, a fade a ramp over frames, and
noise joins by log-add-exp; stretching, shifting and looping are one gather. So a view costs next to nothing compared
with the encoder, and no waveform is decoded twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from uamix_bench.models.frontend import FLOOR
from uamix_bench.tuning.data import Frames
from uamix_bench.tuning.recipe import Views
from uamix_bench.util.arrays import Doubles, Halves, Ints, Mask

SILENCE = math.log(FLOOR)
NEPERS_PER_DB = math.log(10) / 10  # natural logarithm of power
_DRAWS = (
    "start speed mel_shift_p mel_shift gain tilt1 tilt2 tilt3 tilt4 noise_p noise_snr noise_slope low_pass_p "
    "low_pass_hz fade_p fade_in fade_out time_mask_p time_mask time_mask_start mel_mask_p mel_mask mel_mask_start"
).split()
DRAWS = len(_DRAWS)
_WEYL = 0x9E3779B97F4A7C15 - 2**64  # SplitMix64's step from one state to the next


def crop(
    values: Halves,
    first: Ints,
    count: Ints,
    draws: Doubles,
    frames: int,
    views: Views,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Cuts a stretched window out of each recording; a recording shorter than the window is looped.

    Args:
        values: (N, F) float16 log-mel frames of all recordings, one after the other, in nepers of power.
        first: (B,) row of each recording's first frame.
        count: (B,) frames of each recording.
        draws: (B, DRAWS) uniforms in [0, 1).
        frames: Number of frames T of the window.
        views: Strengths of the augmentations.
        device: Torch device of the windows.

    Returns:
        (B, T, F) float32.
    """
    u = dict(zip(_DRAWS, draws.T, strict=True))
    limit = math.log1p(views.stretch)
    speed = np.exp((2 * u["speed"] - 1) * limit)
    spare = np.maximum(count - frames * speed, 0)
    start = np.where(spare > 0, u["start"] * spare, u["start"] * count)  # a loop may begin anywhere
    position = start[:, None] + np.arange(frames) * speed[:, None]  # (B, T), in source frames
    low = np.floor(position).astype(np.int64)
    share = torch.from_numpy((position - low).astype(np.float32)).to(device)[:, :, None]
    rows = [first[:, None] + (low + step) % count[:, None] for step in (0, 1)]
    here, after = (torch.from_numpy(values[row]).to(device).float() for row in rows)
    return torch.lerp(here, after, share)


def augment(window: Tensor, draws: Doubles, noise: Tensor, mel_hz: Tensor, views: Views) -> Tensor:
    """Makes a view of each window.

    In this order: mel shift, pitch, smooth equaliser, fades, additive noise, band limit (40 nepers an octave), gain,
    masks. Nothing falls below the front end's own floor.

    Args:
        window: (B, T, F) float32 log-mel power in nepers.
        draws: (B, DRAWS) uniforms in [0, 1).
        noise: (B, T, F) log of unit-mean exponential variates: white noise's log-mel fluctuation. Rows that are not
            `noisy` are ignored.
        mel_hz: (F,) centre frequency of the bins, Hz.
        views: Strengths of the augmentations.

    Returns:
        (B, T, F) float32.
    """
    _, frames, bins = window.shape
    columns = torch.from_numpy(draws).float().to(window).T[:, :, None, None]
    u: dict[str, Tensor] = dict(zip(_DRAWS, columns, strict=True))

    def happens(name: str, probability: float) -> Tensor:
        return (u[name] < probability).float()

    def signed(name: str) -> Tensor:
        return 2 * u[name] - 1

    time = torch.arange(frames, device=window.device).to(window)[None, :, None] / frames
    mel = torch.arange(bins, device=window.device).to(window)[None, None, :] / bins

    view = _move_mel(window, happens("mel_shift_p", views.mel_shift_p) * signed("mel_shift") * views.mel_shift)
    if views.pitch_p and views.pitch:
        semitones = happens("mel_shift_p", views.pitch_p) * signed("mel_shift") * views.pitch
        source_hz = mel_hz * torch.exp2(-semitones / 12)  # (B, 1, F)
        view = _move_mel(view, (_mel(mel_hz) - _mel(source_hz)) / (_mel(mel_hz[1]) - _mel(mel_hz[0])))
    curve = sum(signed(f"tilt{k}") * torch.cos(math.pi * k * mel) for k in (1, 2, 3, 4)) / 2
    view = view + views.tilt_db * NEPERS_PER_DB * curve

    fade = happens("fade_p", views.fade_p)
    ramp_in = (time / (u["fade_in"] * 0.5).clamp_min(1e-3)).clamp(0, 1)
    ramp_out = ((1 - time) / (u["fade_out"] * 0.5).clamp_min(1e-3)).clamp(0, 1)
    view = view + fade * 2 * torch.log((ramp_in * ramp_out).clamp_min(1e-3))

    low_db, high_db = views.noise_snr_db
    snr = (low_db + u["noise_snr"] * (high_db - low_db)) * NEPERS_PER_DB
    level = torch.logsumexp(window.flatten(1), dim=1)[:, None, None] - math.log(frames * bins) - snr
    slope = signed("noise_slope") * 2 * torch.log(mel + 1 / 8)  # from rising to falling spectra
    rows = torch.from_numpy(np.flatnonzero(noisy(draws, views))).to(view.device)
    view = view.index_copy(0, rows, torch.logaddexp(view[rows], level[rows] + slope[rows] + noise[rows]))

    low_hz, high_hz = views.low_pass_hz
    cutoff = low_hz + u["low_pass_hz"] * (high_hz - low_hz)
    above = torch.log2(mel_hz[None, None, :] / cutoff).clamp_min(0)
    band = (happens("low_pass_p", views.low_pass_p) > 0) & (above > 0)
    view = torch.where(band, view - 40 * above, view)

    hidden = _span(time, u["time_mask"] * views.time_mask, u["time_mask_start"]) & (
        u["time_mask_p"] < views.time_mask_p
    )
    hidden = hidden | (
        _span(mel, u["mel_mask"] * views.mel_mask / bins, u["mel_mask_start"]) & (u["mel_mask_p"] < views.mel_mask_p)
    )
    view = view + signed("gain") * views.gain_db * NEPERS_PER_DB
    return torch.where(hidden, SILENCE, view).clamp_min(SILENCE)


def noisy(draws: Doubles, views: Views) -> Mask:
    """Mask (B,) of the (B, DRAWS) drawn views that get additive noise."""
    return draws[:, _DRAWS.index("noise_p")] < views.noise_p


def _span(axis: Tensor, width: Tensor, start: Tensor) -> Tensor:
    """Mask of an interval of `width` (share of the axis) that lies wholly on the axis."""
    begin = start * (1 - width)
    return (axis >= begin) & (axis < begin + width)


def _mel(hz: Tensor) -> Tensor:
    """Kaldi's mel scale, on which the bins are evenly spaced (mel-computations.h)."""
    return 1127 * torch.log1p(hz / 700)


def _move_mel(window: Tensor, shift: Tensor) -> Tensor:
    """Moves each window up the mel axis by a fractional number of bins, (B, 1, 1) or (B, 1, F), repeating the edge."""
    bins = window.shape[-1]
    position = (torch.arange(bins, device=window.device).to(window) - shift).clamp(0, bins - 1)  # (B, 1, F)
    low = position.floor().clamp_max(bins - 2)
    index = low.long().expand_as(window)
    return torch.lerp(window.gather(2, index), window.gather(2, index + 1), position - low)


@dataclass(frozen=True)
class Spectrograms:
    """Function that makes normalised views of clips.

    Args:
        normalise: Function from (B, T, F) log-mel nepers to the model's input.
        mel_hz: (F,) centre frequency of the bins, Hz.
        views: Strengths of the augmentations.
        device: Torch device on which views are made.
    """

    normalise: Callable[[Tensor], Tensor]
    mel_hz: Tensor
    views: Views
    device: torch.device

    def __call__(
        self,
        frames: Frames,
        clips: Ints,
        draws: Doubles,
        length: int,
        noise_seeds: Ints,
    ) -> Tensor:
        """Returns a normalised view of each clip.

        Args:
            frames: Training data.
            clips: (B,) rows of the clips.
            draws: (B, DRAWS) uniforms in [0, 1).
            length: Number of frames T of the views.
            noise_seeds: (B,) seeds of the clips' noise.

        Returns:
            (B, length, F) float32 on the device.
        """
        first, count = frames.first[clips], frames.count[clips]
        window = crop(frames.values, first, count, draws, length, self.views, self.device)
        noise = torch.zeros_like(window)
        rows = np.flatnonzero(noisy(draws, self.views))
        if self.device.type == "cpu":
            generator = torch.Generator()
            for row in rows:
                noise[row].exponential_(generator=generator.manual_seed(int(noise_seeds[row]))).log_()
        elif len(rows):  # a GPU takes all rows at once as quickly as one
            seeds = torch.from_numpy(noise_seeds[rows]).to(self.device)
            noise[torch.from_numpy(rows).to(self.device)] = hashed_noise(seeds, length, window.shape[2])
        return self.normalise(augment(window, draws, noise, self.mel_hz.to(self.device), self.views))


def hashed_noise(seeds: Tensor, frames: int, bins: int) -> Tensor:
    """Logs of unit-mean exponential variates, each a function of its row's seed and its place in the row.

    The uniforms are the highest 23 bits of SplitMix64's words (Steele, Lea and Flood, OOPSLA 2014), one generator a
    row, so that no row waits for another.

    Args:
        seeds: (B,) int64 seeds of the rows.
        frames: Number of frames T.
        bins: Number of mel bins F.

    Returns:
        (B, T, F) float32, on the device of the seeds.
    """
    count = torch.arange(1, frames * bins + 1, device=seeds.device)
    words = splitmix64(seeds[:, None] + count * _WEYL)
    uniform = ((words >> 41 & (1 << 23) - 1).float() + 0.5) * 2.0**-23  # exact, and never 0 or 1
    return uniform.log_().neg_().log_().view(len(seeds), frames, bins)


def splitmix64(state: Tensor) -> Tensor:
    """SplitMix64's word for each int64 state; its unsigned arithmetic, modulo 2 ** 64, in signed numbers."""
    word = state
    for shift, factor in ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64)):
        word = (word ^ (word >> shift & (1 << 64 - shift) - 1)) * factor
    return word ^ (word >> 31 & (1 << 33) - 1)
