"""local: a few minutes on two CPU cores, on the embedded AWS. Same stages, same code, small numbers."""

from __future__ import annotations

from typing import Any

RECIPE: dict[str, Any] = {
    "data": {
        "source": "source/botocore/",
        # 4096 entries: the text is API documentation, and a small vocabulary keeps the output layer small.
        "tokenizer": {"train": {"vocab_size": 4096, "sample_bytes": 8 << 20}},
        "validation_share": 0.02,
        "shard_tokens": 1_000_000,
        "instance_type": "ml.c7i.large",
        "volume_size_gb": 10,
        "max_runtime_seconds": 3600,
        "workers_per_instance": 2,
    },
    "training": {
        # 12 x dim^2 x layers and two vocabularies: about 5 M parameters.
        "model": {
            "dim": 256, "layers": 4, "heads": 8, "kv_heads": 4, "ffn_dim": 688, "vocab_size": 4096,
            "max_sequence_length": 512,
        },
        "device": "cpu",
        "processes_per_host": 2,  # FSDP2 over two ranks
        # 100 x 2048 tokens are about 100 CPU-seconds: a minute on two cores, and well below the unigram entropy.
        "steps": 100,
        "sequence_length": 256,
        "local_batch_size": 4,
        "optimizer": {"lr": 3e-3},
        "schedule": {"warmup_steps": 15},
        "precision": "float32",  # bfloat16 products are slower than float32 on most CPUs
        "compile": False,  # compiling takes longer than the run
        "activation_checkpointing": "none",
        "checkpoint": {"interval_steps": 50, "async_mode": "async"},
        "validation": {"interval_steps": 50, "batches": 8},
        "export": {"dtype": "float32", "sample_prompt": "The name of the"},
        "log_interval_steps": 5,
    },
    "compute": {"instance_type": "ml.c7i.large", "instance_count": 1, "max_runtime_seconds": 1800},
    "budget": {"max_usd": 1.0},
}  # fmt: skip
