"""The export's README.md: the model's description and lineage. Pure."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence

from contracts.config import Json
from contracts.metric_line import SOURCE_METRICS, last_value, source_metric
from training.leg_job import LegJob
from training.memory import parameter_count
from training.tokens import Tokens


def model_card(job: LegJob, tokens: Tokens, *, rows: Sequence[dict[str, float]], step: int) -> str:
    """Markdown with Hugging Face's front matter."""
    shape, entropy = job.spec.model, tokens.unigram_entropy
    validation = [row["validation_loss"] for row in rows if "validation_loss" in row]
    losses = [row["loss"] for row in rows if "loss" in row]
    lineage = {
        "run": job.run_id,
        "leg": f"{job.leg}, attempt {job.attempt}",
        "image": os.environ.get("IMAGE_URI", "unknown"),
        "source revision": str(job.run.get("image", {}).get("tag", "unknown")) + " (hash of the build context)",
        "began from": _origin(job.start),
        "data fingerprint": job.fingerprint or tokens.sources[0].index.fingerprint,
        "text source": _text_source(job),
        "tokenizer (SHA-256)": tokens.tokenizer.sha256,
        "settings": "leg.json, beside this file",
    }
    figures = {
        "parameters": f"{parameter_count(shape):,}",
        "steps": f"{step:,}",
        "tokens seen": f"{step * job.tokens_per_step:,} (one pass over the training split: {tokens.train_tokens:,})",
        "training loss, last step logged": f"{losses[-1]:.4f} nats per token" if losses else "unknown",
        "validation loss": f"{validation[-1]:.4f} nats per token (perplexity {math.exp(validation[-1]):.2f})"
        if validation
        else "not measured",
        "unigram entropy of the validation tokens": f"{entropy:.4f} nats" if entropy else "unknown",
    }
    front = "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [llama, pretrained, torchtitan]\n---\n"
    recipe = json.dumps({"optimizer": vars(job.spec.optimizer), "schedule": vars(job.spec.schedule)}, indent=1)
    return (
        f"{front}\n# {job.run_id} / {job.leg}\n\nA Llama-3-like decoder, {_begun(job)}: {shape.layers} layers, width {shape.dim}, "
        f"{shape.heads} heads ({shape.kv_heads} for keys and values), context {shape.max_sequence_length}. "
        "It continues text; it was neither aligned nor evaluated beyond the figures below.\n\n"
        f"## Figures\n\n{_table(figures)}\n{_sources(job, tokens, rows)}## Lineage\n\n{_table(lineage)}\n"
        f"## Optimiser and schedule\n\n```json\n{recipe}\n```\n"
    )


def _text_source(job: LegJob) -> str:
    """Where the text came from; of a mixture its sources have a section of their own."""
    data = job.run.get("data") or {}
    return str(data.get("source") or "unknown") if not data.get("sources") else "several, see Sources"


def _sources(job: LegJob, tokens: Tokens, rows: Sequence[dict[str, float]]) -> str:
    """Of a mixture: what each source is, how much of it was read, and its own validation loss."""
    if not tokens.is_mixture:
        return ""
    texts = {source.get("name"): source.get("source") for source in (job.run.get("data") or {}).get("sources") or ()}
    lines = []
    for source in tokens.sources:
        last = {metric.name: last_value(rows, source_metric(source.name, metric.name)) for metric in SOURCE_METRICS}
        cells = (
            source.name,
            texts.get(source.name) or "unknown",
            f"{source.index.splits['train'].tokens:,}",
            "unknown" if last["share"] is None else f"{last['share']:.2%}",
            "unknown" if last["epochs"] is None else f"{last['epochs']:.4g}",
            "not measured" if last["held_out_loss"] is None else f"{last['held_out_loss']:.4f}",
            source.index.fingerprint,
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    head = "| source | text | training tokens | share of what was read | passes | validation loss (nats) | data fingerprint |\n"
    return f"## Sources\n\n{head}|---|---|---|---|---|---|---|\n{''.join(lines)}\nThe validation loss above is their plain mean.\n\n"


def _begun(job: LegJob) -> str:
    return "trained from scratch" if job.start is None else f"trained on from {job.start.get('source')}"


def _origin(start: Json | None) -> str:
    if start is None:
        return "chance (training.seed)"
    checksum = f", {start['checksum'][:16]}" if start.get("checksum") else ""
    return f"{start.get('source')}: the {start.get('kind')} in {start.get('uri')}{checksum}"


def _table(rows: dict[str, str]) -> str:
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())
