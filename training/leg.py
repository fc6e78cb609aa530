"""One rank's work on a leg, in order: build, train, export, result, and at last a sample that can cost none of them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

import torch.distributed as dist
from torchtitan.tools.logging import init_logger, logger

from contracts.config import Json
from training.export import export_model
from training.leg_job import LegJob
from training.result import leg_result, write_result
from training.sample import Sample, try_sample
from training.startup import Startup, said
from training.titan_config import trainer_config
from training.tokens import Tokens, job_tokens
from training.trainer import LegTrainer
from training.watchdog import SAMPLE_SECONDS


def train_leg(job: LegJob) -> None:
    """Train from the given checkpoint to the last step; then export and say what came out. Collective: every rank calls it.

    Raises:
        JobFailure: see training.failure_classes.
    """
    init_logger()
    if os.environ.get("RANK", "0") != "0":
        logger.setLevel(logging.WARNING)
    begin = time.time()
    tokens = job_tokens(job)
    _say_what_is_not_validated(job, tokens)
    note_part = _startup_notes(job)
    note_part("ranks")
    trainer = trainer_config(job, tokens).build()
    note_part("model")
    trainer.on_part = note_part
    try:
        trainer.train()
        together = finish(job, trainer, tokens, begin)
    finally:
        trainer.close()
    if together:
        dist.destroy_process_group()


def _say_what_is_not_validated(job: LegJob, tokens: Tokens) -> None:
    """Of a mixture; the one source of another run is told of in the plan."""
    validated = tokens.validated(job.spec.sequence_length)
    for source in tokens.sources:
        if tokens.is_mixture and source not in validated:
            held_out = source.index.splits["validation"].tokens
            logger.info(
                f"Source {source.name} has no validation loss: its {held_out:,} held-out tokens do not fill a sample of "
                f"{job.spec.sequence_length:,}; raise validation_share, or give it more text"
            )


def finish(job: LegJob, trainer: LegTrainer, tokens: Tokens, begin: float) -> bool:
    """Export, result, sample; whether the ranks are still in step with each other."""
    exports, exported = job.spec.export.enabled, None
    if exports:
        with trainer.watchdog.phase("the export", trainer.limits.export):
            exported = export_model(trainer, job, tokens)
            dist.barrier()
    _note_result(job, trainer, leg_result(job, trainer, tokens, begin=begin, exported=exported))
    if not exports or job.spec.export.sample_tokens == 0:
        dist.barrier()
        return True
    dist.barrier()  # the result lies on its rank's disk before a sample can end any rank
    with trainer.watchdog.phase("the sample", SAMPLE_SECONDS, optional=True):
        sample = try_sample(trainer, job, tokens)
    _note_result(job, trainer, leg_result(job, trainer, tokens, begin=begin, exported=exported, sample=sample))
    return isinstance(sample, Sample)


def _startup_notes(job: LegJob) -> Callable[[str], None]:
    """What rank 0 does at the end of each part of the start; the other ranks do nothing."""
    startup = Startup(job.rank_notes)

    def note(part: str) -> None:
        startup.end(part)
        if part == "first_step":
            logger.info(said(startup.seconds()))

    return note if os.environ.get("RANK", "0") == "0" else lambda part: None


def _note_result(job: LegJob, trainer: LegTrainer, result: Json) -> None:
    if trainer.metrics_processor.writes:
        write_result(job, result)
