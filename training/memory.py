"""Estimate of the memory that a leg needs on each device. Pure Python: Admit uses it in a Lambda function.

`pretrain plan` shows it part by part. Checked against torch's FSDP memory tracker under fake tensors
and against published measurements on H100 (tests/training/test_memory.py); the constants below were derived from that tracker
by changing one size at a time; comments name their parts.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from training.spec import ModelShape, TrainingSpec

LOSS_CHUNKS = 8  # torchtitan's default: at 8192 x 128256, 0.26 GB of bfloat16 logits per sample and chunk instead of 2.1
CUDA_RUNTIME_BYTES = 2 << 30  # CUDA context, cuBLAS workspaces, NCCL's buffers and the allocator's unused pieces; not measured here
ADAMW_BYTES = 8  # two float32 moments per parameter
MUON_BYTES = 4  # one float32 momentum per parameter of a block's matrices; the rest follows AdamW


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on the fullest device at the peak of a step."""

    parameters: int
    """This device's float32 shard."""
    optimizer: int
    """The optimiser's moments of the shard."""
    gradients: int
    """The shard's reduced gradients. On GPUs they count at any moment: FSDP makes them on a stream of its own, and what torch's
    allocator has reserved for one stream serves no other."""
    gathered: int
    """Parameters and gradients of the layers in work, whole, as FSDP gathers and reduces them; of every block where they are kept."""
    activations: int
    """What the forward pass keeps for the backward pass."""
    logits: int
    """Output of the last layer and the loss's work on it, or one block's recomputation, whichever is larger; both in an eager leg."""
    runtime: int
    """Everything that is no tensor."""

    @property
    def tensors(self) -> int:
        """All but the runtime: what torch's memory tracker counts."""
        return self.total - self.runtime

    @property
    def total(self) -> int:
        """Everything."""
        return sum(getattr(self, field.name) for field in fields(self))


def parameter_count(shape: ModelShape) -> int:
    """Parameters, a tied embedding counted once."""
    vocabularies = 1 if shape.tie_embeddings else 2
    return shape.layers * block_parameters(shape) + vocabularies * shape.vocab_size * shape.dim + shape.dim


def block_parameters(shape: ModelShape) -> int:
    """Parameters of one transformer block."""
    head = shape.dim // shape.heads
    attention = shape.dim * head * (2 * shape.heads + 2 * shape.kv_heads)
    return attention + 3 * shape.dim * shape.ffn_dim + 2 * shape.dim


def optimizer_bytes(spec: TrainingSpec, parameters: int, of_blocks: int) -> int:
    """The optimiser's moments of so many parameters, of which so many are the blocks'. Muon leaves the blocks' norms to AdamW,
    4 bytes each for a few thousand of them, which is not counted.
    """
    muon = of_blocks if spec.optimizer.name == "muon" else 0
    return ADAMW_BYTES * (parameters - muon) + MUON_BYTES * muon


def checkpoint_bytes(spec: TrainingSpec) -> int:
    """A whole checkpoint: float32 weights and the optimiser's moments; 12 bytes per parameter with AdamW (8B: 96 GB)."""
    count = parameter_count(spec.model)
    return 4 * count + optimizer_bytes(spec, count, spec.model.layers * block_parameters(spec.model))


def chunks_loss(spec: TrainingSpec) -> bool:
    """Whether the loss takes the sequence in pieces, so that all logits never exist at once."""
    return spec.parallelism.pipeline == 1 and spec.sequence_length // spec.parallelism.context % LOSS_CHUNKS == 0


def device_bytes(spec: TrainingSpec, hosts: int) -> int:
    """Memory that each device needs, in bytes."""
    return estimate(spec, hosts).total


