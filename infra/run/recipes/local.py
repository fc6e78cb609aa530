"""local: a few minutes on two CPU cores, on the embedded AWS. Same stages, same code, small numbers."""

from __future__ import annotations

from data_prep.spec import DataSpec, TokenizerSpec, TokenizerTraining
from infra.run.compute import BudgetSpec, ComputeSpec
from infra.run.recipes.recipe import Recipe
from training.schedule import ScheduleSpec
from training.spec import CheckpointSpec, ExportSpec, ModelShape, OptimizerSpec, TrainingSpec, ValidationSpec

RECIPE = Recipe(
    data=DataSpec(
        source="source/botocore/",
        # 4096 entries: the text is API documentation, and a small vocabulary keeps the output layer small.
        tokenizer=TokenizerSpec(train=TokenizerTraining(vocab_size=4096, sample_bytes=8 << 20)),
        validation_share=0.02,
        shard_tokens=1_000_000,
        instance_type="ml.c7i.large",
        volume_size_gb=10,
        max_runtime_seconds=3600,
        workers_per_instance=2,
    ),
    training=TrainingSpec(
        # 12 x dim^2 x layers and two vocabularies: about 5 M parameters.
        model=ModelShape(dim=256, layers=4, heads=8, kv_heads=4, ffn_dim=688, vocab_size=4096, max_sequence_length=512),
        device="cpu",
        processes_per_host=2,  # FSDP2 over two ranks
        # 100 x 2048 tokens are about 100 CPU-seconds: a minute on two cores, and well below the unigram entropy.
        steps=100,
        sequence_length=256,
        local_batch_size=4,
        optimizer=OptimizerSpec(lr=3e-3),
        schedule=ScheduleSpec(warmup_steps=15),
        precision="float32",  # bfloat16 products are slower than float32 on most CPUs
        compile=False,  # compiling takes longer than the run
        activation_checkpointing="none",
        checkpoint=CheckpointSpec(interval_steps=50, async_mode="async"),
        validation=ValidationSpec(interval_steps=50, batches=8),
        export=ExportSpec(dtype="float32", sample_prompt="The name of the"),
        log_interval_steps=5,
    ),
    compute=ComputeSpec(instance_type="ml.c7i.large", instance_count=1, max_runtime_seconds=1800),
    budget=BudgetSpec(max_usd=1.0),
)
