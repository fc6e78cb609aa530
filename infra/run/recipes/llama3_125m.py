"""llama3_125m: a small Llama-3 (126 M) from scratch on C4, one ml.g6e.12xlarge (4 L40S), in about two hours; no gated tokenizer."""

from __future__ import annotations

from data_prep.spec import DataSpec, TokenizerSpec, TokenizerTraining
from infra.run.compute import BudgetSpec, ComputeSpec
from infra.run.recipes.llama3_8b import C4
from infra.run.recipes.recipe import Recipe
from training.schedule import ScheduleSpec
from training.spec import CheckpointSpec, ModelShape, OptimizerSpec, TrainingSpec

RECIPE = Recipe(
    data=DataSpec(
        source=C4,
        # About 150 M tokens a file: 20 files are 3 B, a little more than the 2.5 B that are trained.
        include=("en/c4-train.000[01][0-9]-of-01024.json.gz",),
        # Trained on the text itself: with Llama 3's 128,256 entries the embedding alone would be 98 M parameters.
        tokenizer=TokenizerSpec(train=TokenizerTraining(vocab_size=32_768)),
        instance_type="ml.c7i.8xlarge",
        max_runtime_seconds=14_400,
    ),
    training=TrainingSpec(
        # 16 blocks of 6.3 M and one tied embedding of 25 M: 126 M.
        model=ModelShape(
            dim=768, layers=16, heads=12, kv_heads=4, ffn_dim=2048, vocab_size=32_768, max_sequence_length=2048, tie_embeddings=True
        ),
        processes_per_host=4,
        # 256 samples x 2048 = 524,288 tokens a step, GPT-3's batch for this size; 4,800 steps are 2.5 B tokens, 20 for each parameter.
        steps=4800,
        sequence_length=2048,
        local_batch_size=16,  # 22 of 44 GiB by the estimate, with nothing computed again
        global_batch_size=256,
        optimizer=OptimizerSpec(lr=6e-4),
        schedule=ScheduleSpec(warmup_steps=480),
        compile=True,
        activation_checkpointing="none",
        checkpoint=CheckpointSpec(interval_steps=500),
        # Arithmetic, not measured: 1.06 GFLOPs a token x 80,000 = 85 TFLOP/s, 23 % of an L40S's 362.
        expected_tokens_per_second_per_device=80_000.0,
    ),
    # 2.5 B tokens / (4 x 80,000) = 7,865 s.
    compute=ComputeSpec(instance_type="ml.g6e.12xlarge", instance_count=1, max_runtime_seconds=14_400),
    # Four hours at $13.12 are $53; preparation at its limit takes $7.
    budget=BudgetSpec(max_usd=100.0),
)
