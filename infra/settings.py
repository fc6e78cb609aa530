"""Deploy-time settings, read once by app.py from cdk.json. Run-time settings belong to RunSpec (infra/run/run_spec.py)."""

from __future__ import annotations

import dataclasses
import json
import zoneinfo
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from contracts.config import Bounds, Json, Pattern, Problem, SpecError, at, one_or_more, parse, suggestion
from infra.run.arns import KEY_ARN, SECRET_ARN
from infra.run.recipes import RECIPES
from infra.run.run_spec import RUN_ID, resolve
from infra.run.sink_settings import ModelRegistry, WandbProject

STACK_NAME = Pattern(r"[a-zA-Z][a-zA-Z0-9-]{0,39}", "a stack name prefix: 1 to 40 letters, digits and hyphens, a letter first")
ACCOUNT = Pattern(r"\d{12}", "an AWS account number of 12 digits")
REGION = Pattern(r"[a-z]{2}(-[a-z]+)+-\d", 'an AWS region such as "us-west-2"')
CIDR = Pattern(r"\d{1,3}(\.\d{1,3}){3}/\d{1,2}", 'an address range such as "10.42.0.0/16"')
SUBNET = Pattern(r"subnet-([0-9a-f]{8}|[0-9a-f]{17})", 'the id of a subnet such as "subnet-0123456789abcdef0"')
GROUP = Pattern(r"sg-([0-9a-f]{8}|[0-9a-f]{17})", 'the id of a security group such as "sg-0123456789abcdef0"')
VPC = Pattern(r"vpc-([0-9a-f]{8}|[0-9a-f]{17})", 'the id of a VPC such as "vpc-0123456789abcdef0"')
TRACKING_SERVER = Pattern(
    r"arn:aws[a-z-]*:sagemaker:[a-z0-9-]+:\d{12}:mlflow-tracking-server/[a-zA-Z0-9-]+", "the ARN of an MLflow tracking server"
)
POLICY_ARN = Pattern(r"arn:aws[a-z-]*:iam::(\d{12}|aws):policy/.+", "the ARN of an IAM policy")
ROLE_PATH = Pattern(r"/([!-.0-~]+/)*", 'a path such as "/ml-platform/"')
BUCKET = Pattern(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "a bucket name")
SLACK_ID = Pattern(r"[0-9A-Z]{1,255}", 'an id of Slack such as "T0123ABCD" or "C0123ABCD"')
EMAIL = Pattern(r"[^@\s]+@[^@\s]+\.[^@\s]+", "an email address")
EXPRESSION = Pattern(r"(cron|rate|at)\(.+\)", 'a schedule expression such as "cron(0 6 ? * MON *)" or "rate(1 day)"')


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """One schedule that starts runs."""

    name: Annotated[str, RUN_ID]
    """Name; opens the run ids that it makes."""
    expression: Annotated[str, EXPRESSION]
    """EventBridge Scheduler's cron(...) or rate(...)."""
    timezone: str = "UTC"
    """IANA time zone in which a cron expression is read."""
    window_minutes: Annotated[int, Bounds(0, 1440)] = 0
    """Start at any minute within this window; 0 starts on time."""
    enabled: bool = False
    """Ship it switched on. A schedule spends money by itself, so that is a decision."""
    concurrency: Literal["skip", "allow"] = "skip"
    """What a firing does while the previous one still runs: end at once, or run beside it."""
    resume: Literal["new", "latest"] = "new"
    """``new``: each firing is a run of its own. ``latest``: each goes on with the run named after the schedule."""
    input: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The execution's input, checked at synth."""


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """A VPC for the jobs: private subnets, endpoints, a security group that EFA accepts."""

    cidr: Annotated[str, CIDR] = "10.42.0.0/16"
    """Its addresses; every host of a job takes one, and a p5 host several."""
    availability_zones: Annotated[tuple[str, ...], Bounds(1, 6)]
    """Zones of the private subnets, such as ["us-west-2a", "us-west-2b"]; capacity is per zone, so name all that have it."""
    subnet_mask: Annotated[int, Bounds(16, 28)] = 20
    """Size of each private subnet: /20 is 4,091 addresses."""
    internet: bool = True
    """A NAT gateway, for hf:// sources. Without one only S3 sources work."""


