"""The plan that Admit hands to the state machine: preparation and legs, every request as a value. Pure."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from contracts.config import Json, to_json
from contracts.files import COMPILE_CACHE_KEY
from contracts.mixture import SourceTokens
from infra.admit.estimate import LegEstimate
from infra.admit.start import Start
from infra.run.deployment import Deployment
from infra.run.evaluation import evaluation_request, evaluation_type, model_channel
from infra.run.job_requests import (
    JOB_STAGES,
    Preparation,
    Tokens,
    checkpoint_channel,
    execution_digest,
    initial_channel,
    job_name,
    preparation_request,
    training_leg,
    training_request,
    training_source,
)
from infra.run.layout import RunLayout
from infra.run.run_spec import Leg, RunSpec
from infra.sagemaker.prices import PriceOf
from infra.triage.attempts import Limits, Source, first_attempt, write_attempt
from training.evaluation.spec import EvaluationSpec

# Text is about 4 bytes a token and a shard holds 2 or 4 bytes a token, so shards are at most about as large as the
# plain text; sources are mostly compressed, about 3 to 1.
SHARD_BYTES_PER_SOURCE_BYTE = 3


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Builds the requests of one execution from their shared values."""

    spec: RunSpec
    layout: RunLayout
    deployment: Deployment
    price: PriceOf
    execution_arn: str
    execution_started: str
    """ISO 8601."""
    tokens: tuple[SourceTokens, ...]
    """The data set of each source."""
    source_bytes: int
    """Of all sources, as stored."""
    imported: bool
    """Whether a file system has had the time to import the tokens."""
    token: bool
    """Whether a Hugging Face token is set."""
    copies_uri: str | None = None
    """Folder of the data that is copied for the evaluation."""

    def preparation(self, job: Preparation) -> Json:
        """Prepare corpus or Prepare data: its request and its first attempt."""
        compute = self.spec.compute
        source = self._source("on_demand", job.instance_type, "processing", job.instance_count)
        limits = Limits(
            max_attempts=compute.max_attempts,
            max_runtime_seconds=job.max_runtime_seconds,
            # Its whole time limit is in the estimate; the attempts together may use that much.
            max_usd=None if source.usd_per_hour is None else source.usd_per_hour * job.max_runtime_seconds / 3600,
            max_wait_seconds=compute.max_capacity_wait_seconds,
        )
        return {
            "stage": job.stage,
            "image": job.image,
            "record": job.record,
            "job": job_name(JOB_STAGES[job.stage], self.layout.run_id, self.execution_arn),
            "request": preparation_request(job, self.spec, self.layout, self.deployment, token=self.token),
            **_attempts(limits, (source,)),
        }

    def train(self) -> Json:
        """What the training jobs of all legs share, what each capacity source adds, and the channel of a checkpoint to go on from."""
        tokens = Tokens(sources=self.tokens, bytes=self.source_bytes * SHARD_BYTES_PER_SOURCE_BYTE, imported=self.imported)
        request = training_request(self.spec, self.layout, self.deployment, tokens)
        if any(leg.training.compile for leg in self.spec.legs):  # drawn anew for each execution; plan and jobs are all that hold it
            request["Environment"][COMPILE_CACHE_KEY] = secrets.token_hex(16)
        return {
            "request": request,
            "sources": [training_source(self.spec, source, self.deployment) for source in self.spec.compute.capacity],
            "checkpoint": checkpoint_channel(),
        }

    def leg(
        self,
        leg: Leg,
        cost: LegEstimate,
        checkpoint: str | None,
        start: Start | None = None,
        *,
        finished: str | None = None,
        evaluated: bool = False,
    ) -> Json:
        """One leg: its part of the request, and its first attempt, which goes on from ``checkpoint`` when there is one.

        ``finished``: URI of the folder of the attempt that finished it; then no attempt is made. ``evaluated``: nor an evaluation.
        Until the leg has a checkpoint of its own its attempts begin from ``start``: another leg's checkpoint in the same channel, or
        weights in a channel of theirs.
        """
        compute = self.spec.compute
        sources = tuple(
            self._source(source.kind, compute.instance_type_of(source), "training", compute.instance_count) for source in compute.capacity
        )
        limits = Limits(
            max_attempts=compute.max_attempts,
            max_runtime_seconds=compute.max_runtime_seconds,
            max_usd=cost.max_usd,
            max_wait_seconds=compute.max_capacity_wait_seconds,
        )
        digest = execution_digest(leg.name, self.layout.run_id, self.execution_arn)
        stem = self.layout.attempt_stem(leg.name, self.execution_started, digest)
        begun = start.uri if start is not None and start.kind == "checkpoint" else None
        return {
            "name": leg.name,
            "job": job_name(leg.name, self.layout.run_id, self.execution_arn),
            "request": training_leg(leg, self.layout, self.deployment, attempt_stem=stem, tensorboard=compute.tensorboard),
            **_attempts(limits, sources, checkpoint or begun),
            **({"finished": finished} if finished is not None else {}),
            **({"start": begun} if begun is not None else {}),
            **(self._weights(start) if start is not None and begun is None else {}),
            **({} if self.spec.evaluation is None or evaluated else {"evaluate": self._evaluation(leg, self.spec.evaluation)}),
        }

    @staticmethod
    def _weights(start: Start) -> Json:
        """The channel of the weights that a leg begins from, and what Triage compares before the job is made."""
        known = {"begins": {"uri": start.uri, "checksum": start.checksum}} if start.checksum else {}
        return {"initial": initial_channel(start.uri), **known}

    def evaluate(self) -> Json:
        """What the evaluations of all legs share, and the channel of a leg's export."""
        return {
            "request": evaluation_request(self.spec, self.layout, self.deployment, self.tokens, self.copies_uri),
            "model": model_channel(),
        }

    def _evaluation(self, leg: Leg, evaluation: EvaluationSpec) -> Json:
        """One leg's evaluation: its name and its first attempt."""
        source = self._source("on_demand", evaluation_type(self.spec), "training", 1)
        limits = Limits(
            max_attempts=self.spec.compute.max_attempts,
            max_runtime_seconds=evaluation.max_runtime_seconds,
            # Its whole time limit is in the estimate; the attempts together may use that much.
            max_usd=None if source.usd_per_hour is None else source.usd_per_hour * evaluation.max_runtime_seconds / 3600,
            max_wait_seconds=self.spec.compute.max_capacity_wait_seconds,
        )
        return {"job": job_name(f"{leg.name}-evaluate", self.layout.run_id, self.execution_arn), **_attempts(limits, (source,))}

    def _source(self, kind: str, instance_type: str, use: str, count: int) -> Source:
        per_instance = self.price(use, instance_type)
        return Source(kind=kind, instance_type=instance_type, usd_per_hour=None if per_instance is None else per_instance * count)


def _attempts(limits: Limits, sources: tuple[Source, ...], checkpoint: str | None = None) -> Json:
    return {
        "limits": to_json(limits),
        "sources": [to_json(source) for source in sources],
        "attempt": write_attempt(first_attempt(limits, sources, checkpoint)),
    }
