"""What the ranks of a test group run; see rank_group.py. Every function returns JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from training import document_attention
from training.export import export_model
from training.failure_classes import JobFailure, LossDiverged
from training.leg import finish
from training.leg_job import LegJob, read_job
from training.titan_config import trainer_config
from training.tokens import job_tokens
from training.trainer import LegTrainer


def build(base: str, flex: bool = False) -> LegTrainer:
    """The trainer of the job under ``base``."""
    job = read_job(Path(base))
    if flex:
        job = dataclasses.replace(job, spec=dataclasses.replace(job.spec, attention="documents"))
    return trainer_config(job, job_tokens(job)).build()


def slow(owner: Any, name: str, seconds: float, *, once: bool = True) -> None:
    """Make a function take so much longer; a negative time raises instead."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = []

    def slowed(*args: Any, **named: Any) -> Any:
        if seconds < 0:
            raise RuntimeError("made to fail")
        if not (once and calls):
            calls.append(name)
            time.sleep(seconds)
        return original(*args, **named)

    setattr(owner, name, slowed)


def slow_parts(trainer: LegTrainer, seconds: dict[str, float]) -> None:
    """Slow down what is no step, by name."""
    import training.export
    import training.sample

    places: dict[str, tuple[Any, str]] = {
        "save": (trainer.checkpointer, "dcp_save"),
        "validation": (trainer.validator, "post_dataloading_process"),
        "export": (training.export, "_save"),
        "sample": (training.sample, "_choose"),
    }
    for part, value in seconds.items():
        slow(*places[part], value)


def finish_slowly(base: str, seconds: dict[str, float], limits: dict[str, float] | None = None, sample_seconds: float = 60.0) -> Any:
    """A whole leg under a watchdog that is strict about steps; the longest step that it saw."""
    import training.leg

    training.leg.SAMPLE_SECONDS = sample_seconds
    trainer, job = build(base), read_job(Path(base))
    trainer.watchdog.floor_seconds, trainer.watchdog.median_steps = 1.5, 2.0
    trainer.limits = dataclasses.replace(trainer.limits, **(limits or {}))
    if limits and "validation_batches" in limits:
        trainer.watchdog.validation_seconds = lambda batches, *, first: 0.5 * batches
    slow_parts(trainer, seconds)
    trainer.train()
    together = finish(job, trainer, job_tokens(job), time.time())
    longest = max(trainer.watchdog._times)
    trainer.close()
    return {"together": together, "longest_step": longest}


def finish_with_a_sample_that_fails_on(base: str, rank: int) -> bool:
    """A whole leg whose sample raises on one rank; whether the ranks are still together."""
    trainer, job = build(base), read_job(Path(base))
    if dist.get_rank() == rank:
        slow_parts(trainer, {"sample": -1})
    trainer.train()
    together = finish(job, trainer, job_tokens(job), time.time())
    trainer.close()
    return together


def stop_with_saves_that_took(base: str, seconds: list[float]) -> str:
    """Stopped before the first step ends, where earlier saves took so long on each rank."""
    trainer, job = build(base), read_job(Path(base))
    trainer.checkpointer.write_seconds.append(seconds[dist.get_rank()])
    job.rank_notes.mkdir(parents=True, exist_ok=True)
    (job.rank_notes / "stop").touch()
    try:
        trainer.train()
    except JobFailure as failure:
        return str(failure)
    return "it trains"


class OnHost(LegJob):
    """The job as a rank sees it that has a disk of its own."""

    @property
    def work(self) -> Path:
        return self.base / f"host-{dist.get_rank()}"


def export_to_own_disks(base: str, max_file_bytes: int) -> dict[str, Any]:
    """Export where each rank is a host; SHA-256 of every weight as one rank would write it."""
    trainer, job = build(base), read_job(Path(base))
    host = OnHost(**{field.name: getattr(job, field.name) for field in dataclasses.fields(job)})
    exported = export_model(trainer, host, job_tokens(job), max_file_bytes=max_file_bytes)
    expected = {}
    for name, value in trainer.checkpointer.states["model"].state_dict().items():
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        for hf_name, weight in trainer.checkpointer.sd_adapter.to_hf({name: whole}).items():
            raw = weight.detach().to(device="cpu", dtype=getattr(torch, job.spec.export.dtype)).contiguous().view(torch.uint8)
            expected[hf_name] = hashlib.sha256(raw.numpy().tobytes()).hexdigest()
    trainer.close()
    dist.destroy_process_group()
    return {"exported": dataclasses.asdict(exported), "expected": expected}


