"""IAM's decision on one request, from the synthesised policies: identity, trust, key, bucket, topic, repository, secret."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aws_models import node
from aws_models.template import Environment, Resource, Templates

Json = Any
OTHER_ACCOUNT = "222222222222"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request: principal, action, resource, context."""

    principal: str
    """ARN of a role, or a service (``sagemaker.amazonaws.com``)."""
    action: str
    resource: str
    owner: str = ""
    """Account of the resource; empty: the deployment's."""
    context: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        who = self.principal.rsplit("/", 1)[-1] if ":role/" in self.principal else self.principal
        extra = "".join(f" {key}={value}" for key, value in self.context.items())
        return f"{who} {self.action} {self.resource}{extra}"


@dataclass(frozen=True)
class Decision:
    """What IAM says."""

    allowed: bool
    result: str
    ignored: tuple[str, ...]
    """Context keys that do not apply to the action: a test that relies on one proves nothing."""


class Policies:
    """Every policy of the synthesised stacks, by what it is attached to."""

    def __init__(self, templates: Templates) -> None:
        self.environment: Environment = templates.environment
        self.control: list[Json] = []
        """Statements of a service control policy of the account's organisation; none: there is no organisation."""
        self.identity: dict[str, list[Json]] = {}
        self.trust: dict[str, Json] = {}
        self.on_resource: dict[str, Json] = {}
        roles: dict[str, Resource] = {}
        for role in templates.resources("AWS::IAM::Role"):
            arn = templates.arn(role)
            roles[arn.rsplit("/", 1)[-1]] = role
            self.trust[arn] = role.properties["AssumeRolePolicyDocument"]
            self.identity[arn] = [{"name": p["PolicyName"], "policy": p["PolicyDocument"]} for p in role.properties.get("Policies", [])]
            self.identity[arn] += [{"name": str(a), "policy": _managed(str(a))} for a in role.properties.get("ManagedPolicyArns", [])]
        for policy in templates.resources("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
            for name in policy.properties.get("Roles", []):
                self.identity[templates.arn(roles[name])].append({"name": policy.logical_id, "policy": policy.properties["PolicyDocument"]})
        self._attach(templates)

    def _attach(self, templates: Templates) -> None:
        partition = self.environment.partition
        for bucket in templates.resources("AWS::S3::BucketPolicy"):
            self.on_resource[f"arn:{partition}:s3:::{bucket.properties['Bucket']}"] = bucket.properties["PolicyDocument"]
        for key in templates.resources("AWS::KMS::Key"):
            self.on_resource[templates.arn(key)] = key.properties["KeyPolicy"]
        for topic in templates.resources("AWS::SNS::TopicPolicy"):
            for arn in topic.properties["Topics"]:
                self.on_resource[arn] = topic.properties["PolicyDocument"]
        for secret in templates.resources("AWS::SecretsManager::ResourcePolicy"):
            self.on_resource[secret.properties["SecretId"]] = secret.properties["ResourcePolicy"]
        for repository in templates.resources("AWS::ECR::Repository"):
            if "RepositoryPolicyText" in repository.properties:
                self.on_resource[templates.arn(repository)] = repository.properties["RepositoryPolicyText"]

    def simulation(self, request: Request) -> Json:
        """The request with every policy that applies, as iam-simulate takes it."""
        account = self.environment.account
        context = {"aws:SecureTransport": "true", **request.context}
        if request.principal.startswith("arn:"):
            context.setdefault("aws:PrincipalAccount", request.principal.split(":")[4])
        simulation = {
            "identityPolicies": self.identity.get(request.principal, []),
            "serviceControlPolicies": self._control(),
            "resourceControlPolicies": [],
            "request": {
                "action": request.action,
                "principal": request.principal,
                "resource": {"accountId": request.owner or account, "resource": request.resource},
                "contextVariables": dict(context),
            },
        }
        resource_policy = self._resource_policy(request)
        if request.principal not in self.identity and request.principal.startswith("arn:"):
            # A stranger may do whatever its own account lets it: only the resource's side is in question.
            everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
            simulation["identityPolicies"] = [{"name": "stranger", "policy": everything}]
        if resource_policy is not None:
            simulation["resourcePolicy"] = resource_policy
        return simulation

    def _control(self) -> list[Json]:
        if not self.control:
            return []
        document = {"Version": "2012-10-17", "Statement": self.control}
        return [{"orgIdentifier": "o-1", "policies": [{"name": "control", "policy": document}]}]

    def _resource_policy(self, request: Request) -> Json | None:
        if request.action == "sts:AssumeRole":
            return self.trust.get(request.resource)
        if ":s3:::" in request.resource:
            return self.on_resource.get(request.resource.split("/", 1)[0])
        return self.on_resource.get(request.resource)


_answers: dict[str, Json] = {}
"""Decisions by simulation: a changed policy asks again only about the requests that it is part of."""


def decide(pairs: Sequence[tuple[Policies, Request]]) -> list[Decision]:
    """IAM's decisions, in order, from one subprocess.

    Raises:
        ValueError: a request that IAM does not know (a misspelt action, a resource of another type).
    """
    simulations = [policies.simulation(request) for policies, request in pairs]
    keys = [json.dumps(simulation, sort_keys=True) for simulation in simulations]
    new = {key: simulation for key, simulation in zip(keys, simulations, strict=True) if key not in _answers}
    if new:
        _answers.update(zip(new, node.call("iam", list(new.values())), strict=True))
    decisions = []
    for (_, request), key in zip(pairs, keys, strict=True):
        answer = _answers[key]
        if answer["result"] == "Error":
            raise ValueError(f"{request}: {answer['error']}")
        ignored = tuple(key for key in answer["ignored"] if key in request.context)
        decisions.append(Decision(answer["result"] == "Allowed", answer["result"], ignored))
    return decisions


def _managed(arn: str) -> Json:
    """An AWS managed policy's text is not in the template, so what it allows cannot be proven."""
    raise ValueError(f"{arn} is a managed policy: its text is not ours and may change; write the statements in infra/roles.py")
