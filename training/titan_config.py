"""TrainingSpec -> torchtitan 0.3.0's Trainer.Config. The only place that sets torchtitan's options."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from torchtitan.components.loss import ChunkedLossWrapper, CrossEntropyLoss
from torchtitan.config import CommConfig, CompileConfig, DebugConfig, ParallelismConfig, TrainingConfig
from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC
from torchtitan.models.common.config_utils import decoder_vocab_size
from torchtitan.protocols.model_spec import ModelSpec

from contracts.config import Json, to_json
from contracts.files import CHECKPOINTS, METRICS
from contracts.mixture import read_mixture
from training import cpu_device, document_attention, float8
from training.checkpoints import LegCheckpoints
from training.compile_cache import cache_folder, compiled_is_kept
from training.leg_identity import leg_identity
from training.leg_job import STOP_FILE, LegJob
from training.loader import ShardLoader
from training.memory import LOSS_CHUNKS, checkpoint_bytes, chunks_loss, parameter_count
from training.metrics import LegMetrics
from training.model import model_spec
from training.optimizer import LegSchedule, optimizer_config
from training.profile_spec import slowed_steps
from training.profiling import LegProfiler
from training.spec import Checkpointing, TrainingSpec, data_parallel_ranks
from training.token_shards import SplitName
from training.tokens import Tokens, TokenSource, job_mixture
from training.trainer import LegTrainer
from training.validation import LegValidator
from training.watchdog import Limits

CHECKPOINTING: dict[Checkpointing, FullAC.Config | SelectiveAC.Config | None] = {
    "none": None,
    "selective": SelectiveAC.Config(),
    "full": FullAC.Config(),
}


def trainer_config(job: LegJob, tokens: Tokens, *, validates: bool = True) -> LegTrainer.Config:
    """The trainer of one leg. A source without held-out tokens is not validated; without any source that has some, nothing is."""
    spec, steps = job.spec, job.steps
    model = leg_model_spec(spec, job.leg)
    held_out = tokens.validated(spec.sequence_length) if validates else ()
    slowed = slowed_steps(spec.profile)
    return LegTrainer.Config(
        model_spec=model,
        hf_assets_path=str(tokens.folder),
        dump_folder=str(job.work),
        loss=_loss(spec, model),
        dataloader=_loader(job, tokens),
        optimizer=optimizer_config(spec.optimizer, tied=spec.model.tie_embeddings),
        lr_scheduler=LegSchedule.Config(schedule=spec.schedule),
        training=TrainingConfig(
            local_batch_size=spec.local_batch_size,
            global_batch_size=spec.global_batch_size or -1,
            seq_len=spec.sequence_length,
            steps=steps,
            max_norm=spec.optimizer.max_grad_norm,
            mixed_precision_param=spec.precision,
            disable_cuda_graphs=True,
        ),
        parallelism=_parallelism(spec),
        checkpoint=_checkpoints(job),
        activation_checkpoint=activation_checkpointing(spec),
        compile=CompileConfig(enable=spec.compile),
        comm=CommConfig(
            init_timeout_seconds=1800,  # the first step compiles, and ranks differ by minutes
            train_timeout_seconds=1800,  # the watchdog is the tighter bound: it knows this leg's step time
            trace_buf_size=20_000 if spec.device == "cuda" else 0,
            save_traces_folder=str(job.diagnostics / "flight_recorder"),
        ),
        metrics=LegMetrics.Config(
            log_freq=spec.log_interval_steps,
            disable_color_printing=True,
            folder=str(job.work / METRICS),
            tensorboard_folder=str(job.tensorboard),
            checked_steps=spec.checkpoint.interval_steps,
            last_step=steps,
            tokens_per_step=job.tokens_per_step,
            slowed=(slowed.start, slowed.stop),
        ),
        profiler=LegProfiler.Config(chosen=spec.profile, folder=str(job.traces), cuda=spec.device == "cuda"),
        validator=_validator(job, held_out),
        debug=DebugConfig(seed=spec.seed, deterministic=spec.deterministic, enable_structured_logging=False),
        hang_after_median_steps=spec.hang_after_median_steps,
        diagnostics=str(job.diagnostics),
        stop_file=str(job.rank_notes / STOP_FILE),
        limits=phase_limits(job, held_out),
    )


def phase_limits(job: LegJob, held_out: Sequence[TokenSource]) -> Limits:
    """The watchdog's, from what one host writes and one rank validates. HSDP's replicas write nothing twice, so all hosts share it."""
    spec, hosts = job.spec, job.cluster.size
    a_pass = spec.local_batch_size * spec.sequence_length * data_parallel_ranks(spec, hosts)
    element = 2 if spec.export.dtype == "bfloat16" else 4
    return Limits.of(
        checkpoint_bytes=checkpoint_bytes(spec) // hosts,
        # Few files are dealt to few hosts, so that one host may write a small model alone.
        export_bytes=element * parameter_count(spec.model),
        validation_batches=sum(spec.validation.batches or -(-source.index.splits["validation"].tokens // a_pass) for source in held_out),
    )


def activation_checkpointing(spec: TrainingSpec) -> FullAC.Config | SelectiveAC.Config | None:
    """torchtitan's policy of that name."""
    return CHECKPOINTING[spec.activation_checkpointing]


