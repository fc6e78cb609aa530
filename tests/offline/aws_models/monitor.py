"""Monitor and the quota check beside the machine: their own code on an account with an active run and old checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from unittest import mock

from aws_models.execution import Outcome
from aws_models.pipeline import Pipeline, Scenario
from aws_models.scenarios import LOCAL
from aws_models.synthesis import Synthesis
from aws_models.world import World
from infra.run.layout import split_uri
from infra.run.leg_files import metrics_keys

Json = Any
LONG_AGO = timedelta(days=400)


@dataclass(frozen=True)
class Rounds:
    """What Monitor and the quota check did."""

    outcomes: dict[str, Outcome]
    world: World


def rounds(synthesis: Synthesis) -> Rounds:
    """One round over running jobs, one daily check, one deployment that looks at its quotas."""
    pipeline = Pipeline(synthesis)
    run = pipeline.run(Scenario(input=LOCAL, tokens=True))
    world = run.world
    world.calls.clear()
    world.missing.clear()
    for name, job in world.jobs.items():
        if "TrainingJobStatus" in job:
            world.jobs[name] = {**job, "TrainingJobStatus": "InProgress"}
    world.jobs["theirs"] = {"ProcessingJobName": "theirs", "ProcessingJobStatus": "InProgress"}
    world.jobs["theirs"]["ProcessingResources"] = {
        "ClusterConfig": {"InstanceType": "ml.m7i.large", "InstanceCount": 1, "VolumeSizeInGB": 30}
    }
    for step in (1, 2):
        for key in world.put_checkpoint(pipeline.bucket, "runs/ended/main/attempts/20261101T000000-aaaaaa-1/", step):
            world.written[pipeline.bucket, key] = world.time() - LONG_AGO
    (monitor,) = [arn for arn, function in pipeline.functions.items() if "monitor" in function.properties["Handler"]]
    outcomes = {"round": pipeline.invoke(monitor, {}, world)}
    (job,) = (job for job in world.jobs.values() if "CheckpointConfig" in job)
    world.put(pipeline.bucket, *metrics_keys([split_uri(job["CheckpointConfig"]["S3Uri"])[1]]), "")
    outcomes["with metrics"] = pipeline.invoke(monitor, {}, world)
    world.quotas, world.default_quotas = {}, world.quotas
    outcomes["daily, quotas never raised"] = pipeline.invoke(monitor, {"check": "daily"}, world)
    (check,) = synthesis.templates.resources("Custom::QuotaCheck")
    stack = synthesis.templates.resolve(check.stack, {"Ref": "AWS::StackId"})
    request = {"RequestType": "Update", "ResponseURL": "https://answer", "StackId": stack, "RequestId": "r", "LogicalResourceId": "l"}
    with mock.patch("urllib.request.urlopen"):  # the answer goes to CloudFormation
        outcomes["deployment"] = pipeline.invoke(
            check.properties["ServiceToken"], {**request, "ResourceProperties": check.properties}, world
        )
    return Rounds(outcomes, world)
