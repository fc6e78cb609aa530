"""What the functions must know about the stacks: one typed value for each function, in one environment variable.

The constructs make these values at synth, ``as_environment`` writes them, and the functions' edge (infra/edge) reads them
strictly. No secret value is ever among them: whoever may look at a function sees its environment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from contracts.config import Bounds, to_json
from infra.run.sink_settings import ModelRegistry, WandbProject

VARIABLE = "DEPLOYMENT"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Admit's: names and ARNs of all that a run's jobs use."""

    name: str
    """The deployment's name; jobs carry it as a tag."""
    bucket: str
    """Data bucket."""
    key_arn: str
    """KMS key of bucket, images and volumes."""
    repository: str
    """ECR repository name."""
    repository_uri: str
    """ECR repository URI."""
    image_tag: str
    """Hash of the build context that was deployed."""
    prepare_role_arn: str
    """Execution role of processing jobs."""
    training_role_arn: str
    """Execution role of training jobs."""
    evaluate_role_arn: str
    """Execution role of evaluations."""
    secret_arn: str
    """Secrets Manager secret that holds the Hugging Face token, if any."""
    default_recipe: str
    """Recipe of an input that names none."""
    subnets: tuple[str, ...] = ()
    """Private subnets of the jobs; none leaves them in SageMaker's own network."""
    security_groups: Annotated[tuple[str, ...], Bounds(0, 5)] = ()
    """Security groups of the jobs."""
    file_system_id: str | None = None
    """FSx for Lustre file system that mirrors tokens/."""
    file_system_mount: str | None = None
    """Its mount name."""
    file_system_subnet: str | None = None
    """The subnet that it lies in, and jobs that read it run in."""
    tags: dict[str, str] = field(default_factory=dict)
    """Further tags of the jobs."""


@dataclass(frozen=True, kw_only=True)
class TriageDeployment:
    """Triage's: where a person reads on, and where an execution's end is reported that it could not report itself."""

    name: str
    """The deployment's name."""
    bucket: str
    """Data bucket."""
    topic_arn: str
    """Topic of messages."""
    chat_topic_arn: str | None = None
    """Topic of messages in the format of Amazon Q Developer in chat applications, where there is one."""
    report_function: str
    """ARN of the function Report, for executions that ended before their state of that name."""
    runbook: str
    """URL or path of the runbook; a failure's section is appended."""
    log_groups: dict[str, str] = field(default_factory=dict)
    """Log group of each stage that is a function."""


@dataclass(frozen=True, kw_only=True)
class ReportDeployment:
    """Report's."""

    bucket: str
    """Data bucket."""
    dashboard: str
    """Name of the CloudWatch dashboard."""
    name: str = ""
    """The deployment's name: MLflow's experiment, and what names of model package groups begin with."""
    mlflow_tracking_server_arn: str | None = None
    """Where every run's curves are sent; null sends nothing."""
    wandb: WandbProject | None = None
    """The same for Weights & Biases."""
    model_registry: ModelRegistry | None = None
    """How exported models are registered; null registers none."""
    tags: dict[str, str] = field(default_factory=dict)
    """Tags of model package groups."""


@dataclass(frozen=True, kw_only=True)
class CheckedInput:
    """One execution input whose quotas the monitor looks at every day."""

    name: str
    """Schedule that gives it, or what else it is."""
    watched: bool
    """Whether a missing quota raises the alarm: yes for enabled schedules."""
    input: dict[str, Any]
    """The input."""


@dataclass(frozen=True, kw_only=True)
class MonitorDeployment:
    """Monitor's."""

    name: str
    """The deployment's name: the dimension of its metrics."""
    bucket: str
    """Data bucket."""
    default_recipe: str
    """Recipe of an input that names none."""
    inputs: tuple[CheckedInput, ...] = ()
    """Inputs whose quotas are looked at once a day."""
    checkpoint_days: int | None = None
    """Age at which old checkpoints are deleted; null keeps them."""
    job_log_days: int | None = None
    """Retention of SageMaker's log groups; null leaves it alone."""


@dataclass(frozen=True, kw_only=True)
class QuotaCheckDeployment:
    """The quota check's: nothing, what it looks at is its resource's property."""


FunctionDeployment = Deployment | TriageDeployment | ReportDeployment | MonitorDeployment | QuotaCheckDeployment


def as_environment(deployment: FunctionDeployment, write: Any) -> dict[str, str]:
    """The function's environment; ``write`` turns JSON with CDK's tokens in it into text (``Stack.to_json_string``)."""
    return {VARIABLE: write({key: value for key, value in to_json(deployment).items() if value is not None})}