def train_pinned(base: str, free: int | None = None) -> dict[str, Any]:
    """Train with ``async_with_pinned_mem``, whose code needs CUDA only to pin and to copy beside the kernels: both are left out
    here; staging in shared memory, the staging thread, the writing process and its process group are the real ones.
    """
    import torchtitan.components.checkpointer.dcp as dcp
    from torch.distributed.checkpoint.staging import StagingOptions

    from training import staging

    dcp.StagingOptions = lambda **_: StagingOptions(  # type: ignore[attr-defined]
        use_pinned_memory=False, use_shared_memory=True, use_async_staging=True, use_non_blocking_copy=False
    )
    if free is not None:
        staging.free_bytes = lambda: free
    job = read_job(Path(base))
    checkpoint = dataclasses.replace(job.spec.checkpoint, async_mode="async_with_pinned_mem")
    job = dataclasses.replace(job, spec=dataclasses.replace(job.spec, checkpoint=checkpoint))
    trainer = trainer_config(job, job_tokens(job), validates=False).build()
    trainer.train()
    trainer.checkpointer.maybe_wait_for_saving()
    stager = trainer.checkpointer.stager
    shared = [] if stager is None else list(stager._state_dict_stager._cached_storage_mapping.values())
    assert all(storage.is_shared() for storage in shared)
    result = {
        "staging": dataclasses.asdict(trainer.staging),
        "shared_bytes": sum(storage.nbytes() for storage in shared),
        "staged_bytes": staging.staged_bytes(trainer.checkpointer),
        "writes": len(trainer.checkpointer.write_seconds),
    }
    trainer.close()
    dist.destroy_process_group()
    return result


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


def train_counting_replica_sums(base: str) -> dict[str, Any]:
    """Train to the end; the losses, and how many gradients this rank summed over HSDP's replicas."""
    trainer = build(base)
    dims, summed = trainer.parallel_dims, [0]
    if dims.dp_replicate_enabled:
        replicas, original = dist.get_process_group_ranks(dims.get_mesh("dp_replicate").get_group()), dist.all_reduce

        def counted(tensor: torch.Tensor, *args: Any, **named: Any) -> Any:
            if named.get("group") is not None and dist.get_process_group_ranks(named["group"]) == replicas:
                summed[0] += tensor.numel() if tensor.numel() > 1 else 0  # a single number is a norm or a count of tokens
            return original(tensor, *args, **named)

        dist.all_reduce = counted
    trainer.train()
    rows = trainer.metrics_processor.file.rows() if trainer.metrics_processor.writes else []
    trainer.close()
    dist.destroy_process_group()
    return {"rows": [row for row in rows if "loss" in row], "summed": summed[0]}


def kept_by_a_compiled_block(shape: dict[str, Any], settings: list[tuple[str, str]]) -> list[float]:
    """Bytes per token that a BF16 block keeps for its backward pass where torch's partitioner cuts it in two; by FP8 and checkpointing."""
    from contracts.config import parse
    from training.float8 import convert
    from training.model import model_spec
    from training.spec import ModelShape
    from training.titan_config import CHECKPOINTING

    model_shape, found = parse(ModelShape, shape), []
    for float8, kind in settings:
        torch._dynamo.reset()
        config = convert(model_spec(model_shape).model, float8, emulate=False, compiled=True)  # type: ignore[arg-type]
        model = config.build()
        model.init_states(buffer_device=torch.device("cpu"))
        for weight in model.parameters():
            weight.data = weight.data.to(torch.bfloat16)
        policy = CHECKPOINTING[kind]  # type: ignore[index]
        if policy is not None:
            policy.build(dump_folder="").apply(model)
        (block,) = model.layers.values()
        block.compile(backend="aot_eager_decomp_partition", fullgraph=True)
        weights = {weight.untyped_storage().data_ptr() for weight in (*model.parameters(), *model.buffers())}
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, weights: set[int] = weights, kept: dict[int, int] = kept) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        length = model_shape.max_sequence_length
        tokens = torch.randn(1, length, model_shape.dim, dtype=torch.bfloat16, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            block(tokens, None)
        found.append(sum(kept.values()) / length)
    return found


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
    document_attention.on_cpu = lambda spec: spec
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


def logits_of_weights(base: str, tokens: list[list[int]]) -> dict[str, Any]:
    """The logits of a model that has loaded what its job was given, as float32 bytes in hexadecimal, and what this rank read."""
    trainer = build(base)
    trainer.checkpointer.load()
    (model,) = trainer.model_parts
    model._skip_lm_head = False  # else the loss applies it, in pieces
    with torch.no_grad():
        logits = model(torch.tensor(tokens))
    whole = logits.full_tensor() if hasattr(logits, "full_tensor") else logits
    parameters = sum(value.to_local().numel() if hasattr(value, "to_local") else value.numel() for value in model.parameters())
    trainer.close()
    dist.destroy_process_group()
    return {"logits": whole.float().numpy().tobytes().hex(), "parameters": parameters}


def weights_as_exported(base: str) -> dict[str, str]:
    """SHA-256 of every weight of this rank's stage, in Hugging Face's layout, after the model has loaded what its job was given."""
    trainer = build(base)
    trainer.checkpointer.load()
    found = {}
    for name, value in trainer.checkpointer.states["model"].state_dict().items():
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        for hf_name, weight in trainer.checkpointer.sd_adapter.to_hf({name: whole}).items():
            found[hf_name] = hashlib.sha256(weight.detach().contiguous().numpy().tobytes()).hexdigest()
    trainer.close()
    dist.destroy_process_group()
    return found
