"""llama3_3b: Llama-3.2 3B's shape (tied) from scratch on C4, one ml.p5.48xlarge (8 H100)."""

from __future__ import annotations

from data_prep.spec import DataSpec, TokenizerSpec
from infra.run.compute import BudgetSpec, ComputeSpec
from infra.run.recipes.llama3_8b import C4, LLAMA31_TOKENIZER
from infra.run.recipes.recipe import Recipe
from training.schedule import ScheduleSpec
from training.spec import ModelShape, OptimizerSpec, TrainingSpec

RECIPE = Recipe(
    data=DataSpec(
        source=C4,
        include=("en/c4-train.0000[0-9]-of-01024.json.gz",),  # 10 files, about 1.5 B tokens; 1 B are trained
        tokenizer=TokenizerSpec(uri=LLAMA31_TOKENIZER),
        instance_type="ml.c7i.8xlarge",
        max_runtime_seconds=14_400,
    ),
    training=TrainingSpec(
        # 28 blocks of 100.7 M and one tied embedding of 394 M: 3.21 B.
        model=ModelShape(dim=3072, layers=28, heads=24, kv_heads=8, ffn_dim=8192, vocab_size=128_256, tie_embeddings=True),
        # 64 samples x 8192 = 524,288 tokens a step; 2,000 steps are 1 B tokens. Twenty for each parameter take 122,000 steps.
        steps=2000,
        sequence_length=8192,
        local_batch_size=4,  # 57 of 79 GiB by the estimate, in two passes on 8 GPUs
        global_batch_size=64,
        optimizer=OptimizerSpec(lr=3e-4),
        schedule=ScheduleSpec(warmup_steps=200),
        compile=True,
        float8="tensorwise_all_gather",
        activation_checkpointing="selective",
        # Arithmetic, not measured: 27.7 GFLOPs a token x 16,000 = 443 TFLOP/s, 45 % of an H100's BF16 peak of 989.
        expected_tokens_per_second_per_device=16_000.0,
        min_all_reduce_gbps=100.0,  # on several hosts: EFA on p5 gives 3.2 Tb/s per host; a fallback to TCP stays below 10 GB/s
    ),
    # 1.05 B tokens / (8 x 16,000) = 8,192 s, two and a half hours with start, checkpoints and export.
    compute=ComputeSpec(instance_type="ml.p5.48xlarge", instance_count=1, max_runtime_seconds=14_400),
    # Four hours at $63.30 are $253.
    budget=BudgetSpec(max_usd=300.0),
)
