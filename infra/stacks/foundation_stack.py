"""Foundation: what outlives a redeploy. Key, data bucket, image repositories, secret, topic."""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from infra.constructs.acknowledge import acknowledge
from infra.constructs.chat import Chat
from infra.roles import Shared
from infra.run.layout import JOBS_PREFIX, RUNS_PREFIX, WEIGHTS_PREFIX
from infra.settings import Settings

STALE_UPLOAD_DAYS = 7  # parts of unfinished multipart uploads are billed; a week is longer than any upload takes
OLD_VERSION_DAYS = 7  # time to notice a mistaken delete; no longer, because a replaced checkpoint of 8B is 96 GB
JOB_OUTPUT_DAYS = 30  # output.tar.gz, which SageMaker uploads by itself; results are under runs/
ACCESS_LOG_DAYS = 365
ALERTING_SERVICES = ("cloudwatch.amazonaws.com", "budgets.amazonaws.com")
"""Services that publish alarms to the topic."""
KEPT_CACHES = 3  # one per image and the one before; a CUDA cache is about 7 GB
KEPT_IMAGES = 40  # two per build context: twenty contexts to go back to


class FoundationStack(cdk.Stack):
    """Key, bucket, repositories, secret, topic."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, **kwargs: Any) -> None:
        super().__init__(scope, construct_id, description="Pre-training: what outlives a redeploy", **kwargs)
        self.removal = cdk.RemovalPolicy.RETAIN if settings.retain_data else cdk.RemovalPolicy.DESTROY
        self.key = self._key(settings)
        self.bucket = self._bucket(settings)
        self.images = self._repository("Images", immutable=True)
        # The build cache is written under one moving tag, so it cannot share the images' immutable tags.
        self.cache = self._repository("BuildCache", immutable=False)
        # Created without a value: `aws secretsmanager put-secret-value` sets it, and Admit can tell whether one is set.
        self.secret = secretsmanager.CfnSecret(
            self,
            "HuggingFaceToken",
            description="Hugging Face token for gated sources; empty until you set it",
            kms_key_id=self.key.key_arn,
        )
        self.secret.apply_removal_policy(self.removal)
        acknowledge(
            self.secret, "AwsSolutions-SMG4", "the value is a token that a person gets from another company; it cannot be rotated by code"
        )
        self.topic = sns.Topic(self, "Notifications", display_name="Pre-training", master_key=self.key, enforce_ssl=True)
        for email in settings.emails:
            self.topic.add_subscription(subscriptions.EmailSubscription(email))
        # CDK's TLS-only statement replaces SNS's default policy, which had let the account's alarms publish.
        for service in ALERTING_SERVICES:
            self.topic.add_to_resource_policy(
                iam.PolicyStatement(
                    actions=["sns:Publish"],
                    principals=[iam.ServicePrincipal(service)],
                    resources=[self.topic.topic_arn],
                    conditions={"StringEquals": {"aws:SourceAccount": self.account}},
                )
            )
        self.chat_topic_arn: str | None = None
        if settings.chat is not None:
            chat = Chat(self, "Chat", name=settings.name, settings=settings.chat, alarms=self.topic, key=self.key)
            self.chat_topic_arn = chat.topic.topic_arn
        self.shared = Shared(
            bucket=self.bucket,
            bucket_arn=self.export_value(self.bucket.bucket_arn),
            key=self.key,
            images=self.images,
            cache=self.cache,
            secret_arn=self.secret.ref,
        )
        cdk.CfnOutput(self, "BucketName", value=self.bucket.bucket_name)
        cdk.CfnOutput(self, "KeyArn", value=self.key.key_arn)
        cdk.CfnOutput(self, "RepositoryUri", value=self.images.repository_uri)
        cdk.CfnOutput(self, "SecretArn", value=self.secret.ref)

    def _key(self, settings: Settings) -> kms.IKey:
        if settings.key_arn is not None:
            return kms.Key.from_key_arn(self, "Key", settings.key_arn)
        key = kms.Key(
            self,
            "Key",
            description=f"{settings.name}: data, images, volumes, messages",
            enable_key_rotation=True,
            removal_policy=self.removal,
        )
        # Alarms and budgets publish to the encrypted topic in their services' own names.
        key.add_to_resource_policy(
            iam.PolicyStatement(
                actions=["kms:Decrypt", "kms:GenerateDataKey*"],
                resources=["*"],  # in a key policy this means the key itself
                principals=[iam.ServicePrincipal(service) for service in ALERTING_SERVICES],
                conditions={"StringEquals": {"aws:SourceAccount": self.account}},
            )
        )
        return key

    def _bucket(self, settings: Settings) -> s3.Bucket:
        logs = s3.Bucket(
            self,
            "AccessLogs",
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            versioned=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            removal_policy=self.removal,
            lifecycle_rules=[
                s3.LifecycleRule(expiration=cdk.Duration.days(ACCESS_LOG_DAYS), noncurrent_version_expiration=cdk.Duration.days(1))
            ],
        )
        return s3.Bucket(
            self,
            "Data",
            encryption=s3.BucketEncryption.KMS,
            encryption_key=self.key,
            bucket_key_enabled=True,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            versioned=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            removal_policy=self.removal,
            server_access_logs_bucket=logs,
            server_access_logs_prefix="data/",
            lifecycle_rules=_lifecycle(settings),
        )

    def _repository(self, name: str, *, immutable: bool) -> ecr.Repository:
        return ecr.Repository(
            self,
            name,
            encryption=ecr.RepositoryEncryption.KMS,
            encryption_key=self.key,
            image_scan_on_push=immutable,
            image_tag_mutability=ecr.TagMutability.IMMUTABLE if immutable else ecr.TagMutability.MUTABLE,
            removal_policy=self.removal,
            empty_on_delete=self.removal == cdk.RemovalPolicy.DESTROY,
            lifecycle_rules=[ecr.LifecycleRule(max_image_count=KEPT_IMAGES if immutable else KEPT_CACHES)],
        )


def _lifecycle(settings: Settings) -> list[s3.LifecycleRule]:
    """Prefixes of infra/run/layout.py. Checkpoints lie between a run's other files, so the monitor prunes them by age, not S3."""
    rules = [
        s3.LifecycleRule(
            id="stale-uploads-and-old-versions",
            abort_incomplete_multipart_upload_after=cdk.Duration.days(STALE_UPLOAD_DAYS),
            noncurrent_version_expiration=cdk.Duration.days(OLD_VERSION_DAYS),
        ),
        s3.LifecycleRule(id="job-output", prefix=JOBS_PREFIX, expiration=cdk.Duration.days(JOB_OUTPUT_DAYS)),
    ]
    if settings.cold_storage_days is not None:
        after = cdk.Duration.days(settings.cold_storage_days)
        transition = s3.Transition(storage_class=s3.StorageClass.INTELLIGENT_TIERING, transition_after=after)
        # Copies of models are kept like runs: a leg that has no checkpoint yet begins from them, and the Hub may withdraw a model.
        prefixes = {"cold-runs": RUNS_PREFIX, "cold-weights": WEIGHTS_PREFIX}
        rules += [s3.LifecycleRule(id=name, prefix=prefix, transitions=[transition]) for name, prefix in prefixes.items()]
    return rules