def leg_model_spec(spec: TrainingSpec, name: str = "leg") -> ModelSpec:
    """The leg's model, adapted to its device."""
    model = model_spec(spec.model, attention=spec.attention, name=name)
    converted = float8.convert(model.model, spec.float8, emulate=spec.device == "cpu", compiled=spec.compile)
    model = dataclasses.replace(model, model=converted, post_optimizer_build_fn=float8.after_optimizer_build(spec.float8))
    if spec.device != "cpu":
        return model
    return cpu_device.adapt_model_spec(document_attention.on_cpu(model) if spec.attention == "documents" else model, spec.seed)


def leg_json(job: LegJob) -> Json:
    """What a checkpoint is of, for its manifest; its identity must be equal for another job to go on from it."""
    who = {"run_id": job.run_id, "leg": job.leg, "attempt": job.attempt}
    identity = leg_identity(job.spec, job.fingerprint, job.cluster.size, read_mixture(job.run), initial=job.start)
    return {**identity, **who, "training": to_json(job.spec)}


def _loader(job: LegJob, tokens: Tokens) -> ShardLoader.Config:
    mixture = job_mixture(job, tokens)
    return dataclasses.replace(_split_loader(job, "train", tokens.folder), mixture=mixture)


def _split_loader(job: LegJob, split: SplitName, folder: Path) -> ShardLoader.Config:
    return ShardLoader.Config(
        tokens_dir=str(folder),
        split=split,
        seed=job.spec.seed,
        mask_borders=job.spec.mask_document_borders,
        emit_positions=job.spec.attention == "documents",
        check="sizes",  # the job has looked at every edge once per host
    )


def _loss(spec: TrainingSpec, model: ModelSpec) -> ChunkedLossWrapper.Config | CrossEntropyLoss.Config:
    """Chunks keep the logits from being in memory at once. Pipeline stages and odd lengths take the plain loss."""
    plain = CrossEntropyLoss.Config(global_vocab_size=decoder_vocab_size(model))
    return ChunkedLossWrapper.Config(num_chunks=LOSS_CHUNKS, loss_fn=plain) if chunks_loss(spec) else plain


def _parallelism(spec: TrainingSpec) -> ParallelismConfig:
    degrees = spec.parallelism
    return ParallelismConfig(
        data_parallel_replicate_degree=degrees.replicate,
        data_parallel_shard_degree=degrees.shard,
        tensor_parallel_degree=degrees.tensor,
        context_parallel_degree=degrees.context,
        pipeline_parallel_degree=degrees.pipeline,
        # "default" keeps the output layer, which the backward pass needs at once, and everything with pipeline stages.
        fsdp_reshard_after_forward="default" if degrees.reshard_after_forward else "never",
        context_parallel_load_balancer="headtail" if spec.attention == "causal" else "ptrr",
        # spmd_types, 0.3.0's default, splits the sequence for FlexAttention only.
        spmd_backend="partial_dtensor" if degrees.context > 1 and spec.attention == "causal" else "spmd_types",
    )


def _checkpoints(job: LegJob) -> LegCheckpoints.Config:
    chosen = job.spec.checkpoint
    return LegCheckpoints.Config(
        enable=True,
        folder=CHECKPOINTS,
        interval=chosen.interval_steps,
        keep_latest_k=chosen.keep_latest,
        async_mode=chosen.async_mode,
        last_save_model_only=False,  # a finished leg can be trained on
        leg=leg_json(job),
        source=str(job.checkpoint),
        compile_cache=str(cache_folder(job)) if compiled_is_kept(job.spec) else None,
        weights=str(job.initial),
        shape=job.spec.model,
    )


def _validator(job: LegJob, held_out: Sequence[TokenSource]) -> LegValidator.Config:
    chosen = job.spec.validation
    loaders = {source.name: _split_loader(job, "validation", source.folder) for source in held_out}
    return LegValidator.Config(
        enable=bool(loaders),
        freq=chosen.interval_steps,
        steps=chosen.batches or -1,
        dataloader=next(iter(loaders.values()), ShardLoader.Config()),
        sources=loaders,
        last_step=job.steps,
    )
