"""Overhead of our job per step against torchtitan's own, and what each thing costs that can be turned on. One process, blocks in turn.

    make bench-train [BLOCKS=12]

First our trainer and loader with everything off against torchtitan's: same model, shapes, optimiser and logging interval; torchtitan
reads the same text through its own loader, which tokenises as it goes. Then a row for each of ``OPTIONS``: our trainer with it
against our trainer without it. Each pair of blocks gives one ratio, so that what the machine does meanwhile meets both; the order
in a pair alternates. One JSON line: ``overhead`` is the first median ratio, ``low`` and ``high`` its quartiles, ``options`` the rows', and
``profile`` what training.profile costs the steps that it records, in no block since there are at most ten.

To add a row, add an entry to OPTIONS. What runs at the start of a job and not between steps is in ``ONCE``, in seconds; compilation
and its cache have a bench of their own (`make bench-compile`).
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

from contracts.config import merge

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


SOURCES = 5
OPTIONS: dict[str, dict[str, Any]] = {
    "attention: documents": {"attention": "documents"},
    f"a mixture of {SOURCES} sources": {},
    "optimizer: muon": {"optimizer": {"name": "muon"}},
    "logged every step": {"log_interval_steps": 1},
    "a checkpoint every 10 steps (async)": {"checkpoint": {"interval_steps": 10, "async_mode": "async"}},
}
"""Settings of TrainingSpec by the row's name; the mixture is in the data (``build``)."""


def startup_parts(root: Path) -> None:
    """Marking the end of every part of the start, as the job and rank 0 do."""
    from training.startup import PARTS, Startup

    marks = Startup(root)
    marks.begin()
    for part in PARTS:
        marks.end(part)


ONCE: dict[str, Callable[[Path], None]] = {"start-up by parts": startup_parts}
"""What a start does besides, by the row's name."""


def stepper(trainer: Any) -> Callable[[], None]:
    """One turn of torchtitan's training loop, as Trainer.train does it."""
    batches = trainer.batch_generator(trainer.dataloader)
    profiler = trainer.config.profiler.build(global_step=0, base_folder="").__enter__()

    def step() -> None:
        assert trainer.should_continue_training()
        trainer.step += 1
        trainer.gc_handler.run(trainer.step)
        trainer.train_step(batches)
        trainer.checkpointer.save(trainer.step, last_step=False)
        profiler.step()

    return step


def write_texts(root: Path) -> None:
    """The tokens channel, and the same text for torchtitan's own loader."""
    texts = list(documents(TEXT_BYTES))
    write_channel(root / "tokens", texts, vocab_size=2048)
    (root / "text").mkdir()
    (root / "text" / "data.json").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def ours(root: Path, name: str = "off") -> Any:
    """Trainer.Config of our job with the option of this name, in a folder of its own."""
    from training.leg_job import read_job
    from training.titan_config import trainer_config
    from training.tokens import job_tokens

    base = Path(tempfile.mkdtemp(dir=root))
    mixed = [f"source{number}" for number in range(SOURCES)] if "mixture" in name else []
    sources = [{"name": source, "source": f"s3://texts/{source}/", "weight": 1.0 + number} for number, source in enumerate(mixed)]
    write_job(base, merge(TRAINING, OPTIONS.get(name, {})), sources=sources)
    for channel in [f"tokens-{source}" for source in mixed] or ["tokens"]:
        (base / "input" / "data" / channel).symlink_to(root / "tokens")
    job = read_job(base)
    return trainer_config(job, job_tokens(job), validates=False)


def bare(root: Path) -> Any:
    """torchtitan's own Trainer.Config of the same leg."""
    from torchtitan.components.metrics import MetricsProcessor
    from torchtitan.components.validate import Validator
    from torchtitan.hf_datasets.text_datasets import HuggingFaceTextDataLoader
    from torchtitan.tools.profiler import Profiler
    from torchtitan.trainer import Trainer

    config = ours(root)
    shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(Trainer.Config)}
    return Trainer.Config(
        **shared
        | {
            "model_spec": dataclasses.replace(config.model_spec, model=copy.deepcopy(config.model_spec.model)),
            "dataloader": HuggingFaceTextDataLoader.Config(dataset="c4_test", dataset_path=str(root / "text"), infinite=True),
            "metrics": MetricsProcessor.Config(
                log_freq=TRAINING["log_interval_steps"], disable_color_printing=True, enable_tensorboard=True
            ),
            "validator": Validator.Config(enable=False),
            "checkpoint": plain_checkpoints(config.checkpoint),
            "dump_folder": str(root / "bare"),
            "profiler": Profiler.Config(),
        }
    )


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


