"""The step of uaMix-MAE: micro-batches, the recipe's choices, and what it costs."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from uamix_bench.models.loading import load_model
from uamix_bench.models.vit import AudioViT
from uamix_bench.tuning.contrastive import HeadStage, Network, TuneStage
from uamix_bench.tuning.data import Frames
from uamix_bench.tuning.loop import Batch
from uamix_bench.tuning.nnclr import contrastive_loss
from uamix_bench.tuning.recipe import MIXINGS, TuneRecipe
from uamix_bench.tuning.views import Spectrograms

BATCH = Batch(1, 0, np.arange(0, 16, 2))


@pytest.fixture
def network(encoder: AudioViT, tune_recipe: TuneRecipe) -> Network:
    """With a queue that is not empty: entries of other recordings."""
    made = Network(encoder, tune_recipe)
    generator = torch.Generator().manual_seed(1)
    entries = F.normalize(torch.randn(len(made.queue.entries), 16, generator=generator), dim=1)
    made.queue.push(entries, torch.full((len(entries),), 99))
    return made


@pytest.fixture
def data(frames: Frames, spectrograms: Spectrograms) -> tuple[Frames, Spectrograms]:
    return frames, spectrograms


def stage_of(
    network: Network, recipe: TuneRecipe, data: tuple[Frames, Spectrograms], kind: type = TuneStage
) -> TuneStage:
    stage: TuneStage = kind(copy.deepcopy(network), recipe, *data)
    stage.parameter_groups()
    return stage


def without_batch_norm(network: Network) -> Network:
    changed = copy.deepcopy(network)
    for head in (changed.projector, changed.predictor, changed.average):
        for name, part in list(head.named_children()):
            if isinstance(part, nn.BatchNorm1d):
                setattr(head, name, nn.Identity())
    return changed


def losses_and_gradients(stage: TuneStage, batch: Batch = BATCH) -> tuple[float, dict[str, Tensor]]:
    total = 0.0
    for loss, _ in stage.parts(batch):
        loss.backward()
        total += loss.item()
    gradients = {name: p.grad for name, p in stage.module.named_parameters() if p.grad is not None}
    return total, gradients


@pytest.mark.parametrize("pooling", ["mean", "stacked", "stacked-mean-max"])
def test_features_are_pooled_as_the_adapter_pools(pooling: str, tune_recipe: TuneRecipe) -> None:
    model = load_model("audiomae-tiny", device="cpu")
    model.pooling = pooling
    network = Network(model.encoder, tune_recipe.model_copy(update={"pooling": pooling}))
    spectrogram = torch.randn(3, 48, 128, generator=torch.Generator().manual_seed(0))
    tokens, mask = model.tokens(spectrogram, torch.full((3,), 48))
    with torch.no_grad():
        found = network.features(spectrogram, tuned=False)
        assert network.projector(found).shape == (3, tune_recipe.projector[-1])
    torch.testing.assert_close(found, model.pool(tokens, mask, pooling).detach())
    assert found.shape[1] == model.embedding_dim


@pytest.mark.parametrize("kind", [HeadStage, TuneStage])
@pytest.mark.parametrize("partner", ["neighbour", "flip"])
@pytest.mark.parametrize("mix", MIXINGS)
def test_without_batch_norm_micro_batches_are_the_batch(
    mix: str, partner: str, kind: type, network: Network, tune_recipe: TuneRecipe, data: tuple[Frames, Spectrograms]
) -> None:
    recipe = tune_recipe.model_copy(update={"mix": mix, "partner": partner, "plain_weight": 0.5})
    plain = without_batch_norm(network)
    whole = stage_of(plain, recipe, data, kind)
    parts = stage_of(plain, recipe.model_copy(update={"micro_batch": 2}), data, kind)
    assert len(list(copy.deepcopy(parts).parts(BATCH))) == 4
    loss, gradients = losses_and_gradients(whole)
    loss_of_parts, gradients_of_parts = losses_and_gradients(parts)
    assert loss_of_parts == pytest.approx(loss, abs=1e-6)
    assert gradients.keys() == gradients_of_parts.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_of_parts[name], gradient, rtol=1e-4, atol=1e-6)
    assert torch.equal(whole.module.queue.recordings, parts.module.queue.recordings)
    torch.testing.assert_close(whole.module.queue.entries, parts.module.queue.entries)


def test_batch_norm_sees_a_micro_batch_at_a_time(
    network: Network, tune_recipe: TuneRecipe, data: tuple[Frames, Spectrograms]
) -> None:
    recipe = tune_recipe.model_copy(update={"mix": "none", "micro_batch": 4})
    stage = stage_of(network, recipe, data)
    seen: list[Tensor] = []
    stage.module.average[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    pushed = stage.module.queue
    list(stage.parts(BATCH))
    assert [len(rows) for rows in seen] == [4, 4, 4, 4]  # two sides, two micro-batches each
    by_hand = torch.cat([F.normalize(copy.deepcopy(stage.module.average)(rows), dim=1) for rows in seen[:2]])
    torch.testing.assert_close(pushed.entries[: len(by_hand)], by_hand)


@pytest.mark.parametrize("keys", ["neighbours", "views"])
def test_what_a_mixture_is_compared_with(
    keys: str, network: Network, tune_recipe: TuneRecipe, data: tuple[Frames, Spectrograms]
) -> None:
    stage = stage_of(network, tune_recipe.model_copy(update={"keys": keys, "top_k": 1, "mix": "none"}), data)
    asked: list[Sequence[Tensor]] = []
    stage.loss = lambda _, found, labels: asked.append((*found, *labels)) or torch.zeros((), requires_grad=True)  # type: ignore[method-assign]
    queue = stage.module.queue.entries.clone()
    list(stage.parts(BATCH))
    one, two, *labels = asked[0]
    assert all(torch.equal(label, torch.eye(8)) for label in labels)
    fresh = stage.module.queue.entries[:8]  # the clean projections of side 0, which have just entered
    in_queue = (one[:, None] == queue).all(dim=2).any(dim=1)
    assert in_queue.all() if keys == "neighbours" else torch.equal(one, fresh)
    assert not one.requires_grad
    assert not two.requires_grad


def test_lambda_max_leaves_the_sample_the_larger_share(
    network: Network, tune_recipe: TuneRecipe, data: tuple[Frames, Spectrograms]
) -> None:
    labels = {}
    for largest in (False, True):
        stage = stage_of(network, tune_recipe.model_copy(update={"lambda_max": largest, "mix": "mixup"}), data)
        _, labels[largest] = stage.mixture(stage.inputs(BATCH)[0], BATCH, np.arange(8), 0)
    assert (labels[True].diagonal() >= 0.5).all()
    torch.testing.assert_close(
        labels[True].diagonal(), torch.maximum(labels[False].diagonal(), 1 - labels[False].diagonal())
    )


def test_one_lambda_may_serve_the_batch(
    network: Network, tune_recipe: TuneRecipe, data: tuple[Frames, Spectrograms]
) -> None:
    stage = stage_of(network, tune_recipe.model_copy(update={"lambda_per": "batch", "mix": "mixup"}), data)
    _, labels = stage.mixture(stage.inputs(BATCH)[0], BATCH, np.arange(8), 0)
    assert len(labels.diagonal().unique()) == 1


def test_a_permutation_is_one_and_differs_between_sides(
    network: Network, tune_recipe: TuneRecipe, data: tuple[Frames, Spectrograms]
) -> None:
    stage = stage_of(network, tune_recipe.model_copy(update={"partner": "permutation"}), data)
    one, two = (stage.partners(BATCH, side) for side in (0, 1))
    assert sorted(one) == sorted(two) == list(range(8))
    assert one.tolist() != two.tolist()
    assert np.isfinite(losses_and_gradients(stage)[0])


def test_the_plain_loss_is_added_with_its_weight(
    network: Network, tune_recipe: TuneRecipe, data: tuple[Frames, Spectrograms]
) -> None:
    def loss(**changes: object) -> float:
        return losses_and_gradients(stage_of(network, tune_recipe.model_copy(update=changes), data))[0]

    # BatchNorm's statistics are a pass's own, so the three passes do not touch one another
    assert loss(plain_weight=0.7) == pytest.approx(loss() + 0.7 * loss(mix="none"), abs=1e-5)


def test_no_gradient_reaches_keys_queue_average_or_frozen_blocks(
    network: Network, tune_recipe: TuneRecipe, data: tuple[Frames, Spectrograms]
) -> None:
    stage = stage_of(network, tune_recipe, data)
    _, gradients = losses_and_gradients(stage)
    allowed = ("projector.", "predictor.", "encoder.norm.", "encoder.blocks.2.", "encoder.blocks.3.")
    assert gradients
    assert all(name.startswith(allowed) for name in gradients)
    assert not any(tensor.requires_grad for tensor in stage.module.queue.buffers())


@pytest.mark.parametrize("mix", MIXINGS)
def test_at_lambda_one_the_loss_is_the_plain_one(
    mix: str, network: Network, tune_recipe: TuneRecipe, data: tuple[Frames, Spectrograms]
) -> None:
    recipe = tune_recipe.model_copy(update={"mix": mix, "alpha": 1e-9, "lambda_max": True})  # Beta's mass at 0 and 1
    mixed = losses_and_gradients(stage_of(network, recipe, data))[0]
    plain = losses_and_gradients(stage_of(network, recipe.model_copy(update={"mix": "none"}), data))[0]
    assert mixed == pytest.approx(plain, abs=1e-5)


def test_a_lower_temperature_divides_the_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    anchors, keys = torch.randn(2, 6, 5, generator=generator)
    logits = F.normalize(anchors, dim=1) @ F.normalize(keys, dim=1).T
    for temperature in (0.05, 0.5, 2.0):
        expected = F.cross_entropy(logits / temperature, torch.arange(6), reduction="none")
        torch.testing.assert_close(contrastive_loss(anchors, keys, torch.eye(6), temperature), expected)


@pytest.mark.parametrize("mix", ["none", "t-cutmix"])
@pytest.mark.parametrize("kind", [HeadStage, TuneStage])
def test_the_counted_operations_are_those_torch_counts(
    kind: type, mix: str, network: Network, tune_recipe: TuneRecipe, data: tuple[Frames, Spectrograms]
) -> None:
    recipe = tune_recipe.model_copy(update={"mix": mix, "frames": (48,)})
    stage = stage_of(network, recipe, data, kind)
    width = network.projector[0].in_features
    stage.module.projector = nn.Linear(width, 16)  # operations() speaks of the encoder alone: keep the heads small
    stage.module.predictor = nn.Linear(16, 16)
    stage.module.average = nn.Linear(width, 16)
    inputs = stage.inputs(BATCH)
    # the CPU's fused attention is not known to torch's counter
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        losses_and_gradients(stage, BATCH._replace(inputs=inputs))
    assert counter.get_total_flops() / len(BATCH.clips) == pytest.approx(stage.operations(), rel=0.03)