@dataclass(frozen=True, kw_only=True)
class ExistingNetworkSettings:
    """Subnets of a VPC that exists already, for the jobs. It must reach S3, ECR, CloudWatch Logs, KMS, STS and Secrets Manager."""

    subnet_ids: Annotated[tuple[Annotated[str, SUBNET], ...], Bounds(1, 16)]
    """Private subnets; with ``fsx`` the file system lies in the first."""
    security_group_ids: Annotated[tuple[Annotated[str, GROUP], ...], Bounds(1, 5)]
    """Their groups; one must admit all traffic from and to itself (EFA, NCCL, Lustre)."""


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """Where the image build runs and what it reaches the world through."""

    vpc_id: Annotated[str, VPC] | None = None
    """VPC of the build project; null leaves it in CodeBuild's own network."""
    subnet_ids: tuple[Annotated[str, SUBNET], ...] = ()
    """Private subnets of the VPC."""
    security_group_ids: tuple[Annotated[str, GROUP], ...] = ()
    """Their security groups."""
    proxy: Annotated[str, one_or_more()] | None = None
    """HTTP proxy of docker, pip and the aws command, such as "http://proxy.example.com:3128"."""
    no_proxy: str = "169.254.169.254,169.254.170.2,127.0.0.1,localhost"
    """Hosts that are reached without the proxy; by default the addresses that CodeBuild gives credentials at. Add VPC endpoints."""
    pip_config_secret_arn: Annotated[str, SECRET_ARN] | None = None
    """Secret whose text is a pip.conf with a package index of one's own; it reaches pip as a build secret, and no layer keeps it."""
    pip_config_key_arn: Annotated[str, KEY_ARN] | None = None
    """Customer key of that secret, where it has one."""

    def check(self) -> Iterator[Problem]:
        """A VPC goes with subnets and groups."""
        if (self.vpc_id is None) == bool(self.subnet_ids) or (self.vpc_id is None) == bool(self.security_group_ids):
            yield Problem("vpc_id", "vpc_id, subnet_ids and security_group_ids go together")


@dataclass(frozen=True, kw_only=True)
class FsxSettings:
    """An FSx for Lustre file system that mirrors the token shards; training reads them from it."""

    storage_gib: Annotated[int, Bounds(1200, 1_000_000)] = 1200
    """Capacity: 1,200 or a multiple of 2,400."""
    throughput_mbps_per_tib: Literal[125, 250, 500, 1000] = 125
    """Throughput of each TiB."""

    def check(self) -> Iterator[Problem]:
        """PERSISTENT_2 comes in fixed steps."""
        if self.storage_gib != 1200 and self.storage_gib % 2400:
            yield Problem("storage_gib", f"{self.storage_gib} is neither 1200 nor a multiple of 2400")


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """A Slack channel, through Amazon Q Developer in chat applications. The workspace must be authorised there once, in its console."""

    slack_workspace_id: Annotated[str, SLACK_ID]
    """Id of the workspace, as that console shows it."""
    slack_channel_id: Annotated[str, SLACK_ID]
    """Id of the channel: the end of its link. In a private channel Amazon Q must be a member."""


@dataclass(frozen=True, kw_only=True)
class AlarmSettings:
    """When people are told."""

    no_progress_minutes: Annotated[int, Bounds(5, 1440)] = 30
    """No logged step for this long. A hang ends the job by itself much earlier; this is for what that misses."""
    checkpoint_age_minutes: Annotated[int, Bounds(5, 10_080)] = 180
    """Newest checkpoint older than this."""
    sync_minutes: Annotated[int, Bounds(5, 1440)] = 30
    """Nothing of a running attempt has arrived in S3 for this long: SageMaker's sync stands still."""
    slow_percent: Annotated[float, Bounds(1.0, 100.0)] = 70.0
    """Below this share of the leg's expected tokens/s: a lost fabric or a throttled device shows itself this way."""
    pending_minutes: Annotated[int, Bounds(5, 10_080)] = 120
    """A job waits for instances longer than this."""
    budget_percent: Annotated[float, Bounds(1.0, 100.0)] = 80.0
    """Spent more than this share of the run's budget."""


