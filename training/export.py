"""The trained model as Hugging Face safetensors: weights, config.json, generation_config.json, tokenizer, index.

Each weight is gathered on all ranks of its pipeline stage, one at a time, so that a device needs room for the largest only.
Files of at most 5 GB are dealt out to the ranks, to one of each host in turn; the rank that owns a file keeps its weights and
writes it while the next ones are gathered. No rank holds more than two files, no host the whole model, and hosts share no
disk: their /opt/ml/checkpoints sync to one S3 prefix. Last comes manifest.json, with every file's SHA-256; a rank hashes a file in the
thread that has written it, while the next one is gathered. (torch's HuggingFaceStorageWriter joins its shards into whole files on
a disk that all ranks share, which SageMaker's hosts do not have.)
"""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from torchtitan.trainer import Trainer

from contracts.export_manifest import FORMAT_VERSION, ExportedFile, ExportManifest, exported_file, manifest_bytes
from contracts.files import EXPORT, EXPORT_MANIFEST, LEG_FILE
from training.leg_job import LegJob
from training.metrics import write_json
from training.model import hugging_face_config
from training.model_card import model_card
from training.tokens import Tokens

MAX_FILE_BYTES = 5_000_000_000  # Hugging Face's own default: larger files make loading and single retries slow


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    bytes: int
    """Of the weights."""
    files: int
    """Files with weights."""
    dtype: str
    manifest_sha256: str
    """SHA-256 of manifest.json."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where one weight goes."""

    name: str
    """torchtitan's."""
    hf_name: str
    bytes: int
    file: int
    """Counted from 0 within the pipeline stage."""


def export_model(trainer: Trainer, job: LegJob, tokens: Tokens, *, max_file_bytes: int = MAX_FILE_BYTES) -> Exported:
    """Write ``export/``. Collective: every rank calls it. A second call replaces the first export."""
    folder = job.work / EXPORT
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (folder / EXPORT_MANIFEST, *folder.glob("model*.safetensors")):
        stale.unlink(missing_ok=True)  # several ranks of a host clear one folder
    stages = trainer.parallel_dims.pp
    per_stage = dist.get_world_size() // stages
    stage, rank = divmod(dist.get_rank(), per_stage)
    state = trainer.checkpointer.states["model"].state_dict()
    placed = plan(state, trainer.checkpointer.sd_adapter, getattr(torch, job.spec.export.dtype), max_file_bytes)
    plans: list[list[Placed]] = [[]] * dist.get_world_size()
    dist.all_gather_object(plans, placed)
    plans = plans[::per_stage]
    counts = [1 + max((item.file for item in part), default=-1) for part in plans]
    names = [file_name(sum(counts[:stage]) + number, sum(counts)) for number in range(counts[stage])]
    owners = writers(per_stage, stage * per_stage, job.spec.processes_per_host)
    mine = {number: folder / name for number, name in enumerate(names) if owners[number % per_stage] == rank}
    written = _write_weights(state, trainer.checkpointer.sd_adapter, placed, mine, getattr(torch, job.spec.export.dtype))
    total = sum(item.bytes for part in plans for item in part)
    if dist.get_rank() == 0:
        weight_map = {
            item.hf_name: file_name(sum(counts[:number]) + item.file, sum(counts)) for number, part in enumerate(plans) for item in part
        }
        index_content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / "model.safetensors.index.json", index_content)
        written += [exported_file(path) for path in _write_companions(trainer, job, tokens, folder)]
        written.append(exported_file(folder / "model.safetensors.index.json"))
    manifest = _manifest(written)
    if dist.get_rank() == 0:
        _put(manifest, folder / EXPORT_MANIFEST)
    return Exported(bytes=total, files=sum(counts), dtype=job.spec.export.dtype, manifest_sha256=hashlib.sha256(manifest).hexdigest())


