"""What others do for the same, as their own examples put it together."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torchaudio.compliance import kaldi

from uamix_bench.models.vit import AudioViT
from uamix_bench.scoring.episodes import EpisodeSet

Floats = npt.NDArray[np.float32]


def is_installed(module: str) -> bool:
    return find_spec(module) is not None


def easyfsl(
    features: Floats, labels: list[str], n_way: int = 5, n_shot: int = 1, n_query: int = 15
) -> Callable[[int], float]:
    """easyfsl's sampler, loader and `evaluate` over cached features: so many episodes -> accuracy."""
    from easyfsl.datasets import FeaturesDataset
    from easyfsl.methods import PrototypicalNetworks
    from easyfsl.samplers import TaskSampler
    from easyfsl.utils import evaluate
    from torch.utils.data import DataLoader, Sampler

    class Between(Sampler[Any]):
        def __init__(self, data_source: None) -> None:
            """easyfsl 1.5.0 passes what torch's own no longer takes."""

    class Tasks(TaskSampler, Between):  # type: ignore[misc]
        pass

    names = sorted(set(labels))
    number = {name: code for code, name in enumerate(names)}
    data = FeaturesDataset([number[label] for label in labels], torch.from_numpy(features), names)
    sampler = Tasks(data, n_way=n_way, n_shot=n_shot, n_query=n_query, n_tasks=1)

    def run(episodes: int) -> float:
        sampler.n_tasks = episodes
        loader = DataLoader(data, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
        return float(evaluate(PrototypicalNetworks(torch.nn.Identity()), loader, device="cpu", use_tqdm=False))

    return run


def fitted(estimator: Any, features: Floats, episodes: EpisodeSet) -> Callable[[int], list[int]]:
    """A classifier of scikit-learn, fitted to each episode: so many episodes -> correct queries of each."""
    _, n_way, n_shot = episodes.support.shape
    slots = np.arange(n_way)
    of_support, of_query = slots.repeat(n_shot), slots.repeat(episodes.query.shape[2])

    def run(count: int) -> list[int]:
        right = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NearestCentroid divides by n - n_way, which is 0 for one shot
            for support, query in zip(episodes.support[:count], episodes.query[:count], strict=True):
                model = estimator.fit(features[support.ravel()], of_support)
                right.append(int((model.predict(features[query.ravel()]) == of_query).sum()))
        return right

    return run


def nearest_centroid(features: Floats, episodes: EpisodeSet) -> Callable[[int], list[int]]:
    from sklearn.neighbors import NearestCentroid

    return fitted(NearestCentroid(), features, episodes)


def listed(labels: list[str]) -> list[npt.NDArray[np.int64]]:
    """The rows of each class."""
    rows: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    return [np.array(rows[name]) for name in sorted(rows)]


def choose(members: list[npt.NDArray[np.int64]], episodes: int) -> None:
    """A loop over numpy's `Generator.choice`: five classes, then 16 clips of each."""
    rng = np.random.default_rng(0)
    for _ in range(episodes):
        for c in rng.choice(len(members), 5, replace=False):
            rng.choice(members[c], 16, replace=False)


def torchaudio_fbank(waveforms: Tensor, sample_rate: int, bins: int, window: str) -> list[Tensor]:
    """torchaudio's filterbank, clip by clip, as the models' own code calls it."""
    return [
        kaldi.fbank(
            clip.unsqueeze(0),
            num_mel_bins=bins,
            sample_frequency=float(sample_rate),
            window_type=window,
            dither=0.0,
            use_energy=False,
            htk_compat=True,
        )
        for clip in waveforms
    ]


def native_fbank(waveforms: Floats, sample_rate: int, bins: int, window: str) -> list[Floats]:
    """kaldi-native-fbank, clip by clip and frame by frame: it has no other way."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = sample_rate
    options.frame_opts.window_type = window
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = bins
    spectrograms = []
    for clip in waveforms:
        computer = kaldi_native_fbank.OnlineFbank(options)
        computer.accept_waveform(sample_rate, clip.tolist())
        computer.input_finished()
        spectrograms.append(np.array([computer.get_frame(frame) for frame in range(computer.num_frames_ready)]))
    return spectrograms


def timm_vit(ours: AudioViT, any_length: bool = False) -> VisionTransformer:
    """timm's own model with our weights, for 1,024 frames or, where positions may be interpolated, any number."""
    shape = ours.shape
    theirs = VisionTransformer(
        img_size=(shape.columns * shape.patch_frames, shape.mel_bins),
        in_chans=1,
        num_classes=0,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        global_pool="",
        dynamic_img_size=any_length,
    ).eval()
    theirs.load_state_dict({key.removeprefix("stem."): value for key, value in ours.state_dict().items()})
    return theirs
