"""The documented import path of `uamix_bench.finetuning.recipe`."""

from uamix_bench.finetuning.recipe import (
    FINETUNE as FINETUNE,
)
from uamix_bench.finetuning.recipe import (
    PROBE as PROBE,
)
from uamix_bench.finetuning.recipe import (
    FinetuneRecipe as FinetuneRecipe,
)
from uamix_bench.finetuning.recipe import (
    ProbeRecipe as ProbeRecipe,
)
