"""Deployment: what the functions must know about the stacks, as one typed value in one environment variable."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Annotated

from contracts.config import Bounds, parse

VARIABLE = "DEPLOYMENT"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Names and ARNs of one deployment; no secret value is ever among them."""

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


def from_environment() -> Deployment:
    """The deployment that this function belongs to."""
    return parse(Deployment, json.loads(os.environ[VARIABLE]))
