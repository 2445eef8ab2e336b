"""Front ends from waveform batches to log-mel spectrogram batches, on CPU or GPU: `KaldiFbank` and `LogMel`.

Both take ``waveforms`` (B, S) float32 and ``lengths`` (B,) int64 in samples, and return ``frames`` (B, T, F)
float32 and ``counts`` (B,) int64. Row b holds clip b's own ``counts[b]`` frames, then exact zeros. Samples past a
waveform's length are ignored. A clip's frames are the same in any batch: with MKL on one CPU thread bit for bit,
elsewhere to the rounding of sums in another order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

_WINDOW_POWERS = {"hanning": 1.0, "povey": 0.85}
_KALDI_LOW_HZ = 20.0  # Kaldi's default --low-freq
FLOOR = torch.finfo(torch.float32).eps  # Kaldi's floor of a mel energy, 1.19e-7
_BAND = 32  # mel bins multiplied at once: 98% of the matrix is zeros, and a band skips most of them
_LEAST_FRAMES = 16  # of a batch: for fewer than four rows MKL multiplies by other kernels, which round otherwise
_CPU_FRAMES = 256
_GPU_FRAMES = 65_536
_ALIGNED = 16  # float32 of a cache line, the widest that a processor reads or writes at once


class _Band(NamedTuple):
    """Filters of the mel bins `bins`, as dense weights over the few spectral values `values` that they cover."""

    values: slice
    bins: slice
    weights: Tensor  # (values, bins) float32


class _Filters(NamedTuple):
    """Window, transform length and filters of a front end, on the device."""

    window: Tensor  # (W,) float32
    n_fft: int
    bands: tuple[_Band, ...]


@dataclass(frozen=True)
class KaldiFbank:
    """Log-mel filterbank of Kaldi's ``compute-fbank-feats``, as in ``torchaudio.compliance.kaldi.fbank``.

    25 ms windows every 10 ms that fit wholly inside the clip, the mean of each removed, pre-emphasis 0.97,
    FFT of the next power of two, power spectrum, triangular filters from 20 Hz to Nyquist, natural logarithm
    of max(energy, 1.19e-7). No dither, no energy column. A clip shorter than one window is padded to one.

    Args:
        sample_rate: Sample rate of the waveforms, in Hz.
        num_mel_bins: Number of mel bins, F.
        window: ``hanning`` for a symmetric Hann window, ``povey`` for the same to the power 0.85.
    """

    sample_rate: int
    num_mel_bins: int = 128
    window: Literal["hanning", "povey"] = "povey"

    @property
    def window_length(self) -> int:
        """Length of a window in samples."""
        return self.sample_rate * 25 // 1000

    @property
    def mel_hz(self) -> Tensor:
        """Centre frequencies of the mel bins, (F,) float32, Hz."""
        centres = _kaldi_edges(self.num_mel_bins, _KALDI_LOW_HZ, self.sample_rate / 2)[1:-1]
        return 700.0 * ((centres / 1127.0).exp() - 1.0)

    @property
    def hop_length(self) -> int:
        """Distance from one window to the next in samples."""
        return self.sample_rate * 10 // 1000

    def frames(self, samples: int) -> int:
        """Number of frames of a clip of `samples` samples, one at least."""
        return 1 + max(0, samples - self.window_length) // self.hop_length

    @torch.no_grad()
    def __call__(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the log-mel frames of a batch.

        Args:
            waveforms: Waveforms, (B, S) float32, at the scale that the model was trained with.
            lengths: Length of each clip in samples, (B,) int64, at most S.

        Returns:
            Frames, (B, T, F) float32 with T the largest count; frame count of each clip, (B,) int64.

        Raises:
            ValueError: A shape or type differs from these.
        """
        signal, own = _own_samples(waveforms, lengths, self.window_length, self.hop_length)
        counts = [1 + (length - self.window_length) // self.hop_length for length in own]
        filters = _kaldi_filters(self, signal.device)
        return _log_mel(signal, counts, self.hop_length, filters, _emphasiser, lambda x: x.clamp_(min=FLOOR))


@dataclass(frozen=True)
class LogMel:
    """Log-mel spectrogram of a centred short-time Fourier transform: log(mel . |STFT|^2 + offset).

    Frames are centred on every `hop_length`-th sample, and a clip is reflected at its own two ends, so n
    samples give 1 + n // hop_length frames. A clip too short to be reflected is zero-padded to `shortest`.

    Args:
        sample_rate: Sample rate of the waveforms, in Hz.
        n_fft: Length of the transform in samples.
        win_length: Length of the Hann window in samples, centred in the transform.
        hop_length: Distance from one frame to the next in samples.
        num_mel_bins: Number of mel bins, F.
        f_min: Lower edge of the lowest filter, in Hz.
        f_max: Upper edge of the highest filter, in Hz.
        log_offset: Offset added to the mel energy before the natural logarithm.
        periodic: True for a periodic Hann window, False for a symmetric one.
        mel: ``slaney`` for Slaney's scale and filters of unit area, ``kaldi`` for Kaldi's, of unit height.
        pre_emphasis: Factor c in y[n] = x[n + 1] - c x[n], which makes a clip one sample shorter; None for none.
    """

    sample_rate: int
    n_fft: int
    win_length: int
    hop_length: int
    num_mel_bins: int
    f_min: float
    f_max: float
    log_offset: float
    periodic: bool = True
    mel: Literal["slaney", "kaldi"] = "slaney"
    pre_emphasis: float | None = None

    @property
    def shortest(self) -> int:
        """Length in samples of the shortest clip that can be reflected: one more than half a transform."""
        return self.n_fft // 2 + (1 if self.pre_emphasis is None else 2)

    @torch.no_grad()
    def __call__(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the log-mel frames of a batch.

        Args:
            waveforms: Waveforms, (B, S) float32.
            lengths: Length of each clip in samples, (B,) int64, at most S.

        Returns:
            Frames, (B, T, F) float32 with T the largest count; frame count of each clip, (B,) int64.

        Raises:
            ValueError: A shape or type differs from these.
        """
        signal, own = _own_samples(waveforms, lengths, self.shortest, self.hop_length)
        if self.pre_emphasis is not None:
            signal, own = signal[:, 1:] - self.pre_emphasis * signal[:, :-1], [length - 1 for length in own]
        counts = [1 + length // self.hop_length for length in own]
        filters = _log_mel_filters(self, signal.device)
        signal = _reflect(signal, torch.tensor(own, device=signal.device), self.n_fft // 2)
        return _log_mel(signal, counts, self.hop_length, filters, _weigher, lambda x: x.add_(self.log_offset))


def _own_samples(waveforms: Tensor, lengths: Tensor, shortest: int, hop_length: int) -> tuple[Tensor, list[int]]:
    """Zero-pads clips to `shortest` samples and the batch to `_LEAST_FRAMES` frames, and returns batch and lengths."""
    if waveforms.ndim != 2 or waveforms.dtype != torch.float32 or lengths.shape != waveforms.shape[:1]:
        raise ValueError(
            f"want waveforms (B, S) float32 and lengths (B,), got {tuple(waveforms.shape)} {waveforms.dtype} "
            f"and {tuple(lengths.shape)}"
        )
    samples, own = waveforms.shape[1], lengths.tolist()
    if not own or min(own) < 0 or max(own) > samples:
        raise ValueError(f"want lengths in 0..{samples} of at least one clip, got {own}")
    least = shortest + hop_length * (_LEAST_FRAMES - 1)
    if samples < least:
        waveforms = pad(waveforms, (0, least - samples))
    if min(own) < shortest:  # only then does a frame reach past its clip's end
        past = torch.arange(waveforms.shape[1], device=waveforms.device) >= lengths.to(waveforms.device).unsqueeze(1)
        waveforms = waveforms.masked_fill(past, 0.0)
    return waveforms, [max(length, shortest) for length in own]


def _reflect(signal: Tensor, lengths: Tensor, margin: int) -> Tensor:
    """Reflects each clip at its own two ends: (B, S) -> (B, S + 2 margin), for margin < lengths."""
    last = (lengths - 1).unsqueeze(1)  # (B, 1)
    index = torch.arange(-margin, signal.shape[1] + margin, device=signal.device)
    index = last - (last - index.abs()).abs()  # below zero only past the last frame of a clip
    return signal.gather(1, index.clamp(min=0))


def _emphasiser(window: Tensor, out: Tensor) -> Callable[[Tensor], object]:
    """Writer of frames (b, t, W) into `out` (b, t, W): their mean removed, pre-emphasised, times the window.

    Kaldi emphasises a frame's first sample with itself, here with a zero: both windows begin with zero.
    """
    centred = out.new_zeros(*out.shape[:2], _ALIGNED + len(window))  # what is written together lies aligned
    samples, before = centred[..., _ALIGNED:], centred[..., _ALIGNED - 1 : -1]

    def write(frames: Tensor) -> None:
        torch.sub(frames, frames.mean(-1, keepdim=True), out=samples)
        torch.mul(before, -0.97, out=out).add_(samples).mul_(window)

    return write


def _weigher(window: Tensor, out: Tensor) -> Callable[[Tensor], object]:
    """Writer of frames (b, t, W) times the window into `out` (b, t, W)."""
    return lambda frames: torch.mul(frames, window, out=out)


def _log_mel(
    signal: Tensor,
    counts: list[int],
    hop_length: int,
    filters: _Filters,
    writer: Callable[[Tensor, Tensor], Callable[[Tensor], object]],
    lift: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Frames, windows, transforms and filters a block at a time: signal (B, S) -> frames (B, T, F) and counts (B,).

    Blocks have one shape and share their buffers; the last overlaps the one before. Real and imaginary parts are
    squared interleaved, as they are stored. The product with the filters, whose weights are stored twice, sums them.
    So the spectrum is read once. Rows past a clip's own count are zero.
    """
    window, n_fft, bands = filters
    frames = signal.unfold(-1, len(window), hop_length)  # (B, T, W), a view
    width = max(*counts, _LEAST_FRAMES)
    block = _CPU_FRAMES if signal.device.type == "cpu" else _GPU_FRAMES
    clips, size = _even(len(frames), max(1, block // width)), _even(width, block)
    windowed = signal.new_zeros(clips, size, n_fft)
    write = writer(window, windowed[..., : len(window)])
    power, energies = signal.new_empty(clips * size, n_fft + 2), signal.new_empty(clips, size, bands[-1].bins.stop)
    products = [(power[:, values], weights, energies.flatten(0, 1)[:, bins]) for values, bins, weights in bands]
    complex_power = power.view(clips, size, -1, 2)
    log_mel = signal.new_empty(len(frames), width, energies.shape[-1])
    for clip in _starts(len(frames), clips):
        for frame in _starts(width, size):
            write(frames[clip : clip + clips, frame : frame + size])
            torch.square(torch.view_as_real(torch.fft.rfft(windowed)), out=complex_power)
            for values, weights, out in products:
                torch.mm(values, weights, out=out)
            torch.log(lift(energies), out=log_mel[clip : clip + clips, frame : frame + size])
    for row, count in enumerate(counts):
        if count < width:
            log_mel[row, count:] = 0.0
    return log_mel[:, : max(counts)], torch.tensor(counts, device=signal.device)


def _even(total: int, most: int) -> int:
    """Size of equal blocks, `most` at most, that cover `total` with as little overlap as can be."""
    return -(-total // -(-total // most))


def _starts(total: int, size: int) -> Iterator[int]:
    """Starts of blocks of `size` that cover `total`."""
    return (min(start, total - size) for start in range(0, total, size))


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _kaldi_filters(of: KaldiFbank, device: torch.device) -> _Filters:
    """Window and filters of Kaldi (feature-window.cc, mel-computations.cc)."""
    window = torch.hann_window(of.window_length, periodic=False).pow(_WINDOW_POWERS[of.window])
    n_fft = 1 << (of.window_length - 1).bit_length()
    matrix = kaldi_mel_matrix(of.num_mel_bins, n_fft, of.sample_rate, _KALDI_LOW_HZ, of.sample_rate / 2)
    return _filters(window, n_fft, matrix, device)


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _log_mel_filters(of: LogMel, device: torch.device) -> _Filters:
    """Window, centred in the transform, and filters of a `LogMel`."""
    before = (of.n_fft - of.win_length) // 2
    window = torch.hann_window(of.win_length, periodic=of.periodic)
    window = pad(window, (before, of.n_fft - of.win_length - before))
    mel_matrix = slaney_mel_matrix if of.mel == "slaney" else kaldi_mel_matrix
    matrix = mel_matrix(of.num_mel_bins, of.n_fft, of.sample_rate, of.f_min, of.f_max)
    return _filters(window, of.n_fft, matrix, device)


def kaldi_mel_matrix(num_mel_bins: int, n_fft: int, sample_rate: int, f_min: float, f_max: float) -> Tensor:
    """Kaldi's triangular mel filters of unit height, linear in mel = 1127 ln(1 + f / 700) (mel-computations.cc).

    Bit for bit ``torchaudio.compliance.kaldi.get_mel_banks`` without warping, and a row of zeros for Nyquist.

    Args:
        num_mel_bins: Number of mel bins, F.
        n_fft: Length of the transform in samples, even.
        sample_rate: Sample rate of the waveforms, in Hz.
        f_min: Lower edge of the lowest filter, in Hz.
        f_max: Upper edge of the highest filter, in Hz.

    Returns:
        Filter weights by spectral bin and mel bin, (n_fft // 2 + 1, F) float32.

    Raises:
        ValueError: The edges are not 0 <= f_min < f_max <= Nyquist.
    """
    _check_edges(sample_rate, f_min, f_max)
    edges = _kaldi_edges(num_mel_bins, f_min, f_max)
    hz = sample_rate / n_fft * torch.arange(n_fft // 2, dtype=torch.float32)
    return pad(_triangles(1127.0 * (1.0 + hz / 700.0).log(), edges), (0, 0, 0, 1))


def slaney_mel_matrix(num_mel_bins: int, n_fft: int, sample_rate: int, f_min: float, f_max: float) -> Tensor:
    """Slaney's triangular mel filters of unit area, linear in Hz (Auditory Toolbox, 1998).

    Slaney's scale is linear below 1 kHz, 3 mel per 200 Hz, and logarithmic above it, 27 mel per factor of 6.4.
    Bit for bit ``torchaudio.functional.melscale_fbanks(norm="slaney", mel_scale="slaney")``.
    Arguments, result and errors are those of :func:`kaldi_mel_matrix`.
    """
    _check_edges(sample_rate, f_min, f_max)
    hz_a_mel, knee_hz, step = 200.0 / 3, 1_000.0, math.log(6.4) / 27.0
    knee = knee_hz / hz_a_mel

    def mel(hz: float) -> float:
        return hz / hz_a_mel if hz < knee_hz else knee + math.log(hz / knee_hz) / step

    edges = torch.linspace(mel(f_min), mel(f_max), num_mel_bins + 2)
    edges = torch.where(edges < knee, hz_a_mel * edges, knee_hz * (step * (edges - knee)).exp())
    matrix = _triangles(torch.linspace(0, sample_rate // 2, n_fft // 2 + 1), edges)
    return matrix * (2.0 / (edges[2:] - edges[:-2]))


def _check_edges(sample_rate: int, f_min: float, f_max: float) -> None:
    if not 0 <= f_min < f_max <= sample_rate / 2:
        raise ValueError(f"want 0 <= f_min < f_max <= {sample_rate / 2:g} Hz, got {f_min:g} and {f_max:g}")


def _kaldi_edges(num_mel_bins: int, f_min: float, f_max: float) -> Tensor:
    """Edges of overlapping filters at equal distances in Kaldi's mel, (F + 2,) float32; bin i peaks at edge i + 1."""
    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (f_min, f_max))
    return low + (high - low) / (num_mel_bins + 1) * torch.arange(num_mel_bins + 2, dtype=torch.float32)


def _triangles(places: Tensor, edges: Tensor) -> Tensor:
    """Triangles of height 1 over each three neighbours of `edges` (F + 2,), at `places` (V,): (V, F)."""
    places = places.unsqueeze(1)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    return torch.minimum((places - left) / (centre - left), (right - places) / (right - centre)).clamp(min=0.0)


def _filters(window: Tensor, n_fft: int, matrix: Tensor, device: torch.device) -> _Filters:
    """Cuts a mel matrix (n_fft // 2 + 1, F) into bands and moves all to `device`."""
    bands = []
    for first in range(0, matrix.shape[1], _BAND):
        bins = slice(first, min(first + _BAND, matrix.shape[1]))
        used = matrix[:, bins].any(1).nonzero().flatten().tolist() or [0]
        low, high = used[0], used[-1] + 1
        weights = matrix[low:high, bins].repeat_interleave(2, 0).to(device)
        bands.append(_Band(slice(2 * low, 2 * high), bins, weights))
    return _Filters(window.to(device), n_fft, tuple(bands))
