"""The trained model as Hugging Face safetensors: weights, config.json, generation_config.json, tokenizer, index.

Weights are gathered one at a time, so that a device needs room for the largest only, and written by one rank per pipeline
stage in files of at most 5 GB on its own host: hosts share no disk, but their /opt/ml/checkpoints sync to one S3 prefix.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from torchtitan.trainer import Trainer

from contracts.files import EXPORT
from contracts.shard_index import ShardIndex
from training.leg_job import LegJob
from training.metrics import write_json
from training.model import hugging_face_config
from training.model_card import model_card

MAX_FILE_BYTES = 5_000_000_000  # Hugging Face's own default: larger files make loading and single retries slow


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    bytes: int
    """Of the weights."""
    files: int
    """Files with weights."""
    dtype: str


def export_model(trainer: Trainer, job: LegJob, index: ShardIndex) -> Exported:
    """Write ``export/``. Collective: every rank calls it. A second call replaces the first export."""
    folder = job.work / EXPORT
    folder.mkdir(parents=True, exist_ok=True)
    dims = trainer.parallel_dims
    stage = dims.get_mesh("pp").get_local_rank() if dims.pp_enabled else 0
    leads = dist.get_rank() % (dims.world_size // dims.pp) == 0
    written = _write_weights(trainer, folder, stage, leads, getattr(torch, job.spec.export.dtype))
    everyone: list[dict[str, tuple[str, int]] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, written)
    merged = {name: place for part in everyone if part for name, place in part.items()}
    total = sum(size for _, size in merged.values())
    if dist.get_rank() == 0:
        weight_map = {name: file for name, (file, _) in sorted(merged.items())}
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
        write_json(folder / "config.json", _config(job, index))
        write_json(folder / "generation_config.json", {"bos_token_id": index.tokenizer.bos_id, "eos_token_id": index.tokenizer.eos_id})
        for name in index.tokenizer.files:
            shutil.copy(job.tokens / name, folder / Path(name).name)
        write_json(folder / "leg.json", trainer.checkpointer.leg)
        (folder / "README.md").write_text(model_card(job, index, rows=trainer.metrics_processor.file.rows(), step=trainer.step))
    return Exported(bytes=total, files=len({file for file, _ in merged.values()}), dtype=job.spec.export.dtype)


def _config(job: LegJob, index: ShardIndex) -> dict[str, Any]:
    tokenizer = index.tokenizer
    return hugging_face_config(job.spec.model, dtype=job.spec.export.dtype, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)


@torch.no_grad()
def _write_weights(trainer: Trainer, folder: Path, stage: int, leads: bool, dtype: torch.dtype) -> dict[str, tuple[str, int]]:
    """Name of each Hugging Face weight of this stage to its file and bytes; empty on ranks that do not write."""
    written: dict[str, tuple[str, int]] = {}
    pending: dict[str, torch.Tensor] = {}
    count = 0

    def flush() -> None:
        nonlocal count
        if not pending:
            return
        count += 1
        file = f"model-stage{stage}-{count:05d}.safetensors"
        temporary = folder / f".{file}.part"
        save_file(pending, temporary, metadata={"format": "pt"})
        temporary.replace(folder / file)
        written.update({name: (file, value.nbytes) for name, value in pending.items()})
        pending.clear()

    if leads:
        for stale in folder.glob(f"model-stage{stage}-*.safetensors"):
            stale.unlink()
    for name, value in trainer.checkpointer.states["model"].state_dict().items():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if not leads:
            continue
        for hf_name, hf_value in trainer.checkpointer.sd_adapter.to_hf({name: whole}).items():
            if pending and sum(v.nbytes for v in pending.values()) + hf_value.numel() * dtype.itemsize > MAX_FILE_BYTES:
                flush()
            pending[hf_name] = hf_value.to(device="cpu", dtype=dtype).contiguous()
    flush()
    return written