def compared(reference: Any, changed: Any, blocks: int, steps: int) -> tuple[list[float], list[float]]:
    """Low, middle and high ratio of two trainers' time per step, and the median seconds of each. Both are closed."""
    trainers = {"reference": reference.build(), "changed": changed.build()}
    both = {name: stepper(trainer) for name, trainer in trainers.items()}
    for step in both.values():
        seconds(step, 5)  # first steps allocate
    ratios: list[float] = []
    spent: dict[str, list[float]] = {name: [] for name in both}
    for block in range(blocks):
        for name in list(both) if block % 2 else list(reversed(both)):
            spent[name].append(seconds(both[name], steps) / steps)
        ratios.append(spent["changed"][-1] / spent["reference"][-1])
    for trainer in trainers.values():
        trainer.close()
    return [round(value, 4) for value in statistics.quantiles(ratios, n=4)], [statistics.median(values) for values in spent.values()]


def profiled(config: Any) -> dict[str, float]:
    """What training.profile costs: ratio of ten recorded steps to the ten before, seconds of writing their trace, and its size."""
    from training.profile_spec import ProfileSpec

    config.profiler.chosen = ProfileSpec(steps=(17, 26))  # after 5 that allocate, 10 to compare with, and the profiler's warm-up
    trainer = config.build()
    step = stepper(trainer)
    spent = [seconds(step, 1) for _ in range(26)]
    trainer.close()
    recorded, before = statistics.median(spent[16:25]), statistics.median(spent[5:15])
    (trace,) = Path(config.profiler.folder).iterdir()
    return {"ratio": round(recorded / before, 4), "write_seconds": round(spent[25] - recorded, 4), "bytes": trace.stat().st_size}


def main(blocks: int, steps: int, only: list[str] | None) -> None:
    """Measure and print."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    root = Path(tempfile.mkdtemp(prefix="bench-train-"))
    os.environ["HF_DATASETS_CACHE"], os.environ["HF_HUB_OFFLINE"] = str(root / "cache"), "1"
    from training.cpu_device import select_cpu

    select_cpu()
    try:
        write_texts(root)
        (low, middle, high), each = compared(bare(root), ours(root), blocks, steps)
        print(f"torchtitan {each[0] * 1000:.2f} ms per step, ours with everything off {each[1] * 1000:.2f} ms: {middle}")
        options = {}
        for name in OPTIONS if only is None else only:
            options[name], spent = compared(ours(root), ours(root, name), max(blocks // 2, 2), steps)
            print(f"{name:40} {options[name][1]:7.4f}  {(spent[1] - spent[0]) * 1000:+8.2f} ms per step", flush=True)
        profile = profiled(ours(root))
        print(f"{'training.profile, while it records':40} {profile['ratio']:7.4f}  {profile['write_seconds'] * 1000:+8.2f} ms once")
        once = {name: timed(run, root) for name, run in ONCE.items()}
        for name, value in once.items():
            print(f"{name:40} {value * 1000:7.2f} ms once")
        shape = {"blocks": blocks, "steps_per_block": steps}
        print(
            json.dumps(
                {"overhead": middle, "low": low, "high": high, "options": options, "profile": profile, "once_seconds": once, **shape}
            )
        )
    finally:
        shutil.rmtree(root, ignore_errors=True)


def timed(run: Callable[[Path], None], root: Path) -> float:
    """Seconds of the fastest of five calls, each in a folder of its own."""
    found = []
    for _ in range(5):
        folder = Path(tempfile.mkdtemp(dir=root))
        begin = time.perf_counter()
        run(folder)
        found.append(time.perf_counter() - begin)
    return round(min(found), 6)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=12, help="of each side; a row of OPTIONS takes half as many")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", action="append", choices=list(OPTIONS), help="this row (several times: these)")
    chosen = parser.parse_args()
    main(chosen.blocks, chosen.steps, chosen.only)
