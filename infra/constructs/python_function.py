"""A Lambda function of the project: the shared pure-Python package, with the caller's role and log group."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.constructs.acknowledge import acknowledge
from infra.constructs.assets import content_hash, copy_files, lambda_files
from infra.run.deployment import FunctionDeployment, as_environment
from infra.settings import Settings

_RETENTION = {
    1: logs.RetentionDays.ONE_DAY, 7: logs.RetentionDays.ONE_WEEK, 14: logs.RetentionDays.TWO_WEEKS,
    30: logs.RetentionDays.ONE_MONTH, 60: logs.RetentionDays.TWO_MONTHS, 90: logs.RetentionDays.THREE_MONTHS,
    180: logs.RetentionDays.SIX_MONTHS, 365: logs.RetentionDays.ONE_YEAR, 731: logs.RetentionDays.TWO_YEARS,
    1827: logs.RetentionDays.FIVE_YEARS, 3653: logs.RetentionDays.TEN_YEARS,
}  # fmt: skip


def log_retention(settings: Settings) -> logs.RetentionDays:
    """The setting as CDK's enum."""
    return _RETENTION[settings.log_retention_days]


@functools.cache
def _package() -> tuple[str, str]:
    """Folder of the package, created once per process, and its hash; CDK copies it into cdk.out."""
    files = lambda_files()
    folder = tempfile.mkdtemp(prefix="functions-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy_files(files, Path(folder))
    return folder, content_hash(files)


def function_log(scope: Construct, name: str, settings: Settings) -> logs.LogGroup:
    """The log group of a function; created before the role, which names it."""
    return logs.LogGroup(scope, f"{name}Log", retention=log_retention(settings), removal_policy=cdk.RemovalPolicy.DESTROY)


class PythonFunction(lambda_.Function):
    """``infra.<stage>.handler.handler`` on Lambda; ``deployment`` is its whole environment."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: str,
        role: iam.Role,
        log_group: logs.LogGroup,
        timeout_minutes: int,
        memory_mb: int = 512,
        deployment: FunctionDeployment,
    ) -> None:
        folder, digest = _package()
        super().__init__(
            scope,
            construct_id,
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            handler=f"infra.{stage}.handler.handler",
            code=lambda_.Code.from_asset(folder, asset_hash=digest, asset_hash_type=cdk.AssetHashType.CUSTOM),
            role=role.without_policy_updates(),
            log_group=log_group,
            timeout=cdk.Duration.minutes(timeout_minutes),
            memory_size=memory_mb,
            environment=as_environment(deployment, cdk.Stack.of(scope).to_json_string),
            tracing=lambda_.Tracing.ACTIVE,
        )
        acknowledge(self, "AwsSolutions-L1", "3.13 is what the package is tested for on Lambda; it is pure Python for 3.11 and newer")
