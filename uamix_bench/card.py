"""The documented import path of `uamix_bench.plugins.card`."""

from uamix_bench.plugins.card import (
    ModelCard as ModelCard,
    ModelIdentity as ModelIdentity,
    RemoteFile as RemoteFile,
    Supervised as Supervised,
    TaskCard as TaskCard,
    Weights as Weights,
    WeightsFile as WeightsFile,
    read_card as read_card,
)
