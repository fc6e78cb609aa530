"""TrainingSpec: how one leg trains. Owned by training; no torch import, so that Admit can read it in a Lambda.

Recipes in infra/run/recipes/ fill it; a run's input overrides single values by dotted path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from contracts.config import Bounds, Problem, one_or_more
from training.initial import INITIAL, start_problems
from training.parallelism import ParallelismSpec, replica_problems
from training.profile_spec import ProfileSpec, profile_problems
from training.schedule import ScheduleSpec, schedule_problems

Attention = Literal["causal", "documents"]
Checkpointing = Literal["none", "selective", "full"]
Float8 = Literal["off", "rowwise", "tensorwise", "tensorwise_all_gather"]


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A Llama-3-like decoder."""

    dim: Annotated[int, one_or_more()]
    """Width of the residual stream."""
    layers: Annotated[int, one_or_more()]
    """Transformer blocks."""
    heads: Annotated[int, one_or_more()]
    """Attention heads."""
    kv_heads: Annotated[int, one_or_more()]
    """Key and value heads (grouped-query attention)."""
    ffn_dim: Annotated[int, one_or_more()]
    """Width of the gated feed-forward layer."""
    vocab_size: Annotated[int, Bounds(256, 1 << 20)]
    """Rows of the embedding; at least the tokenizer's vocabulary."""
    max_sequence_length: Annotated[int, one_or_more()] = 8192
    """Longest context, in tokens, that the exported model announces."""
    rope_theta: Annotated[float, Bounds(1.0)] = 500_000.0
    """Base of the rotary position embedding."""
    rope_scaling: Literal["none", "llama3"] = "none"
    """``llama3`` is Llama-3.1's frequency scaling (low 1, high 4, original length 8192)."""
    rope_scaling_factor: Annotated[float, Bounds(1.0, 1024.0)] = 8.0
    """Factor of the ``llama3`` scaling: 8 in Llama 3.1, 32 in Llama 3.2."""
    tie_embeddings: bool = False
    """Share the embedding with the output layer."""
    norm_eps: Annotated[float, Bounds(0.0, 1.0)] = 1e-5
    """Epsilon of RMSNorm."""

    def check(self) -> Iterator[Problem]:
        """Heads must divide the width, key-value heads the heads."""
        if self.dim % self.heads:
            yield Problem("dim", f"{self.dim} is not divisible by heads={self.heads}")
        elif (self.dim // self.heads) % 2:
            yield Problem("dim", f"dim/heads={self.dim // self.heads} must be even for rotary embeddings")
        if self.heads % self.kv_heads:
            yield Problem("heads", f"{self.heads} is not divisible by kv_heads={self.kv_heads}")


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """AdamW, or Muon for the matrices of the transformer blocks and AdamW for the rest."""

    name: Literal["adamw", "muon"] = "adamw"
    """``muon`` orthogonalises each block matrix's momentum (torch.optim.Muon, scaled so that ``lr`` means AdamW's). Every step
    gathers those matrices over FSDP's ranks; proven against one rank on CPUs, its speed on GPUs is not measured."""
    lr: Annotated[float, Bounds(0.0, 10.0)] = 3e-4
    """Peak learning rate."""
    beta1: Annotated[float, Bounds(0.0, 1.0)] = 0.9
    """Decay of the first moment."""
    beta2: Annotated[float, Bounds(0.0, 1.0)] = 0.95
    """Decay of the second moment."""
    eps: Annotated[float, Bounds(0.0, 1.0)] = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Bounds(0.0, 10.0)] = 0.1
    """Decoupled weight decay of matrices; norms and biases have none."""
    decay_embeddings: bool = True
    """Whether the decay is the token embedding's too. One that is tied to the output layer always has it."""
    muon_momentum: Annotated[float, Bounds(0.0, 1.0)] = 0.95
    """Momentum of Muon."""
    max_grad_norm: Annotated[float, Bounds(0.0)] = 1.0
    """Gradients are clipped to this global norm."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSpec:
    """Distributed checkpoints: model, optimiser, schedule, data cursor, RNG, step."""

    interval_steps: Annotated[int, one_or_more()] = 500
    """Steps between checkpoints: what a crash, a stop or a spot interruption loses at most. A stop tries one more, which
    arrives only where writing and uploading it fits into the 110 s that a stop leaves."""
    keep_latest: Annotated[int, Bounds(2)] = 3
    """Complete checkpoints kept on disk; two at least, since the newest can be damaged."""
    async_mode: Literal["disabled", "async", "async_with_pinned_mem"] = "async_with_pinned_mem"
    """``async`` saves while training goes on; pinned memory needs CUDA, copies faster, and stages 12 bytes per parameter and host
    in /dev/shm: where they do not fit, the job uses ``async`` and says so."""
    resume: bool = True
    """Start from the newest usable checkpoint when there is one."""


@dataclass(frozen=True, kw_only=True)
class ValidationSpec:
    """Loss on the held-out shards."""

    interval_steps: Annotated[int, Bounds(0)] = 500
    """Steps between validations; 0 for none but the last."""
    batches: Annotated[int, Bounds(0)] = 16
    """Batches per rank each time; 0 takes the whole validation set."""


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """The model as Hugging Face safetensors, at the end of the leg."""

    enabled: bool = True
    """Write it."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the exported weights (checkpoints keep float32)."""
    sample_prompt: str = "The"
    """Start of the short sample that the finished model writes."""
    sample_tokens: Annotated[int, Bounds(0, 192)] = 64
    """Tokens of that sample, written after the export, which it cannot endanger; 0 for none."""


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """One leg: model, length, batches, optimiser, speed, safety."""

    model: ModelShape
    """The network."""
    initial: Annotated[str, INITIAL, one_or_more(1024)] | None = None
    """Where training begins; null initialises by chance. Weights (``hf://OWNER/NAME@COMMIT``, ``s3://BUCKET/FOLDER/`` with config.json
    and safetensors, ``run:RUN/LEG`` for that leg's export) start with a fresh optimiser at step 0. ``run:RUN/LEG@STEP`` goes on from that
    leg's checkpoint with its optimiser and data order, as a leg of its own: a cool-down; ``steps`` count from that training's first."""
    device: Literal["cuda", "cpu"] = "cuda"
    """``cpu`` (gloo) is for the embedded AWS and tests."""
    processes_per_host: Annotated[int, Bounds(1, 64)] = 8
    """Ranks on each host: one per GPU."""
    steps: Annotated[int, one_or_more()] | None = None
    """Optimiser steps, counted from the run's first; give this or ``tokens``."""
    tokens: Annotated[int, one_or_more()] | None = None
    """Training tokens, turned into steps (rounded up); give this or ``steps``."""
    sequence_length: Annotated[int, Bounds(8)] = 8192
    """Tokens of one sample."""
    local_batch_size: Annotated[int, one_or_more()] = 1
    """Samples per data-parallel rank and forward pass."""
    global_batch_size: Annotated[int, one_or_more()] | None = None
    """Samples per optimiser step over all ranks; more than local x ranks accumulates gradients. Null: local x ranks."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimiser."""
    schedule: ScheduleSpec = ScheduleSpec()
    """The learning-rate schedule."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the matrix products and of FSDP's all-gather; parameters and reductions are float32."""
    compile: bool = True
    """torch.compile each transformer block."""
    activation_checkpointing: Checkpointing = "selective"
    """What the backward pass computes again instead of keeping."""
    fit_memory: tuple[Literal["local_batch_size", "activation_checkpointing", "reshard_after_forward"], ...] = ()
    """Settings that Admit chooses by the memory estimate for ``compute.instance_type``, in place of their own values: the least
    recomputation that fits, then the largest batch, then gathered weights are kept where there is room (``parallelism``).
    ``local_batch_size`` needs ``global_batch_size``. `pretrain plan` shows the choice."""
    float8: Float8 = "off"
    """FP8 linear layers: ``tensorwise_all_gather`` also gathers FSDP's weights in FP8."""
    attention: Attention = "causal"
    """``documents``: a token attends to its own document only, as if each were alone (FlexAttention; a dense mask with device cpu).
    ``causal``: to everything before it in its sample, other documents too (cuDNN or flash kernels). `make bench-gpu` has the cost."""
    mask_document_borders: bool = True
    """Leave the label that would train end-of-document -> next document out of the loss."""
    parallelism: ParallelismSpec = ParallelismSpec()
    """How devices share the work."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """Checkpoints."""
    validation: ValidationSpec = ValidationSpec()
    """Validation."""
    export: ExportSpec = ExportSpec()
    """Export."""
    log_interval_steps: Annotated[int, one_or_more()] = 10
    """Steps between metrics lines."""
    profile: ProfileSpec | None = None
    """A trace of chosen steps by torch's profiler, which ui.perfetto.dev opens, under the attempt's ``diagnostics/``; null records none.
    These steps are slower, and no figure of speed counts them. What goes wrong with a recording is told and costs nothing else."""
    seed: Annotated[int, Bounds(0, (1 << 32) - 1)] = 1
    """Seeds initialisation and data order."""
    deterministic: bool = False
    """Deterministic kernels: slower, bitwise repeatable on one kind of device."""
    hang_after_median_steps: Annotated[float, Bounds(2.0)] = 50.0
    """No step for this many median step times (and 60 s at least) counts as a hang; the job ends so that the next attempt resumes.
    Saving, validation and the export have limits of their own: 60 s and their bytes at 64 MB/s, or two median steps per batch."""
    min_all_reduce_gbps: Annotated[float, Bounds(0.0)] = 0.0
    """Floor of the start-up fabric check on several hosts, in GB/s bus bandwidth; 0 measures without a floor."""
    check_node: bool = True
    """Ask dcgmi, nvidia-smi and the kernel log of each host for faulty GPUs before training (device cuda), and count GPUs and EFA devices.
    A host with a fault ends the job as DeviceFault; false where such a check errs for an instance type."""
    expected_tokens_per_second_per_device: Annotated[float, Bounds(0.0)] | None = None
    """What this leg should reach; used for the cost estimate and the slow alarm. Null: no estimate."""

    def check(self) -> Iterator[Problem]:
        """Settings that are fine alone and cannot work together; both names are given."""
        if (self.steps is None) == (self.tokens is None):
            yield Problem("steps", 'give exactly one of "steps" and "tokens"')
        if self.sequence_length > self.model.max_sequence_length:
            yield Problem(
                "sequence_length",
                f"{self.sequence_length} exceeds model.max_sequence_length={self.model.max_sequence_length}; raise that or lower this",
            )
        if self.device == "cpu":
            if self.checkpoint.async_mode == "async_with_pinned_mem":
                yield Problem("checkpoint.async_mode", 'async_with_pinned_mem needs device=cuda; use "async" or "disabled"')
            if self.attention == "documents" and self.parallelism.context > 1:
                yield Problem("attention", f"documents with device=cpu cannot be split over parallelism.context={self.parallelism.context}")
        if self.float8 == "tensorwise_all_gather" and self.parallelism.tensor > 1:
            yield Problem(
                "float8", f"tensorwise_all_gather with parallelism.tensor={self.parallelism.tensor} is not supported; use tensorwise"
            )
        if self.float8 != "off" and (self.model.dim % 16 or self.model.ffn_dim % 16):
            yield Problem("float8", f"FP8 products need model.dim={self.model.dim} and model.ffn_dim={self.model.ffn_dim} divisible by 16")
        yield from _split_problems(self)


FLEX_BLOCK = 128  # tokens that FlexAttention's masks come in; torch gives each rank whole blocks


def _split_problems(spec: TrainingSpec) -> Iterator[Problem]:
    """What tensor, context and pipeline parallelism must divide; torchtitan would refuse it once the devices are paid for."""
    shape, degrees = spec.model, spec.parallelism
    tensor, context, pipeline = degrees.tensor, degrees.context, degrees.pipeline
    if tensor > 1:
        for name, heads in (("heads", shape.heads), ("kv_heads", shape.kv_heads)):
            if heads % tensor:
                yield Problem("parallelism.tensor", f"{tensor} does not divide model.{name}={heads}")
    pieces = tensor * (2 * context if context > 1 else 1)
    if spec.sequence_length % pieces:
        named = " x ".join([f"parallelism.tensor={tensor}"] * (tensor > 1) + [f"2 x parallelism.context={context}"] * (context > 1))
        yield Problem("sequence_length", f"{spec.sequence_length} is not divisible by {named}")
    elif context > 1 and spec.attention == "documents" and spec.sequence_length % (context * FLEX_BLOCK):
        yield Problem(
            "sequence_length",
            f"{spec.sequence_length} is not divisible by {FLEX_BLOCK} x parallelism.context={context}, as attention=documents needs",
        )
    if pipeline > 1 and shape.tie_embeddings:
        yield Problem("parallelism.pipeline", f"{pipeline} stages cannot share one weight; set model.tie_embeddings to false")
    if pipeline > shape.layers:
        yield Problem("parallelism.pipeline", f"{pipeline} stages need as many layers, and model.layers is {shape.layers}")


def data_parallel_ranks(spec: TrainingSpec, hosts: int) -> int:
    """Ranks that read different samples: all devices over tensor x context x pipeline."""
    p = spec.parallelism
    return hosts * spec.processes_per_host // (p.tensor * p.context * p.pipeline)


def tokens_per_step(spec: TrainingSpec, hosts: int) -> int:
    """Training tokens of one optimiser step over all ranks."""
    samples = spec.global_batch_size or spec.local_batch_size * data_parallel_ranks(spec, hosts)
    return samples * spec.sequence_length


def total_steps(spec: TrainingSpec, hosts: int) -> int:
    """Optimiser steps of the leg; ``tokens`` is rounded up to whole steps."""
    if spec.steps is not None:
        return spec.steps
    per_step = tokens_per_step(spec, hosts)
    return -(-(spec.tokens or 0) // per_step)


def cluster_problems(spec: TrainingSpec, hosts: int) -> Iterator[Problem]:
    """Settings that depend on the number of hosts: degrees against devices, batch against ranks."""
    p, devices = spec.parallelism, hosts * spec.processes_per_host
    fixed = p.replicate * p.tensor * p.context * p.pipeline
    degrees = f"replicate={p.replicate} x tensor={p.tensor} x context={p.context} x pipeline={p.pipeline}"
    if p.shard == -1:
        if devices % fixed:
            yield Problem("parallelism", f"{degrees} does not divide {devices} devices ({hosts} hosts x {spec.processes_per_host})")
            return
    elif fixed * p.shard != devices:
        yield Problem("parallelism", f"{degrees} x shard={p.shard} is {fixed * p.shard}, but there are {devices} devices; set shard to -1")
        return
    yield from replica_problems(p, hosts, spec.processes_per_host)
    yield from schedule_problems(spec.schedule, total_steps(spec, hosts))
    yield from start_problems(spec.initial, total_steps(spec, hosts), spec.schedule.decay_steps)
    per_pass = spec.local_batch_size * data_parallel_ranks(spec, hosts)
    if spec.global_batch_size is not None and spec.global_batch_size % per_pass:
        yield Problem(
            "global_batch_size",
            f"{spec.global_batch_size} is not a multiple of local_batch_size x data-parallel ranks = {per_pass}",
        )
    passes = (spec.global_batch_size or per_pass) // per_pass
    yield from profile_problems(spec.profile, steps=total_steps(spec, hosts), ranks=devices, passes=passes)
