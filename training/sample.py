"""A short text sample from the finished model, as a quick check by eye.

It comes after the export and the result and cannot endanger them: a forward pass sees WINDOW tokens at most, an exception is
reported in the log and in result.json, and when the sample hangs the watchdog ends the process with success.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from torchtitan.tools.logging import logger
from torchtitan.trainer import Trainer

from contracts.files import EXPORT
from training.leg_job import LegJob
from training.tokens import Tokens

WINDOW = 256  # tokens of one forward pass: two blocks of FlexAttention's masks, and a multiple of 16 for FP8 products
MIN_TOKENS = 32  # documents can be one sentence long; an end before this is not taken
TEMPERATURE = 0.8  # low enough to stay on topic, high enough not to repeat one phrase


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Prompt and continuation."""

    prompt: str
    text: str
    """The continuation alone."""


def try_sample(trainer: Trainer, job: LegJob, tokens: Tokens) -> Sample | str:
    """The sample, or why there is none. Collective; no rank may raise, and none may go on with collectives after a reason."""
    dims = trainer.parallel_dims
    if dims.pp_enabled or dims.cp_enabled or dims.tp_enabled:
        return "the model is split by tensor, context or pipeline parallelism"  # one forward pass on one sample is not its own
    try:
        return write_sample(trainer, job, tokens)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        logger.warning(f"No sample ({reason}); the export is complete all the same")
        return reason


def write_sample(trainer: Trainer, job: LegJob, tokens: Tokens) -> Sample:
    """Write ``export/sample.txt`` on rank 0. Collective."""
    tokenizer = Tokenizer.from_file(str(tokens.folder / "tokenizer.json"))
    prompt = job.spec.export.sample_prompt
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    start = ([tokens.tokenizer.bos_id] if tokens.tokenizer.bos_id is not None else []) + ids
    length, new_tokens = min(job.spec.sequence_length, WINDOW), job.spec.export.sample_tokens
    with torch.compiler.set_stance("force_eager"):  # another length than the training's would compile everything again
        new = _continue(trainer, start, length, new_tokens, tokens.tokenizer.eos_id, job.spec.seed)
    sample = Sample(prompt=prompt, text=tokenizer.decode(new))
    if dist.get_rank() == 0:
        folder = job.work / EXPORT
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sample.txt").write_text(sample.prompt + sample.text + "\n")
    return sample


@torch.no_grad()
def _continue(trainer: Trainer, start: list[int], length: int, new_tokens: int, eos_id: int | None, seed: int) -> list[int]:
    """New token ids. The input has ``length`` tokens throughout; what follows the text is not seen by it."""
    model = trainer.model_parts[0]
    model.eval()
    skipped, model._skip_lm_head = model._skip_lm_head, False
    generator = torch.Generator().manual_seed(seed)
    ids = start[: max(1, length - new_tokens)]
    first = len(ids)
    while len(ids) < min(length, first + new_tokens):
        tokens = torch.zeros((1, length), dtype=torch.long, device=trainer.device)
        tokens[0, : len(ids)] = torch.tensor(ids, device=trainer.device)
        batch = {"input": tokens}
        if trainer.config.dataloader.emit_positions:
            batch["positions"] = torch.arange(length, device=trainer.device).unsqueeze(0)
        inputs, _, extra = trainer.post_dataloading_process(batch, tokens)
        with trainer.train_context():
            logits = model(inputs, **extra)
        scores = logits[0, len(ids) - 1].float().cpu()
        if eos_id is not None and len(ids) - first < MIN_TOKENS:
            scores[eos_id] = float("-inf")
        choice = _choose(scores, generator).to(trainer.device)
        dist.broadcast(choice, src=0)  # rounding may differ between ranks, and all must go on with one text
        if int(choice) == eos_id:
            break
        ids.append(int(choice))
    model._skip_lm_head = skipped
    model.train()
    return ids[first:]


def _choose(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.multinomial(torch.softmax(logits / TEMPERATURE, dim=-1), 1, generator=generator)
