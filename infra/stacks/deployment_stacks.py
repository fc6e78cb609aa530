"""The stacks of one deployment, in the order they are deployed: three, and a network when a setting asks for one."""

from __future__ import annotations

from dataclasses import dataclass

import aws_cdk as cdk

from infra.run.job_requests import DEPLOYMENT_TAG
from infra.settings import Settings
from infra.stacks.foundation_stack import FoundationStack
from infra.stacks.monitoring_stack import MonitoringStack
from infra.stacks.network_stack import NetworkStack, allow_lustre_to_use
from infra.stacks.pipeline_stack import PipelineStack


@dataclass(frozen=True)
class Stacks:
    """A deployment's stacks."""

    foundation: FoundationStack
    pipeline: PipelineStack
    monitoring: MonitoringStack
    network: NetworkStack | None = None


def build_stacks(app: cdk.App, settings: Settings) -> Stacks:
    """Foundation outlives the others; Pipeline runs; Monitoring watches."""
    env = cdk.Environment(account=settings.account, region=settings.region)
    foundation = FoundationStack(app, f"{settings.name}-foundation", settings=settings, env=env)
    network = None
    if settings.network is not None:
        network = NetworkStack(app, f"{settings.name}-network", settings=settings, foundation=foundation, env=env)
    if settings.fsx is not None:
        allow_lustre_to_use(foundation)
    pipeline = PipelineStack(app, f"{settings.name}-pipeline", settings=settings, foundation=foundation, network=network, env=env)
    monitoring = MonitoringStack(app, f"{settings.name}-monitoring", settings=settings, foundation=foundation, pipeline=pipeline, env=env)
    pipeline.add_stack_dependency(foundation)
    cdk.Tags.of(app).add(DEPLOYMENT_TAG, settings.name)
    return Stacks(foundation, pipeline, monitoring, network)
