"""IAM statements with their reasons, and roles made of them.

A wildcard resource needs a reason: without one the app does not synthesise; with one, cdk-nag's finding is suppressed
with that same sentence as its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from constructs import Construct

from infra.constructs.acknowledge import acknowledge

Conditions = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One Allow statement."""

    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: Conditions | None = None
    because: str | None = None
    """Why a resource holds a wildcard."""


def allow(*actions: str, on: str | Sequence[str], when: Conditions | None = None, because: str | None = None) -> Statement:
    """An Allow statement on one resource or several."""
    return Statement(actions=actions, resources=(on,) if isinstance(on, str) else tuple(on), conditions=when, because=because)


def new_role(scope: Construct, name: str, service: str, statements: Sequence[Statement], *, from_this_account: bool = True) -> iam.Role:
    """A role that one service may assume; only for this account, where the service passes aws:SourceAccount.

    Raises:
        ValueError: a wildcard without a reason.
    """
    stack = cdk.Stack.of(scope)
    conditions = {"StringEquals": {"aws:SourceAccount": stack.account}} if from_this_account else None
    rendered = [
        iam.PolicyStatement(actions=list(item.actions), resources=list(item.resources), conditions=item.conditions) for item in statements
    ]
    principal = iam.ServicePrincipal(service, conditions=conditions)
    role = iam.Role(scope, name, assumed_by=principal, inline_policies={"stage": iam.PolicyDocument(statements=rendered, minimize=True)})
    for item in statements:
        for resource in item.resources:
            flat = _flat(stack.resolve(resource))
            if "*" not in flat:
                continue
            if item.because is None:
                raise ValueError(f"{name}: {', '.join(item.actions)} on {flat} needs a reason (because=...)")
            acknowledge(role, f"AwsSolutions-IAM5[Resource::{flat}]", item.because)
    return role


def _flat(value: Any) -> str:
    """A resource as cdk-nag writes it in the id of its finding."""
    if isinstance(value, str):
        return value
    (function, argument), *_ = value.items()
    if function == "Fn::Join":
        return str(argument[0]).join(_flat(part) for part in argument[1])
    if function == "Fn::GetAtt":
        return f"<{argument[0]}.{argument[1]}>"
    return f"<{argument}>" if function == "Ref" else _flat(argument)
