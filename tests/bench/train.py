"""Overhead of our job per step: our trainer and loader against torchtitan's own, one process, alternating blocks of steps.

    make bench-train [BLOCKS=12]

Same model, shapes, optimiser and logging interval; torchtitan reads the same text through its own loader, which tokenises
as it goes. Each pair of blocks gives one ratio, so that what the machine does meanwhile meets both; the order in a pair
alternates. One JSON line: ``overhead`` is the median ratio, ``low`` and ``high`` its quartiles.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))

from leg_corpus import documents, write_channel, write_job

TEXT_BYTES = 2_000_000
TRAINING: dict[str, Any] = {
    # Wide enough that arithmetic takes most of a step (about 0.3 s on one core), as it does on a GPU.
    "model": {"dim": 256, "layers": 4, "heads": 8, "kv_heads": 4, "ffn_dim": 688, "vocab_size": 2048, "max_sequence_length": 256},
    "device": "cpu",
    "processes_per_host": 1,
    "steps": 100_000,
    "sequence_length": 256,
    "local_batch_size": 4,
    "precision": "float32",
    "compile": False,
    "activation_checkpointing": "none",
    "checkpoint": {"interval_steps": 100_000, "async_mode": "disabled"},
    "validation": {"interval_steps": 0, "batches": 2},
    "log_interval_steps": 10,
}


def stepper(trainer: Any) -> Callable[[], None]:
    """One turn of torchtitan's training loop, as Trainer.train does it."""
    batches = trainer.batch_generator(trainer.dataloader)

    def step() -> None:
        assert trainer.should_continue_training()
        trainer.step += 1
        trainer.gc_handler.run(trainer.step)
        trainer.train_step(batches)
        trainer.checkpointer.save(trainer.step, last_step=False)

    return step


def build(root: Path) -> dict[str, Callable[[], None]]:
    """Both trainers in this process, ready to step."""
    from training.cpu_device import select_cpu

    select_cpu()
    from torchtitan.components.metrics import MetricsProcessor
    from torchtitan.components.validate import Validator
    from torchtitan.hf_datasets.text_datasets import HuggingFaceTextDataLoader
    from torchtitan.trainer import Trainer

    from training.leg_job import read_job
    from training.titan_config import trainer_config
    from training.tokens import job_tokens

    texts = list(documents(TEXT_BYTES))
    write_job(root, TRAINING)
    write_channel(root / "input/data/tokens", texts, vocab_size=2048)
    (root / "text").mkdir()
    (root / "text" / "data.json").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    job = read_job(root)
    ours = trainer_config(job, job_tokens(job), validates=False)
    shared = {field.name: getattr(ours, field.name) for field in dataclasses.fields(Trainer.Config)}
    bare = Trainer.Config(
        **shared
        | {
            "model_spec": dataclasses.replace(ours.model_spec, model=copy.deepcopy(ours.model_spec.model)),
            "dataloader": HuggingFaceTextDataLoader.Config(dataset="c4_test", dataset_path=str(root / "text"), infinite=True),
            "metrics": MetricsProcessor.Config(
                log_freq=TRAINING["log_interval_steps"], disable_color_printing=True, enable_tensorboard=True
            ),
            "validator": Validator.Config(enable=False),
            "checkpoint": plain_checkpoints(ours.checkpoint),
            "dump_folder": str(root / "bare"),
        }
    )
    return {"torchtitan": stepper(bare.build()), "ours": stepper(ours.build())}


def plain_checkpoints(ours: Any) -> Any:
    """torchtitan's own checkpoint manager with our settings."""
    from torchtitan.components.checkpoint import CheckpointManager

    return CheckpointManager.Config(**{field.name: getattr(ours, field.name) for field in dataclasses.fields(CheckpointManager.Config)})


def seconds(step: Callable[[], None], steps: int) -> float:
    """Wall time of a block."""
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - begin


def main(blocks: int, steps: int) -> None:
    """Measure and print."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    root = Path(tempfile.mkdtemp(prefix="bench-train-"))
    os.environ["HF_DATASETS_CACHE"], os.environ["HF_HUB_OFFLINE"] = str(root / "cache"), "1"
    try:
        both = build(root)
        for step in both.values():
            seconds(step, 5)  # first steps allocate
        ratios, spent = [], {name: [] for name in both}
        for block in range(blocks):
            order = list(both) if block % 2 else list(reversed(both))
            found = {name: seconds(both[name], steps) / steps for name in order}
            ratios.append(found["ours"] / found["torchtitan"])
            for name, value in found.items():
                spent[name].append(value)
        low, middle, high = statistics.quantiles(ratios, n=4)
        for name, values in spent.items():
            print(f"{name:12} {statistics.median(values) * 1000:9.2f} ms per step")
        print(
            json.dumps(
                {"overhead": round(middle, 4), "low": round(low, 4), "high": round(high, 4), "blocks": blocks, "steps_per_block": steps}
            )
        )
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--steps", type=int, default=10)
    chosen = parser.parse_args()
    main(chosen.blocks, chosen.steps)
