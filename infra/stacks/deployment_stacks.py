"""The stacks of one deployment, in the order they are deployed: three, and a network when a setting asks for one."""

from __future__ import annotations

from dataclasses import dataclass

import aws_cdk as cdk
from aws_cdk import aws_iam as iam

from infra.run.job_requests import DEPLOYMENT_TAG
from infra.settings import Settings
from infra.stacks.foundation_stack import FoundationStack
from infra.stacks.monitoring_stack import MonitoringStack
from infra.stacks.network_stack import NetworkStack, allow_lustre_to_use, existing
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
    if settings.network is not None or settings.fsx is not None:
        network = NetworkStack(app, f"{settings.name}-network", settings=settings, foundation=foundation, env=env)
    if settings.fsx is not None:
        allow_lustre_to_use(foundation)
    subnets, groups = existing(settings)
    jobs_network = network.values() if network is not None else {"subnets": subnets, "security_groups": groups} if subnets else {}
    pipeline = PipelineStack(app, f"{settings.name}-pipeline", settings=settings, foundation=foundation, network=jobs_network, env=env)
    monitoring = MonitoringStack(app, f"{settings.name}-monitoring", settings=settings, foundation=foundation, pipeline=pipeline, env=env)
    pipeline.add_stack_dependency(foundation)
    for key, value in {**settings.tags, DEPLOYMENT_TAG: settings.name}.items():
        cdk.Tags.of(app).add(key, value)
    _govern_roles(app, settings)
    return Stacks(foundation, pipeline, monitoring, network)


def _govern_roles(app: cdk.App, settings: Settings) -> None:
    """Permissions boundary and path of every role, those that the CDK makes by itself among them."""
    for node in app.node.find_all():
        if isinstance(node, iam.CfnRole):
            if settings.permissions_boundary_arn is not None:
                node.permissions_boundary = settings.permissions_boundary_arn
            if settings.role_path != "/":
                node.path = settings.role_path
