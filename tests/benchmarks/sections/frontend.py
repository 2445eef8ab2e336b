"""The front end beside torchaudio and kaldi-native-fbank."""

from __future__ import annotations

import math

import numpy as np
import torch

from uamix_bench.models.frontend import KaldiFbank
from uamix_bench.reports.blocks import Prose, Section, Table

from .. import limits, peers, tables
from ..scale import Scale
from ..tables import Case
from ..timing import Side, measure
from ..workloads import SAMPLE_RATE, noise

SIZES = ((1, 10.0, 128), (2, 5.0, 128), (16, 1.0, 128), (1, 10.0, 80))  # clips of a batch, their seconds, mel bins
OTHERS = ("torchaudio", "kaldi-native-fbank", "FFT alone")
N_FFT = 512
AGREEMENT = 1e-4  # median absolute difference of log-mel energies


def section(scale: Scale) -> Section:
    text = """
        Kaldi's log-mel filterbank of white noise at 16 kHz, povey window, batches of about ten seconds of sound; the
        others take clip by clip, as the models' own code does. kaldi-native-fbank has no 128 bins at this rate, so both
        are compared at 80 too. The FFT alone is torch's, of as many frames in blocks that stay in the processor's
        cache. The limit is reading the samples and writing the spectrogram at the speed of memory, or all operations at
        the rate of a matrix product, whichever is longer; the FFT alone does not come near it.
    """
    return Section("Front end", [Prose(text), *(_table(scale, device) for device in limits.devices())])


def _table(scale: Scale, device: str) -> Table:
    many = 64 if device == "cuda" else 1
    cases = [_case(scale, device, many * clips, seconds, bins) for clips, seconds, bins in SIZES]
    title = "On the GPU" if device == "cuda" else "On the CPU"
    return tables.comparison(title, cases, OTHERS, "ms a clip", tables.milliseconds)


def _case(scale: Scale, device: str, clips: int, seconds: float, bins: int) -> Case:
    waveforms, lengths = (tensor.to(device) for tensor in noise(clips, seconds))
    fbank = KaldiFbank(SAMPLE_RATE, bins)
    frames = int(fbank(waveforms, lengths)[1][0])
    sides = {
        "ours": Side(lambda: fbank(waveforms, lengths), clips),
        "torchaudio": Side(lambda: peers.torchaudio_fbank(waveforms, SAMPLE_RATE, bins, fbank.window), clips),
        "FFT alone": _fft(clips, frames, device),
        "read": limits.read(device=device),
        "product": limits.product(device=device),
    }
    absent = {}
    if device == "cuda":
        absent["kaldi-native-fbank"] = "has no GPU code"
    elif bins == 128:
        absent["kaldi-native-fbank"] = "refuses 128 bins"
    elif not peers.is_installed("kaldi_native_fbank"):
        absent["kaldi-native-fbank"] = tables.NOT_INSTALLED
    else:
        plain = waveforms.numpy()
        sides["kaldi-native-fbank"] = Side(lambda: peers.native_fbank(plain, SAMPLE_RATE, bins, fbank.window), clips)
    for other in sides.keys() & {"torchaudio", "kaldi-native-fbank"}:
        theirs, own = sides[other].run()[0], sides["ours"].run()[0][0]  # type: ignore[index]
        apart = float(np.median(np.abs(np.asarray(torch.as_tensor(theirs).cpu()) - own.cpu().numpy())))
        if apart > AGREEMENT:
            raise AssertionError(f"{other} computes another spectrogram: {apart} apart")
    times = measure(sides, scale.rounds, device)
    moved = waveforms[0].nbytes + 4 * frames * bins
    limit = limits.least(times, read=moved, product=frames * _operations(fbank))
    return Case(f"{clips} × {seconds:g} s, {bins} bins", times, limit, absent)


def _fft(clips: int, frames: int, device: str) -> Side:
    block = min(clips * frames, 512 if device == "cpu" else 65_536)
    windowed = torch.ones(block, N_FFT, device=device)
    blocks = math.ceil(clips * frames / block)
    return Side(lambda: [torch.fft.rfft(windowed) for _ in range(blocks)], blocks * block / frames)


def _operations(fbank: KaldiFbank) -> float:
    """Multiplications and additions of a frame: mean, emphasis, window, FFT, power, non-zero weights, logarithm."""
    window, bins = fbank.window_length, N_FFT // 2 + 1
    return 5 * window + 2.5 * N_FFT * math.log2(N_FFT) + 3 * bins + 2 * 2 * bins + fbank.num_mel_bins
