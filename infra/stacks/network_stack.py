"""Network and fast storage, present only when a setting names them: VPC, endpoints, EFA security group, FSx for Lustre."""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_fsx as fsx
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.constructs.acknowledge import acknowledge
from infra.constructs.python_function import log_retention
from infra.run.layout import TOKENS_PREFIX
from infra.settings import FsxSettings, NetworkSettings, Settings
from infra.stacks.foundation_stack import FoundationStack

# What SageMaker and the preparation job call from inside the VPC. S3 goes through the gateway endpoint, which costs nothing.
ENDPOINTS = {
    "EcrApi": ec2.InterfaceVpcEndpointAwsService.ECR,
    "EcrDocker": ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,
    "Logs": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
    "Metrics": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_MONITORING,
    "Kms": ec2.InterfaceVpcEndpointAwsService.KMS,
    "Sts": ec2.InterfaceVpcEndpointAwsService.STS,
    "Secrets": ec2.InterfaceVpcEndpointAwsService.SECRETS_MANAGER,
}


class NetworkStack(cdk.Stack):
    """Private subnets for the jobs, and a file system when the settings ask for one."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, foundation: FoundationStack, **kwargs: Any) -> None:
        super().__init__(scope, construct_id, description="Pre-training: network of the jobs", **kwargs)
        self.subnet_ids, self.group_ids = existing(settings)
        if settings.network is not None:
            self.vpc = self._vpc(settings.network, settings)
            kind = ec2.SubnetType.PRIVATE_WITH_EGRESS if settings.network.internet else ec2.SubnetType.PRIVATE_ISOLATED
            self.subnet_ids = self.vpc.select_subnets(subnet_type=kind).subnet_ids
            self.group_ids = [self._group().security_group_id]
        self.file_system = None if settings.fsx is None else self._file_system(settings.fsx, foundation)

    def values(self) -> dict[str, Any]:
        """The part of Deployment that comes from here."""
        found: dict[str, Any] = {"subnets": self.subnet_ids, "security_groups": self.group_ids}
        if self.file_system is not None:
            found |= {"file_system_id": self.file_system.ref, "file_system_mount": self.file_system.attr_lustre_mount_name}
            found["file_system_subnet"] = self.subnet_ids[0]
        return found

    def _vpc(self, network: NetworkSettings, settings: Settings) -> ec2.Vpc:
        private = ec2.SubnetType.PRIVATE_WITH_EGRESS if network.internet else ec2.SubnetType.PRIVATE_ISOLATED
        subnets = [ec2.SubnetConfiguration(name="jobs", subnet_type=private, cidr_mask=network.subnet_mask)]
        if network.internet:  # hf:// sources; a NAT gateway is billed by the hour and by the GB
            subnets.append(
                ec2.SubnetConfiguration(name="nat", subnet_type=ec2.SubnetType.PUBLIC, cidr_mask=28, map_public_ip_on_launch=False)
            )
        vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(network.cidr),
            availability_zones=list(network.availability_zones),
            nat_gateways=1 if network.internet else 0,
            subnet_configuration=subnets,
            gateway_endpoints={"S3": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.S3)},
            restrict_default_security_group=False,  # that is a custom resource; nothing uses the default group
        )
        for name, service in ENDPOINTS.items():
            endpoint = vpc.add_interface_endpoint(name, service=service, subnets=ec2.SubnetSelection(subnet_type=private))
            acknowledge(endpoint, "AwsSolutions-EC23", "admits HTTPS from the VPC's own addresses, which the rule cannot read")
        log_group = logs.LogGroup(self, "FlowLog", retention=log_retention(settings), removal_policy=cdk.RemovalPolicy.DESTROY)
        vpc.add_flow_log(
            "Flow", destination=ec2.FlowLogDestination.to_cloud_watch_logs(log_group), traffic_type=ec2.FlowLogTrafficType.REJECT
        )
        return vpc

    def _group(self) -> ec2.SecurityGroup:
        """EFA needs a group that admits all traffic from and to itself; beside that, only HTTPS leaves."""
        group = ec2.SecurityGroup(self, "Jobs", vpc=self.vpc, description="Training and processing jobs", allow_all_outbound=False)
        group.add_ingress_rule(group, ec2.Port.all_traffic(), "EFA, NCCL and Lustre between the jobs' hosts")
        group.add_egress_rule(group, ec2.Port.all_traffic(), "EFA, NCCL and Lustre between the jobs' hosts")
        group.add_egress_rule(
            ec2.Peer.any_ipv4(), ec2.Port.tcp(443), "AWS endpoints, and the Hugging Face Hub where there is a NAT gateway"
        )
        return group

    def _file_system(self, settings: FsxSettings, foundation: FoundationStack) -> fsx.CfnFileSystem:
        file_system = fsx.CfnFileSystem(
            self,
            "Lustre",
            file_system_type="LUSTRE",
            file_system_type_version="2.15",
            storage_capacity=settings.storage_gib,
            subnet_ids=[self.subnet_ids[0]],  # Lustre lives in one zone, and the jobs that read it run in its subnet
            security_group_ids=self.group_ids,
            kms_key_id=foundation.key.key_arn,
            lustre_configuration=fsx.CfnFileSystem.LustreConfigurationProperty(
                deployment_type="PERSISTENT_2",
                per_unit_storage_throughput=settings.throughput_mbps_per_tib,
                data_compression_type="NONE",  # token ids are close to random bytes
            ),
        )
        fsx.CfnDataRepositoryAssociation(
            self,
            "Tokens",
            file_system_id=file_system.ref,
            file_system_path=f"/{TOKENS_PREFIX.rstrip('/')}",
            data_repository_path=foundation.bucket.s3_url_for_object(TOKENS_PREFIX),
            batch_import_meta_data_on_create=True,
            s3=fsx.CfnDataRepositoryAssociation.S3Property(
                auto_import_policy=fsx.CfnDataRepositoryAssociation.AutoImportPolicyProperty(events=["NEW", "CHANGED", "DELETED"])
            ),
        )
        return file_system


def existing(settings: Settings) -> tuple[list[str], list[str]]:
    """Subnets and security groups of the VPC that a setting names."""
    found = settings.existing_network
    return ([], []) if found is None else (list(found.subnet_ids), list(found.security_group_ids))


def allow_lustre_to_use(foundation: FoundationStack) -> None:
    """FSx reads the bucket under a service-linked role whose policy cannot name our key, so the key names the role."""
    stack = cdk.Stack.of(foundation)
    role = f"arn:{stack.partition}:iam::{stack.account}:role/aws-service-role/s3.data-source.lustre.fsx.amazonaws.com/*"
    foundation.key.add_to_resource_policy(
        iam.PolicyStatement(
            actions=["kms:Decrypt", "kms:GenerateDataKey", "kms:DescribeKey"],
            resources=["*"],  # in a key policy this means the key itself
            principals=[iam.AnyPrincipal()],
            conditions={
                "StringEquals": {
                    "kms:CallerAccount": stack.account,
                    "kms:ViaService": f"s3.{stack.region}.{stack.url_suffix}",
                },
                "ArnLike": {"aws:PrincipalArn": role},
            },
        )
    )
