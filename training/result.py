"""metrics/result.json: what a finished leg came to. The report and the command line read it and compute nothing again."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist

from contracts.accelerators import ACCELERATORS
from contracts.config import Json
from contracts.files import METRICS, RESULT_FILE
from contracts.metric_line import SOURCE_METRICS, last_value, source_metric
from training.export import Exported
from training.leg_job import LegJob
from training.memory import parameter_count
from training.metrics import write_json
from training.sample import Sample
from training.startup import Startup
from training.tokens import Tokens
from training.trainer import LegTrainer

PACKAGES = ("torch", "torchtitan", "torchao", "numpy", "safetensors", "tokenizers")


def versions() -> dict[str, str | None]:
    """What ran: packages, Python, CUDA, image."""
    installed: dict[str, str | None] = {name: importlib.metadata.version(name) for name in PACKAGES}
    cuda = torch.version.cuda if torch.cuda.is_available() else None
    return installed | {"python": platform.python_version(), "cuda": cuda, "image": os.environ.get("IMAGE_URI")}


def leg_result(
    job: LegJob, trainer: LegTrainer, tokens: Tokens, *, begin: float, exported: Exported | None, sample: Sample | str | None = None
) -> Json:
    """The result as JSON; unknown values are null. ``sample`` may be the reason why there is none."""
    metrics = trainer.metrics_processor
    rows = metrics.file.rows()
    losses = [row["loss"] for row in rows if "loss" in row]
    validation = {int(row["step"]): row["validation_loss"] for row in rows if "validation_loss" in row}
    totals = metrics.totals
    speeds = totals.tokens_per_second or [row["tokens_per_second_per_device"] for row in rows if "tokens_per_second_per_device" in row]
    result: dict[str, Any] = {
        "run_id": job.run_id,
        "leg": job.leg,
        "steps": trainer.step,
        "tokens": trainer.step * job.tokens_per_step,
        "parameters": parameter_count(job.spec.model),
        "devices": dist.get_world_size(),
        "device_name": metrics.device_memory_monitor.device_name,
        "loss_first": losses[0] if losses and not trainer.resumed_from else None,  # an earlier attempt's metrics have it
        "loss_last": losses[-1] if losses else None,
        "validation_loss": validation[max(validation)] if validation else None,
        "validation_losses": validation,
        "sources": _sources(tokens, rows),
        "unigram_entropy": tokens.unigram_entropy,
        "seconds": time.time() - begin,
        "startup_seconds": Startup(job.rank_notes).seconds(),  # of the host of rank 0
        "training_seconds": totals.seconds,
        "tokens_per_second_per_device": statistics.median(speeds) if speeds else None,
        "mfu": statistics.median(totals.mfu) if totals.mfu else None,
        "mfu_formula": _mfu_formula(trainer, metrics.peak, job.spec.float8),
        "memory_gib": max([totals.memory_gib, *(row["memory_gib"] for row in rows if "memory_gib" in row)]),
        "checkpoints": [asdict(saved) for saved in trainer.checkpointer.saved],
        "attempt": job.attempt,
        "resumed_from": trainer.resumed_from or None,
        "initial": job.start,
        "restored": asdict(trainer.checkpointer.restored) if trainer.checkpointer.restored else None,
        "checkpoint_staging": asdict(trainer.staging),
        "sample": asdict(sample) if isinstance(sample, Sample) else None,
        "profile_left_out": "; ".join(trainer.config.profiler.told) or None,
        "sample_left_out": sample if isinstance(sample, str) else None,
        "export": asdict(exported) if exported else None,
        "environment": versions(),
    }
    return result


def _sources(tokens: Tokens, rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float | None]] | None:
    """Last value of each of ``SOURCE_METRICS`` for each source of a mixture."""
    if not tokens.is_mixture:
        return None
    names = [metric.name for metric in SOURCE_METRICS]
    return {source.name: {name: last_value(rows, source_metric(source.name, name)) for name in names} for source in tokens.sources}


def _mfu_formula(trainer: LegTrainer, peak: float | None, float8: str) -> str:
    flops = trainer.metrics_processor.num_flops_per_token
    if peak is None:
        return f"none: the dense BF16 peak of this device is not known (known: {', '.join(known.name for known in ACCELERATORS)})"
    also = "" if float8 == "off" else f"; this leg multiplies in FP8 ({float8}), whose own peak is about twice that"
    return (
        f"{flops:.4g} FLOPs per token (6 x parameters without the embedding + 6 x layers x heads x head size x 2 x sequence length "
        f"for attention, recomputation not counted) x tokens/s per device / {peak:.4g} FLOP/s, the dense BF16 peak{also}"
    )


def write_result(job: LegJob, result: Json) -> None:
    """Put it beside metrics.jsonl."""
    write_json(job.work / METRICS / RESULT_FILE, result)
