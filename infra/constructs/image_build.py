"""Image build: the build context as an asset, its hash as the image tag, and the CodeBuild project that builds its images."""

from __future__ import annotations

import tempfile
from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3_assets as s3_assets
from constructs import Construct

from infra import roles
from infra.constructs.acknowledge import acknowledge
from infra.constructs.assets import CONTEXT_FILES, copy_files, image_tag, select
from infra.run.layout import image_records_prefix, uri
from infra.settings import Settings

BUILD_HOURS = 2  # the CUDA image downloads about 10 GB and compiles nothing; a cold build takes well under an hour


class ImageBuild(Construct):
    """Builds the images of one build context; ``tag`` is known at synth."""

    def __init__(
        self, scope: Construct, construct_id: str, *, settings: Settings, shared: roles.Shared, retention: logs.RetentionDays
    ) -> None:
        super().__init__(scope, construct_id)
        files = select(CONTEXT_FILES)
        self.tag = image_tag(settings.device, settings.training_base_image)
        with tempfile.TemporaryDirectory() as folder:  # CDK copies it into cdk.out when the asset is made
            copy_files(files, Path(folder))
            self.context = s3_assets.Asset(self, "Context", path=folder, asset_hash=self.tag, asset_hash_type=cdk.AssetHashType.CUSTOM)
        self.log_group = logs.LogGroup(self, "Log", retention=retention, removal_policy=cdk.RemovalPolicy.DESTROY)
        role = roles.build_role(
            self,
            shared,
            settings.build,
            context_arn=self.context.bucket.arn_for_objects(self.context.s3_object_key),
            asset_bucket_arn=self.context.bucket.bucket_arn,
            asset_key_arn=settings.bootstrap_key_arn,
            log_group_arn=self.log_group.log_group_arn,
        )
        values = {
            "REPOSITORY_URI": shared.images.repository_uri,
            "CACHE_REPOSITORY_URI": shared.cache.repository_uri,
            "IMAGE_TAG": self.tag,
            "DEVICE": settings.device,
            "RECORDS_URI": uri(shared.bucket.bucket_name, image_records_prefix(self.tag)),
        }
        if settings.training_base_image:
            values["TRAINING_BASE_IMAGE"] = settings.training_base_image
        if settings.build.proxy:
            proxied = {"HTTP_PROXY": settings.build.proxy, "HTTPS_PROXY": settings.build.proxy, "NO_PROXY": settings.build.no_proxy}
            values |= proxied | {name.lower(): value for name, value in proxied.items()}
        variables = {name: codebuild.BuildEnvironmentVariable(value=value) for name, value in values.items()}
        if settings.build.pip_config_secret_arn:
            kind = codebuild.BuildEnvironmentVariableType.SECRETS_MANAGER
            variables["PIP_CONFIG"] = codebuild.BuildEnvironmentVariable(value=settings.build.pip_config_secret_arn, type=kind)
        self.project = codebuild.Project(
            self,
            "Project",
            role=role.without_policy_updates(),
            encryption_key=shared.key,
            timeout=cdk.Duration.hours(BUILD_HOURS),
            description="Builds the images of one build context",
            source=codebuild.Source.s3(bucket=self.context.bucket, path=self.context.s3_object_key),
            build_spec=codebuild.BuildSpec.from_source_filename("container/buildspec.yml"),
            environment=codebuild.BuildEnvironment(
                build_image=codebuild.LinuxBuildImage.AMAZON_LINUX_2023_5,
                compute_type=codebuild.ComputeType.LARGE,  # 128 GB of disk: the CUDA image (about 20 GB) is stored twice
                privileged=True,  # docker build
            ),
            environment_variables=variables,
            logging=codebuild.LoggingOptions(cloud_watch=codebuild.CloudWatchLoggingOptions(log_group=self.log_group)),
        )
        project = self.project.node.default_child
        assert isinstance(project, codebuild.CfnProject)
        if settings.role_path != "/":
            acknowledge(
                self.project, "CloudFormation-Validate::E3050", "it is the role's ARN by Fn::GetAtt, which the rule takes for a Ref"
            )
        if settings.build.vpc_id:
            # On the resource itself: the construct would add a policy to the role, and every statement is in infra/roles.py.
            project.vpc_config = codebuild.CfnProject.VpcConfigProperty(
                vpc_id=settings.build.vpc_id,
                subnets=list(settings.build.subnet_ids),
                security_group_ids=list(settings.build.security_group_ids),
            )