MAX_SCHEDULE_BYTES = 3000
"""Inputs of all enabled schedules: the monitor checks their quotas daily and has them in its environment, 4,096 bytes on Lambda."""


def schedule_input(schedule: ScheduleSettings, time: str) -> Json:
    """The execution's input that a firing at ``time`` gives."""
    return schedule.input | {
        "schedule": {"name": schedule.name, "time": time, "concurrency": schedule.concurrency, "resume": schedule.resume}
    }


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One deployment."""

    name: Annotated[str, STACK_NAME] = "pretrain"
    """Prefix of the three stacks; several deployments live side by side in one account under different names."""
    account: Annotated[str, ACCOUNT] | None = None
    """Account to deploy to; null takes that of the credentials at deploy time."""
    region: Annotated[str, REGION] | None = None
    """Region to deploy to; null takes that of the credentials at deploy time."""
    default_recipe: str = "llama3_8b"
    """Recipe of an execution whose input names none."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Build variant of the training image."""
    bootstrap_key_arn: Annotated[str, KEY_ARN] | None = None
    """Customer key of the CDK's asset bucket, where the account was bootstrapped with one: the image build reads its context there."""
    training_base_image: Annotated[str, one_or_more()] | None = None
    """Base of the training image; null takes the Dockerfile's own."""
    retain_data: bool = True
    """Keep key, bucket and images when the stacks are destroyed."""
    log_retention_days: Literal[1, 7, 14, 30, 60, 90, 180, 365, 731, 1827, 3653] = 90
    """Days that logs of functions, builds and executions are kept: a quarter, to look back over its runs."""
    runbook_url: Annotated[str, one_or_more()] = "docs/runbook.md"
    """Where messages send people; set it to the runbook's page in your own repository."""
    schedules: tuple[ScheduleSettings, ...] = (
        ScheduleSettings(name="weekly", expression="cron(0 6 ? * MON *)", timezone="UTC", window_minutes=15, input={}),
    )
    """Schedules that start runs."""
    emails: tuple[Annotated[str, EMAIL], ...] = ()
    """Subscribers of the topic; each confirms by a link that AWS sends."""
    chat: ChatSettings | None = None
    """A Slack channel that shows the runs' ends, retries and alarms."""
    source_buckets: tuple[Annotated[str, BUCKET], ...] = ()
    """Other buckets that runs may read text and weights to begin from (`training.initial`) from; their owners grant it too when
    they are another account's."""
    alarms: AlarmSettings = dataclasses.field(default_factory=AlarmSettings)
    """Thresholds."""
    refuse_missing_quotas: bool = False
    """Fail the deployment when the account's quotas do not allow the default recipe or an enabled schedule. Without it the output
    ``QuotaCheck`` and a daily check say so."""
    checkpoint_days: Annotated[int, Bounds(1, 3650)] | None = None
    """Delete checkpoints this many days after they were written, the newest whole one of each leg excepted; null keeps the newest
    ``training.checkpoint.keep_latest`` of each leg for ever."""
    cold_storage_days: Annotated[int, Bounds(30, 3650)] | None = 30
    """Move what lies under runs/ to S3 Intelligent-Tiering after this many days; null leaves it in the standard class."""
    network: NetworkSettings | None = None
    """A VPC of the deployment's own for the jobs; null leaves them in SageMaker's network."""
    existing_network: ExistingNetworkSettings | None = None
    """A VPC that exists already, in place of ``network``."""
    fsx: FsxSettings | None = None
    """FSx for Lustre for the token shards; needs ``network`` or ``existing_network``."""
    key_arn: Annotated[str, KEY_ARN] | None = None
    """A KMS key that exists already, in place of one of the deployment's own. Its policy must let the account's IAM policies decide and let
    cloudwatch.amazonaws.com and budgets.amazonaws.com use it for the topic (kms:Decrypt, kms:GenerateDataKey*)."""
    mlflow_tracking_server_arn: Annotated[str, TRACKING_SERVER] | None = None
    """A tracking server of SageMaker's managed MLflow in the deployment's region: the report sends every run's settings and curves there
    once the run has ended, to the experiment of the deployment's name. What the server does not take never fails a run."""
    wandb: WandbProject | None = None
    """A project of Weights & Biases: as ``mlflow_tracking_server_arn``, beside it or in its place."""
    model_registry: ModelRegistry | None = None
    """Register every exported model in SageMaker Model Registry, with its metrics and lineage; {} is enough. What the registry does not
    take never fails a run."""
    training_task: Literal["sync", "polling"] = "sync"
    """How the state machine runs a training job: Step Functions' own integration, or SageMaker's API with polling, which knows fields that
    the integration does not know yet."""
    build: BuildSettings = dataclasses.field(default_factory=BuildSettings)
    """Network and package index of the image build."""
    permissions_boundary_arn: Annotated[str, POLICY_ARN] | None = None
    """Permissions boundary of every role."""
    role_path: Annotated[str, ROLE_PATH] = "/"
    """Path of every role."""
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    """Tags of every resource and job, beside ``pretrain:deployment``; for cost allocation and for policies that demand them."""
    job_log_retention_days: Literal[1, 7, 14, 30, 60, 90, 180, 365, 731, 1827, 3653] | None = None
    """Days that SageMaker's two log groups keep logs. All jobs of the account and region share them, so null leaves them alone."""
    monthly_budget_usd: Annotated[float, Bounds(1.0)] | None = None
    """An AWS budget on everything tagged with this deployment: a message at 80 % spent and when 100 % is forecast."""

    def check(self) -> Iterator[Problem]:
        """The recipe exists; schedules have names of their own and inputs that an execution would accept."""
        if self.default_recipe not in RECIPES:
            yield Problem("default_recipe", f'there is no recipe "{self.default_recipe}"{suggestion(self.default_recipe, RECIPES)}')
            return
        if self.network is not None and self.existing_network is not None:
            yield Problem("existing_network", "goes without network: the jobs join one VPC")
        if self.fsx is not None and self.network is None and self.existing_network is None:
            yield Problem("fsx", "a file system lives in a VPC; set network or existing_network too")
        for key in self.tags:
            if key.lower().startswith("aws:") or not 0 < len(key) <= 128 or len(self.tags[key]) > 256:
                yield Problem("tags", f'"{key}" is no tag: keys of 1 to 128 characters without the prefix aws:, values of at most 256')
        names = [schedule.name for schedule in self.schedules]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield Problem("schedules", f'the name "{name}" is used {names.count(name)} times; it becomes part of run ids')
        enabled = [json.dumps(schedule_input(schedule, "2026-01-01T00:00:00Z")) for schedule in self.schedules if schedule.enabled]
        if (size := sum(len(text.encode()) + 64 for text in enabled)) > MAX_SCHEDULE_BYTES:
            yield Problem(
                "schedules",
                f"the inputs of the {len(enabled)} enabled schedules are {size} bytes, more than the {MAX_SCHEDULE_BYTES} that the monitor "
                "can hold; name a recipe instead of repeating its settings, or enable fewer",
            )
        for number, schedule in enumerate(self.schedules):
            if schedule.timezone not in zoneinfo.available_timezones():
                yield Problem(f"schedules[{number}].timezone", f'"{schedule.timezone}" is no IANA time zone such as "Europe/Berlin"')
            try:
                resolve(schedule_input(schedule, "2026-01-01T00:00:00Z"), default_recipe=self.default_recipe)
            except SpecError as error:
                yield from (Problem(at(f"schedules[{number}].input", problem.path), problem.message) for problem in error.problems)


def load_settings(environments: object, environment: str) -> Settings:
    """The settings of one environment in cdk.json's context.

    Raises:
        SpecError: no such environment, or everything wrong with its block.
    """
    if not isinstance(environments, Mapping) or environment not in environments:
        known = environments if isinstance(environments, Mapping) else {}
        raise SpecError([Problem("environments", f'cdk.json has no environment "{environment}"{suggestion(environment, known)}')])
    return parse(Settings, environments[environment], f"environments.{environment}")
