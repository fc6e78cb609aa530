"""The three stacks of one deployment, in the order they are deployed."""

from __future__ import annotations

from dataclasses import dataclass

import aws_cdk as cdk

from infra.foundation_stack import FoundationStack
from infra.monitoring_stack import MonitoringStack
from infra.pipeline_stack import PipelineStack
from infra.settings import Settings


@dataclass(frozen=True)
class Stacks:
    """A deployment's stacks."""

    foundation: FoundationStack
    pipeline: PipelineStack
    monitoring: MonitoringStack


def build_stacks(app: cdk.App, settings: Settings) -> Stacks:
    """Foundation outlives the others; Pipeline runs; Monitoring watches."""
    env = cdk.Environment(account=settings.account, region=settings.region)
    foundation = FoundationStack(app, f"{settings.name}-foundation", settings=settings, env=env)
    pipeline = PipelineStack(app, f"{settings.name}-pipeline", settings=settings, foundation=foundation, env=env)
    monitoring = MonitoringStack(app, f"{settings.name}-monitoring", settings=settings, foundation=foundation, pipeline=pipeline, env=env)
    return Stacks(foundation, pipeline, monitoring)