def estimate(spec: TrainingSpec, hosts: int, *, chunked: bool | None = None) -> MemoryEstimate:
    """The peak of a step on the fullest device. ``chunked`` overrides how the loss is taken (for the comparison in tests)."""
    shape, degrees = spec.model, spec.parallelism
    element = element_bytes(spec)
    tensor, stages = degrees.tensor, degrees.pipeline
    shards = hosts * spec.processes_per_host // (degrees.replicate * tensor * stages)  # FSDP spans context parallel ranks too
    layers = -(-shape.layers // stages)
    block, vocabulary = block_parameters(shape) // tensor, shape.vocab_size * shape.dim // tensor
    held = layers * block + (vocabulary if stages > 1 else parameter_count(shape) // tensor - layers * block)
    shard = -(-held // shards)
    accumulates = spec.global_batch_size is not None and spec.global_batch_size > spec.local_batch_size * shards * degrees.replicate
    in_flight = min(stages, spec.local_batch_size) if stages > 1 else spec.local_batch_size
    tokens = in_flight * spec.sequence_length // degrees.context
    per_token = kept_bytes(spec) // tensor
    chunked = chunks_loss(spec) if chunked is None else chunked
    gathers = 1 if spec.float8 == "tensorwise_all_gather" else element
    kept_blocks = layers * block * gathers if stages > 1 or not degrees.reshard_after_forward else 0  # from the forward pass on
    kept = tokens * layers * per_token + tokens * shape.dim * 5 * element  # 5: embedding, final norm and its float32 parts
    # Peak one: the loss. The output layer is whole, and with chunks its gradient too, summed in float32.
    logits = 3 * 4 * tokens * shape.vocab_size // tensor // (LOSS_CHUNKS if chunked else 1)  # log-softmax, its gradient, a copy
    head = vocabulary * element + (vocabulary * (4 + element) + tokens * shape.dim * (4 + element) if chunked else 0) + kept_blocks
    # Peak two: the backward pass of the last block. Two blocks are gathered (one ahead), one reduced in float32.
    backward = (kept_blocks or 2 * block * gathers) + block * (element + 4)
    again = tokens * (_block_bytes(shape, element) // tensor + 2 * shape.dim * element)
    eager = spec.device == "cuda" and not spec.compile
    at_loss = head + logits >= backward + again
    return MemoryEstimate(
        parameters=4 * shard,
        optimizer=-(-optimizer_bytes(spec, held, layers * block) // shards),
        gradients=4 * shard if accumulates or spec.device == "cuda" else 0,
        gathered=head if at_loss else backward,
        activations=kept,
        # Eager legs reserve more, published figures say: what one use leaves are pieces that do not fit the other.
        logits=logits + again if at_loss and eager else logits if at_loss else again,
        runtime=CUDA_RUNTIME_BYTES if spec.device == "cuda" else 0,
    )


def kept_bytes(spec: TrainingSpec) -> int:
    """Bytes per token and block that the forward pass keeps for the backward pass."""
    shape, element = spec.model, element_bytes(spec)
    if spec.activation_checkpointing == "full":
        return shape.dim * element  # the block's input
    if spec.activation_checkpointing == "none":
        return _compiled_bytes(spec, element) if spec.compile else _block_bytes(shape, element)
    # torchtitan's selective policy keeps attention's output and every second product: the fused q, k, v, w1 and w2.
    projections = shape.dim + 2 * shape.kv_heads * (shape.dim // shape.heads)
    return element * (2 * shape.dim + projections + shape.ffn_dim) + (attention_bytes(shape, element) if spec.device == "cuda" else 0)


def element_bytes(spec: TrainingSpec) -> int:
    """Of a number in the products."""
    return 2 if spec.precision == "bfloat16" else 4


def attention_bytes(shape: ModelShape, element: int = 2) -> int:
    """Output and log-sum-exp of a flash kernel. The CPU's kernel is not on torchtitan's list, and is computed again."""
    return shape.dim * element + shape.heads * 4


def _compiled_bytes(spec: TrainingSpec, element: int) -> int:
    """What a compiled block keeps without checkpointing: torch's partitioner computes everything but products and attention again.

    Of the feed-forward width w1, w3 and, as the input of a product in BF16, their gated product; of the residual stream's
    the inputs of the block, of qkv, of attention (queries) and of wo, and wo's output and its norm. FP8 products keep neither the
    gated product nor the norms' outputs, but one of their inputs in FP8 (tests/training/test_memory.py counts them).
    """
    shape = spec.model
    wide, narrow, eight_bit = (3, 6, 0) if spec.float8 == "off" else (2, 4, shape.dim)
    kv = shape.kv_heads * (shape.dim // shape.heads)
    return element * (wide * shape.ffn_dim + narrow * shape.dim + 2 * kv) + eight_bit + 4 * shape.heads


def _block_bytes(shape: ModelShape, element: int) -> int:
    """Bytes per token that a block keeps without checkpointing: four tensors of the feed-forward width (w1, w3, silu, their
    product), and of the width of the residual stream what two norms (float32 inside), rotary embeddings and attention keep.
    """
    kv = shape.kv_heads * (shape.dim // shape.heads)
    return element * 4 * shape.ffn_dim + (21 * shape.dim + 16 * kv) * element // 2
