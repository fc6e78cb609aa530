"""Report with every sink that a setting can name: its own code on a run that has trained, twice, as when Lambda tries again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from aws_models.execution import Outcome
from aws_models.pipeline import Pipeline, Scenario
from aws_models.scenarios import LOCAL
from aws_models.synthesis import Synthesis
from aws_models.world import World
from infra.run.layout import split_uri
from infra.run.leg_files import metrics_keys, result_key
from infra.run.sink_settings import ModelRegistry, WandbProject
from infra.settings import Settings

Json = Any
SECRET = "arn:aws:secretsmanager:us-east-1:111111111111:secret:wandb-Ab12Cd"
KEY = "arn:aws:kms:us-east-1:111111111111:key/1234abcd-12ab-34cd-56ef-1234567890ab"
SERVER = "arn:aws:sagemaker:us-east-1:111111111111:mlflow-tracking-server/team"
EXECUTION = "arn:aws:states:us-east-1:111111111111:execution:machine"
LINE = '{"step": 1, "time": 1.0, "loss": 5.0}'


@dataclass(frozen=True)
class Sent:
    """What the report functions returned, and the world with its calls."""

    outcomes: list[Outcome]
    world: World


def with_sinks(settings: Settings) -> Settings:
    """The settings with a tracker of each kind, which nobody answers for, and Model Registry."""
    wandb = WandbProject(project="models", api_key_secret_arn=SECRET, api_key_key_arn=KEY, base_url="http://127.0.0.1:9")
    return dataclasses.replace(settings, wandb=wandb, model_registry=ModelRegistry(), mlflow_tracking_server_arn=SERVER)


def sent_on(synthesis: Synthesis) -> Sent:
    """The report of a run that has trained, and the same again."""
    pipeline = Pipeline(synthesis)
    scenario = Scenario(input=LOCAL)
    world = pipeline.run(scenario).world
    (report,) = [arn for arn, function in pipeline.functions.items() if "report" in function.properties["Handler"]]
    (job,) = (job for job in world.jobs.values() if "CheckpointConfig" in job)  # the other one prepared the data
    attempt = split_uri(job["CheckpointConfig"]["S3Uri"])[1]
    world.put(pipeline.bucket, *metrics_keys([attempt]), LINE)
    world.put(pipeline.bucket, result_key(attempt), '{"steps": 1}')
    event = {"run_id": job["HyperParameters"]["run_id"], "execution_arn": f"{EXECUTION}:{scenario.name}", "outcome": "succeeded"}
    return Sent([pipeline.invoke(report, event, world) for _ in range(2)], world)
