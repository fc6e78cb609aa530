"""What the ranks of a test group run; see rank_group.py. Every function returns JSON."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from contracts.shard_index import read_index
from training.failure_classes import JobFailure, LossDiverged
from training.leg_job import read_job
from training.titan_config import trainer_config
from training.trainer import LegTrainer


def build(base: str, flex: bool = False) -> LegTrainer:
    """The trainer of the job under ``base``."""
    job = read_job(Path(base))
    if flex:
        job = dataclasses.replace(job, spec=dataclasses.replace(job.spec, attention="flex"))
    index = read_index(job.tokens)
    return trainer_config(job, validation_tokens=index.splits["validation"].tokens).build()


def train(base: str, flex: bool = False) -> dict[str, Any]:
    """Train to the end; the losses and norms of each logged step (the writing rank has them), and whether chance had a part."""
    trainer = build(base, flex)
    generator = torch.get_rng_state()
    try:
        trainer.train()
        drew = not torch.equal(torch.get_rng_state(), generator)
        rows = trainer.metrics_processor.file.rows() if trainer.metrics_processor.writes else []
        losses, validation = ([row for row in rows if name in row] for name in ("loss", "validation_loss"))
        return {"rows": losses, "validation": validation, "drew_random_numbers": drew}
    finally:
        trainer.close()
        dist.destroy_process_group()


def initial_weights(base: str) -> dict[str, Any]:
    """Checksums of whole initial weights and the correlation of each weight's two halves, rank 0."""
    trainer = build(base)
    result = {}
    for name, value in trainer.checkpointer.states["model"].state_dict().items():
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        if whole.dim() == 2:
            first, second = whole.float().flatten().chunk(2)
            pair = torch.stack([first, second])
            result[name] = [whole.double().sum().item(), torch.corrcoef(pair)[0, 1].item()]
    trainer.close()
    dist.destroy_process_group()
    return result


def train_flex(base: str) -> dict[str, Any]:
    """``train`` with FlexAttention's eager kernels; torch refuses their CPU backward although they have one.

    Everything that would be compiled runs as it is written: what is proven is arithmetic and layout.
    """
    import torch.nn.attention.flex_attention as flex

    flex._validate_device = lambda *_: None  # type: ignore[attr-defined]
    torch.compiler.set_stance("force_eager")
    return train(base, flex=True)


def refusal(base: str) -> str:
    """The sentence with which training refuses to begin."""
    trainer = build(base)
    try:
        trainer.train()
    except JobFailure as failure:
        return str(failure)
    return "it trains"


def train_then_spoil(base: str, step: int) -> dict[str, Any]:
    """Train with a weight that becomes NaN before ``step``; the sentence it ends with and the checkpoints there are."""
    trainer = build(base)
    original = trainer.train_step

    def spoil(batches: Any) -> None:
        if trainer.step == step:
            with torch.no_grad():
                next(trainer.model_parts[0].parameters()).mul_(float("nan"))
        original(batches)

    trainer.train_step = spoil
    try:
        trainer.train()
    except LossDiverged as failure:
        return {"failure": str(failure), "checkpoints": sorted(path.name for path in Path(trainer.checkpointer.folder).iterdir())}
    return {"failure": None}


def weights_in_state(base: str) -> dict[str, list[str]]:
    """Types of the model's weights and of what a checkpoint sees of them."""
    trainer = build(base)
    shown = trainer.checkpointer.states["model"].state_dict().values()
    kinds = {type(parameter._local_tensor).__name__ for parameter in trainer.model_parts[0].parameters()}
    seen = {f"{type(value._local_tensor).__name__} {value.dtype}" for value in shown}
    trainer.close()
    dist.destroy_process_group()
    return {"parameters": sorted(kinds), "checkpoint": sorted(seen)}


def scales(base: str, steps: int) -> dict[str, int]:
    """In how many places the FP8 scales of the next gather were after each of so many steps, and how many sets of values."""
    trainer = build(base)
    batches = trainer.batch_generator(trainer.dataloader)
    places, values = set(), set()
    for _ in range(steps):
        trainer.step += 1
        trainer.train_step(batches)
        held = [parameter._local_tensor for parameter in trainer.model_parts[0].parameters()]
        found = [tensor._precomputed_scale for tensor in held if hasattr(tensor, "_precomputed_scale")]
        places.add(tuple(scale.data_ptr() for scale in found))
        values.add(tuple(scale.item() for scale in found))
    trainer.close()
    dist.destroy_process_group()
    return {"places": len(places), "values": len(values)}
