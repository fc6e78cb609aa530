"""Where Report sends what a run came to, beside its own files: settings that the stacks and the function share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from contracts.config import Pattern
from infra.run.arns import KEY_ARN, SECRET_ARN

WANDB_NAME = Pattern(r"[^/\\#?%:\s]{1,128}", "a name of Weights & Biases: 1 to 128 characters, none of them a space or one of / \\ # ? % :")
WANDB_URL = Pattern(
    r"https://[a-z0-9.-]+(:\d+)?|http://127\.0\.0\.1:\d+", 'an address such as "https://api.wandb.ai", without a slash at its end'
)
IMAGE_URI = Pattern(r"\d{12}\.dkr\.ecr\.[a-z0-9.-]+/\S{1,200}", 'an ECR image such as "ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG"')
MAX_GROUP_NAME = 63
"""Characters of a model package group's name (SageMaker's EntityName)."""


@dataclass(frozen=True, kw_only=True)
class WandbProject:
    """A project of Weights & Biases that gets every leg's settings and curves once the run has ended."""

    project: Annotated[str, WANDB_NAME]
    """The project; made where there is none and the key may."""
    entity: Annotated[str, WANDB_NAME] | None = None
    """Team or user that it belongs to; null takes the key's default."""
    api_key_secret_arn: Annotated[str, SECRET_ARN]
    """Secret with the API key, best a service account's: as its text, or as ``WANDB_API_KEY`` of a JSON object. Report alone may read it,
    and it reaches nothing but W&B's server."""
    api_key_key_arn: Annotated[str, KEY_ARN] | None = None
    """Customer key of that secret, where it has one."""
    base_url: Annotated[str, WANDB_URL] = "https://api.wandb.ai"
    """The API's address; of W&B Dedicated Cloud or Self-Managed the server's own. Report is in no VPC, so it must answer on the internet,
    with a certificate of a public authority."""


@dataclass(frozen=True, kw_only=True)
class ModelRegistry:
    """SageMaker Model Registry: every exported model becomes a version of the group ``<deployment>-<recipe>``, pending approval."""

    inference_image: Annotated[str, IMAGE_URI] | None = None
    """Serving container of the versions, such as AWS's LMI image in your region: an approved version can then be deployed as it is. null
    registers the export alone; a container is added to a version later (UpdateModelPackage)."""


def model_group(deployment: str, recipe: str) -> str:
    """Name of the model package group of a recipe. Lower case, as SageMaker writes it in ARNs."""
    return re.sub(r"[^a-z0-9]+", "-", f"{deployment}-{recipe}".lower())[:MAX_GROUP_NAME].strip("-")
