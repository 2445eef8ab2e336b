"""Documented import path of `uamix_bench.finetuning.recipe`."""

from uamix_bench.finetuning.recipe import (
    FINETUNE as FINETUNE,
    PROBE as PROBE,
    FinetuneRecipe as FinetuneRecipe,
    ProbeRecipe as ProbeRecipe,
)
