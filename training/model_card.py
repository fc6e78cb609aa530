"""The export's README.md: the model's description and lineage. Pure."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence

from contracts.shard_index import ShardIndex
from training.leg_job import LegJob
from training.memory import parameter_count


def model_card(job: LegJob, index: ShardIndex, *, rows: Sequence[dict[str, float]], step: int) -> str:
    """Markdown with Hugging Face's front matter."""
    shape, train, held_out = job.spec.model, index.splits["train"], index.splits["validation"]
    validation = [row["validation_loss"] for row in rows if "validation_loss" in row]
    losses = [row["loss"] for row in rows if "loss" in row]
    lineage = {
        "run": job.run_id,
        "leg": f"{job.leg}, attempt {job.attempt}",
        "image": os.environ.get("IMAGE_URI", "unknown"),
        "source revision": str(job.run.get("image", {}).get("tag", "unknown")) + " (hash of the build context)",
        "data fingerprint": index.fingerprint,
        "text source": str(job.run.get("data", {}).get("source", "unknown")),
        "tokenizer (SHA-256)": index.tokenizer.sha256,
        "settings": "leg.json, beside this file",
    }
    figures = {
        "parameters": f"{parameter_count(shape):,}",
        "steps": f"{step:,}",
        "tokens seen": f"{step * job.tokens_per_step:,} (the training split holds {train.tokens:,})",
        "training loss, last step logged": f"{losses[-1]:.4f} nats per token" if losses else "unknown",
        "validation loss": f"{validation[-1]:.4f} nats per token (perplexity {math.exp(validation[-1]):.2f})"
        if validation
        else "not measured",
        "unigram entropy of the validation tokens": f"{held_out.unigram_entropy_nats:.4f} nats"
        if held_out.unigram_entropy_nats
        else "unknown",
    }
    front = "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [llama, pretrained, torchtitan]\n---\n"
    recipe = json.dumps({"optimizer": vars(job.spec.optimizer), "schedule": vars(job.spec.schedule)}, indent=1)
    return (
        f"{front}\n# {job.run_id} / {job.leg}\n\nA Llama-3-like decoder, trained from scratch: {shape.layers} layers, width {shape.dim}, "
        f"{shape.heads} heads ({shape.kv_heads} for keys and values), context {shape.max_sequence_length}. "
        "It continues text; it was neither aligned nor evaluated beyond the figures below.\n\n"
        f"## Figures\n\n{_table(figures)}\n## Lineage\n\n{_table(lineage)}\n"
        f"## Optimiser and schedule\n\n```json\n{recipe}\n```\n"
    )


def _table(rows: dict[str, str]) -> str:
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())
