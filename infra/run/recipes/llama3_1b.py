"""llama3_1b: Llama-3.2 1B's shape (tied) from scratch on C4, one ml.p5.48xlarge (8 H100)."""

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
        include=("en/c4-train.000[01][0-9]-of-01024.json.gz",),  # 20 files, about 3 B tokens; 2.1 B are trained
        tokenizer=TokenizerSpec(uri=LLAMA31_TOKENIZER),
        instance_type="ml.c7i.8xlarge",
        max_runtime_seconds=14_400,
    ),
    training=TrainingSpec(
        # 16 blocks of 60.8 M and one tied embedding of 262.7 M: 1.24 B. Llama 3.2 scales its rotary frequencies for longer contexts
        # than are trained here.
        model=ModelShape(dim=2048, layers=16, heads=32, kv_heads=8, ffn_dim=8192, vocab_size=128_256, tie_embeddings=True),
        # 64 samples x 8192 = 524,288 tokens a step; 4,000 steps are 2.1 B tokens. Twenty for each parameter take 47,000 steps.
        steps=4000,
        sequence_length=8192,
        local_batch_size=8,  # 54 of 79 GiB by the estimate, and no accumulation on 8 GPUs
        global_batch_size=64,
        optimizer=OptimizerSpec(lr=4e-4),
        schedule=ScheduleSpec(warmup_steps=400),
        compile=True,  # and no FP8: matrices of 2048 are too small for it to pay
        activation_checkpointing="selective",
        # Arithmetic, not measured: 10.6 GFLOPs a token x 37,000 = 392 TFLOP/s, 40 % of an H100's 989.
        expected_tokens_per_second_per_device=37_000.0,
        min_all_reduce_gbps=100.0,  # on several hosts: EFA on p5 gives 3.2 Tb/s per host; a fallback to TCP stays below 10 GB/s
    ),
    # 2.1 B tokens / (8 x 37,000) = 7,085 s, about two hours.
    compute=ComputeSpec(instance_type="ml.p5.48xlarge", instance_count=1, max_runtime_seconds=14_400),
    # Four hours at $63.30 are $253.
    budget=BudgetSpec(max_usd=300.0),
)
