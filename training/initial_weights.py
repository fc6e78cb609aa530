"""The weights that a leg begins from: the channel ``initial``, checked without torch, and read by each rank for its own shards.

torchtitan's own way (its adapter over DCP's HuggingFaceStorageReader) wants the query, key and value weights apart, which it
would gather on every rank (training/fused_attention.py), and reads whole tensors. Here DCP plans the reading as it does for a
checkpoint, and this reader cuts each asked block out of Hugging Face's layout: a rank reads the rows it keeps, in one piece each,
so no host reads or holds more than its share, also with tensor and pipeline parallelism. The channel is FastFile: a read is a
request to S3.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.config import Json, Problem, to_json
from contracts.llama_config import config_problems, tokenizer_problem, weight_problems
from contracts.weights_folder import TOKENIZER_FILE, ModelFolder, UnusableWeights, look_at
from training.failure_classes import BadInput, WeightsUnusable
from training.spec import ModelShape

if TYPE_CHECKING:
    from training.leg_job import LegJob


def open_weights(folder: Path, shape: ModelShape, tokenizer: Path | None = None) -> ModelFolder:
    """The model in ``folder``, which has this shape and, where it brings a tokenizer, knows the tokens of the run's.

    Raises:
        WeightsUnusable: with every reason.
    """
    try:
        found = look_at(_sizes(folder), lambda name, start, count: _read(folder / name, start, count))
    except (UnusableWeights, OSError) as error:
        raise WeightsUnusable(f"the channel initial holds no model that can be read: {error}") from None
    model: Json = to_json(shape)
    problems: list[Problem] = list(config_problems(found.config, model)) or list(weight_problems(found, model))
    theirs = folder / TOKENIZER_FILE
    if tokenizer is not None and theirs.is_file():
        other = tokenizer_problem(theirs.read_bytes(), tokenizer.read_bytes())
        problems += [other] if other is not None else []
    if problems:
        raise WeightsUnusable("; ".join(f"training.{problem}" for problem in problems))
    return found


def check_initial(job: LegJob, tokenizer: Path) -> None:
    """The channel ``initial`` of a job that has one fits the leg and the run's ``tokenizer``; a job that needs one has it.

    Raises:
        WeightsUnusable, BadInput: what is wrong, in one sentence.
    """
    if job.spec.initial is None or job.checkpoint.is_dir():
        return
    if job.start is None:
        raise BadInput(f"run.json has training.initial={job.spec.initial} for leg {job.leg} and does not say what it was found to be")
    if job.start.get("kind") == "checkpoint":
        raise WeightsUnusable(
            f"training.initial is {job.spec.initial}, and the job was given no checkpoint: its request lacks that channel"
        )
    if not job.initial.is_dir():
        raise WeightsUnusable(f"training.initial is {job.spec.initial}, and {job.initial} is missing: the job's request lacks that channel")
    open_weights(job.initial, job.spec.model, tokenizer)


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}


def _read(path: Path, start: int, count: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        return bytes(_fill(file, bytearray(count)))


def _fill(file: io.FileIO, body: bytearray) -> memoryview:
    """``body`` filled from here on; what there was of it."""
    view, got = memoryview(body), 0
    while got < len(body) and (more := file.readinto(view[got:])):
        got += more
    return view[:got]


NAMES = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
"""torchtitan's name -> Hugging Face's, below the layer where it is in one (torchtitan.models.llama3.state_dict_adapter)."""
FUSED = "attention.qkv_linear.wqkv.weight"
PARTS = tuple(f"self_attn.{part}_proj.weight" for part in ("q", "k", "v"))
_IN_LAYER = re.compile(r"layers\.(\d+)\.(.+)")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Where the rows of one of torchtitan's weights lie in Hugging Face's."""

    sources: tuple[str, ...]
    """Hugging Face's names."""
    which: Any
    """int64 (rows,): index into ``sources``; None where there is one, row for row."""
    row: Any
    """int64 (rows,): row there."""


def rows_of(name: str, shape: ModelShape) -> Rows:
    """Where the rows of torchtitan's weight ``name`` lie.

    Two things differ from Hugging Face's layout. torchtitan keeps query, key and value in one weight, in groups of heads / kv_heads
    query heads, one key and one value head. And it rotates neighbouring rows of a query or key head, where Hugging Face rotates the
    two halves (transformers' convert_llama_weights_to_hf.py, ``permute``): row 2 j + i of a head is row i x size / 2 + j there.
    """
    match = _IN_LAYER.fullmatch(name)
    below, prefix = (match[2], f"model.layers.{match[1]}.") if match is not None else (name, "")
    if below != FUSED:
        hf_name = "model.embed_tokens.weight" if below == "lm_head.weight" and shape.tie_embeddings else NAMES[below]
        return Rows(sources=(prefix + hf_name,), which=None, row=None)
    import torch

    size, per_group = shape.dim // shape.heads, shape.heads // shape.kv_heads
    rotated = torch.arange(size).reshape(2, size // 2).T.reshape(-1)
    which, row = [], []
    for group in range(shape.kv_heads):
        for head in range(per_group):
            which.append(torch.zeros(size, dtype=torch.int64))
            row.append((group * per_group + head) * size + rotated)
        which += [torch.ones(size, dtype=torch.int64), torch.full((size,), 2)]
        row += [group * size + rotated, group * size + torch.arange(size)]
    return Rows(sources=tuple(prefix + part for part in PARTS), which=torch.cat(which), row=torch.cat(row))


class WeightsFile:
    """Rows of weights, straight from their files."""

    TYPES: Mapping[str, str] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}

    def __init__(self, folder: Path, found: ModelFolder) -> None:
        self._folder, self._weights = folder, found.weights
        self.bytes_read = 0

    def rows(self, name: str, first: int, end: int) -> Any:
        """Rows ``first`` to ``end`` of a weight as it is stored, a CPU tensor; elements where it has one dimension.

        Raises:
            WeightsUnusable: the file ends before them.
        """
        import torch

        weight = self._weights[name]
        per_row = weight.bytes // weight.shape[0]
        body = bytearray((end - first) * per_row)
        with (self._folder / weight.file).open("rb", buffering=0) as file:
            file.seek(weight.begin + first * per_row)
            got = len(_fill(file, body))
        self.bytes_read += got
        if got < len(body):
            raise WeightsUnusable(f"{weight.file} ends inside {name}: it was truncated after it was checked")
        return torch.frombuffer(body, dtype=getattr(torch, self.TYPES[weight.dtype])).reshape(end - first, *weight.shape[1:])

    def block(self, rows: Rows, offsets: tuple[int, ...], lengths: tuple[int, ...]) -> Any:
        """The block of a weight at ``offsets``. Reads from the first to the last row it needs of each source."""
        import torch

        first, end = offsets[0], offsets[0] + lengths[0]
        columns = tuple(slice(offset, offset + length) for offset, length in zip(offsets[1:], lengths[1:], strict=True))
        if rows.which is None:
            return self.rows(rows.sources[0], first, end)[(slice(None), *columns)]
        which, row = rows.which[first:end], rows.row[first:end]
        whole: Any = None
        for number, name in enumerate(rows.sources):
            mine = torch.nonzero(which == number).flatten()
            if not len(mine):
                continue
            wanted = row[mine]
            low, high = int(wanted.min()), int(wanted.max()) + 1
            found = self.rows(name, low, high)[(slice(None), *columns)]
            whole = torch.empty(lengths, dtype=found.dtype) if whole is None else whole
            whole[mine] = found[wanted - low].to(whole.dtype)
        return whole
