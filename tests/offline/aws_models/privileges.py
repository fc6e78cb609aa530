"""Least privilege: what the policies allow and no call needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from aws_models.needs import Need
from aws_models.simulator import Policies

Json = Any


@dataclass(frozen=True, order=True)
class Grant:
    """One allowed action of one role on one resource pattern."""

    role: str
    action: str
    resource: str

    def __str__(self) -> str:
        return f"{self.role.rsplit('/', 1)[-1]}: {self.action} on {self.resource}"


def grants(policies: Policies) -> Iterator[Grant]:
    """Every Allow of every role, one action and resource at a time."""
    for role, attached in policies.identity.items():
        for policy in attached:
            for statement in policy["policy"]["Statement"]:
                if statement["Effect"] == "Allow":
                    yield from (
                        Grant(role, action, resource) for action in _list(statement["Action"]) for resource in _list(statement["Resource"])
                    )


def unused(policies: Policies, needs: Iterable[Need]) -> list[Grant]:
    """Grants that no needed request falls under."""
    wanted = {(need.request.principal, need.request.action.lower(), need.request.resource) for need in needs}
    return sorted(
        {
            grant
            for grant in grants(policies)
            if not any(
                role == grant.role and _matches(grant.action.lower(), action) and _matches(grant.resource, resource)
                for role, action, resource in wanted
            )
        }
    )


def wildcards(policies: Policies) -> list[Grant]:
    """Grants with a wildcard in the action, or on every resource there is."""
    return sorted({grant for grant in grants(policies) if "*" in grant.action or grant.resource == "*"})


def _list(value: Json) -> list[str]:
    return value if isinstance(value, list) else [value]


def _matches(pattern: str, text: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text) is not None
