"""The documented import path of `uamix_bench.plugins.card`."""

from uamix_bench.plugins.card import (
    ModelCard as ModelCard,
)
from uamix_bench.plugins.card import (
    ModelIdentity as ModelIdentity,
)
from uamix_bench.plugins.card import (
    RemoteFile as RemoteFile,
)
from uamix_bench.plugins.card import (
    Supervised as Supervised,
)
from uamix_bench.plugins.card import (
    TaskCard as TaskCard,
)
from uamix_bench.plugins.card import (
    Weights as Weights,
)
from uamix_bench.plugins.card import (
    WeightsFile as WeightsFile,
)
from uamix_bench.plugins.card import (
    read_card as read_card,
)