def _manifest(written: list[ExportedFile]) -> bytes:
    """manifest.json of what all ranks have written. Collective: it is complete when every rank's files are."""
    lists: list[list[ExportedFile]] = [[]] * dist.get_world_size()
    dist.all_gather_object(lists, written)
    files = sorted((file for part in lists for file in part), key=lambda file: file.name)
    return manifest_bytes(ExportManifest(format_version=FORMAT_VERSION, files=tuple(files)))


def _put(body: bytes, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(body)
    temporary.replace(path)


def plan(state: dict[str, torch.Tensor], adapter: Any, dtype: torch.dtype, max_file_bytes: int) -> list[Placed]:
    """Every weight of this pipeline stage and its file, from shapes alone: the same on all its ranks."""
    placed: list[Placed] = []
    file, filled = 0, 0
    for name, value in state.items():
        shaped = torch.empty(value.shape, dtype=dtype, device="meta")
        for hf_name, hf_value in adapter.to_hf({name: shaped}).items():
            if filled and filled + hf_value.nbytes > max_file_bytes:
                file, filled = file + 1, 0
            filled += hf_value.nbytes
            placed.append(Placed(name=name, hf_name=hf_name, bytes=hf_value.nbytes, file=file))
    return placed


def file_name(number: int, count: int) -> str:
    """Hugging Face's name of the file with this number, counted from 0."""
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def writers(ranks: int, first: int, per_host: int) -> list[int]:
    """Ranks of a stage (0 is its first, ``first`` in the world) in the order that files are dealt to them: one of each host in turn."""
    return sorted(range(ranks), key=lambda rank: ((first + rank) % per_host, (first + rank) // per_host))


@torch.no_grad()
def _write_weights(
    state: dict[str, torch.Tensor], adapter: Any, placed: list[Placed], mine: dict[int, Path], dtype: torch.dtype
) -> list[ExportedFile]:
    """Gather every weight, keep those of ``mine``, and write each file as soon as it is full."""
    file_of = {item.hf_name: item.file for item in placed}
    missing = {number: sum(item.file == number for item in placed) for number in mine}
    pending: dict[str, torch.Tensor] = {}
    writing: Future[ExportedFile] | None = None
    written: list[ExportedFile] = []
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="export") as disk:
        for name in dict.fromkeys(item.name for item in placed):
            value = state[name]
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            if not any(item.file in mine for item in placed if item.name == name):
                continue
            for hf_name, hf_value in adapter.to_hf({name: whole}).items():
                number = file_of[hf_name]
                if number not in mine:
                    continue
                pending[hf_name] = hf_value.to(dtype).to("cpu").contiguous()
                missing[number] -= 1
                if missing[number] == 0:
                    if writing is not None:
                        written.append(writing.result())
                    writing = disk.submit(_save, pending, mine[number])
                    pending = {}
        if writing is not None:
            written.append(writing.result())
    return written


def _save(weights: dict[str, torch.Tensor], path: Path) -> ExportedFile:
    """Whole or not at all, since a sync may read the folder at any moment. Hashed as it lies there, from the page cache."""
    temporary = path.with_name(f".{path.name}.part")
    save_file(weights, temporary, metadata={"format": "pt"})
    temporary.replace(path)
    return exported_file(path)


def _write_companions(trainer: Trainer, job: LegJob, tokens: Tokens, folder: Path) -> list[Path]:
    """Everything that is no weight; the files."""
    tokenizer, shape = tokens.tokenizer, job.spec.model
    described = hugging_face_config(shape, dtype=job.spec.export.dtype, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id)
    write_json(folder / "config.json", described)
    write_json(folder / "generation_config.json", {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id})
    for name in tokenizer.files:
        shutil.copy(tokens.folder / name, folder / Path(name).name)
    write_json(folder / LEG_FILE, trainer.checkpointer.leg)
    (folder / "README.md").write_text(model_card(job, tokens, rows=trainer.metrics_processor.file.rows(), step=trainer.step))
    names = ["config.json", "generation_config.json", LEG_FILE, "README.md", *(Path(name).name for name in tokenizer.files)]
    return [folder / name for name in dict.fromkeys(names)]
