"""Suppress a cdk-nag finding, with a reason."""

from __future__ import annotations

import aws_cdk as cdk
from constructs import Construct


def acknowledge(scope: Construct, finding: str, reason: str) -> None:
    """Suppress ``finding`` (its full id) on ``scope`` and everything below it."""
    cdk.Validations.of(scope).acknowledge(cdk.Acknowledgment(id=finding, reason=reason))
