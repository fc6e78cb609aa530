"""A finding of cdk-nag that is right about the resource and wrong about the risk: acknowledged by its id, with the reason."""

from __future__ import annotations

import aws_cdk as cdk
from constructs import Construct


def acknowledge(scope: Construct, finding: str, reason: str) -> None:
    """Acknowledge ``finding`` (its full id) on ``scope`` and what it holds."""
    cdk.Validations.of(scope).acknowledge(cdk.Acknowledgment(id=finding, reason=reason))
