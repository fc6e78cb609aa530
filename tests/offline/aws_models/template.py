"""Synthesised CloudFormation templates -> the values that a deployment would hold.

CDK leaves intrinsics (Ref, Fn::GetAtt, Fn::Join, Fn::ImportValue, ...) in a template. The resolver replaces
them by plausible physical names and ARNs, the same ones wherever a resource is named, across stacks too. What
it does not know (an attribute, a function) is an error and never a made-up value, so a misspelt attribute shows.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Any


class TemplateError(Exception):
    """A template that CloudFormation would refuse, or that this resolver cannot read."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where the stacks are deployed to."""

    account: str = "111111111111"
    region: str = "us-east-1"
    partition: str = "aws"

    @property
    def url_suffix(self) -> str:
        """Domain of the partition's endpoints."""
        return "amazonaws.com.cn" if self.partition == "aws-cn" else "amazonaws.com"


@dataclass(frozen=True)
class Resource:
    """One resource of one stack with its properties resolved."""

    stack: str
    logical_id: str
    type: str
    properties: Json
    raw: Json = field(repr=False)


NO_VALUE = object()

# Property that carries the physical name, where a template may set one.
NAME_PROPERTY = {
    "AWS::S3::Bucket": "BucketName",
    "AWS::IAM::Role": "RoleName",
    "AWS::ECR::Repository": "RepositoryName",
    "AWS::CodeBuild::Project": "Name",
    "AWS::Lambda::Function": "FunctionName",
    "AWS::StepFunctions::StateMachine": "StateMachineName",
    "AWS::Logs::LogGroup": "LogGroupName",
    "AWS::SNS::Topic": "TopicName",
    "AWS::SQS::Queue": "QueueName",
    "AWS::SecretsManager::Secret": "Name",
    "AWS::Events::Rule": "Name",
    "AWS::Scheduler::Schedule": "Name",
    "AWS::Scheduler::ScheduleGroup": "Name",
    "AWS::CloudWatch::Alarm": "AlarmName",
    "AWS::CloudWatch::CompositeAlarm": "AlarmName",
    "AWS::CloudWatch::Dashboard": "DashboardName",
    "AWS::KMS::Alias": "AliasName",
    "AWS::SSM::Parameter": "Name",
}
LOWER_CASE_NAMES = frozenset({"AWS::S3::Bucket", "AWS::ECR::Repository"})

ARN = {
    "AWS::S3::Bucket": "arn:{p}:s3:::{n}",
    "AWS::IAM::Role": "arn:{p}:iam::{a}:role/{n}",
    "AWS::KMS::Key": "arn:{p}:kms:{r}:{a}:key/{u}",
    "AWS::ECR::Repository": "arn:{p}:ecr:{r}:{a}:repository/{n}",
    "AWS::CodeBuild::Project": "arn:{p}:codebuild:{r}:{a}:project/{n}",
    "AWS::Lambda::Function": "arn:{p}:lambda:{r}:{a}:function:{n}",
    "AWS::Lambda::LayerVersion": "arn:{p}:lambda:{r}:{a}:layer:{n}:1",
    "AWS::StepFunctions::StateMachine": "arn:{p}:states:{r}:{a}:stateMachine:{n}",
    "AWS::Logs::LogGroup": "arn:{p}:logs:{r}:{a}:log-group:{n}:*",
    "AWS::SNS::Topic": "arn:{p}:sns:{r}:{a}:{n}",
    "AWS::SQS::Queue": "arn:{p}:sqs:{r}:{a}:{n}",
    "AWS::SecretsManager::Secret": "arn:{p}:secretsmanager:{r}:{a}:secret:{n}-Ab12Cd",
    "AWS::Events::Rule": "arn:{p}:events:{r}:{a}:rule/{n}",
    "AWS::Scheduler::Schedule": "arn:{p}:scheduler:{r}:{a}:schedule/default/{n}",
    "AWS::Scheduler::ScheduleGroup": "arn:{p}:scheduler:{r}:{a}:schedule-group/{n}",
    "AWS::CloudWatch::Alarm": "arn:{p}:cloudwatch:{r}:{a}:alarm:{n}",
    "AWS::CloudWatch::CompositeAlarm": "arn:{p}:cloudwatch:{r}:{a}:alarm:{n}",
    "AWS::Chatbot::SlackChannelConfiguration": "arn:{p}:chatbot::{a}:chat-configuration/slack-channel/{n}",
}
REF_IS_ARN = frozenset({"AWS::StepFunctions::StateMachine", "AWS::SNS::Topic", "AWS::SecretsManager::Secret", "AWS::Lambda::LayerVersion"})
ATTRIBUTES = {
    ("AWS::S3::Bucket", "DomainName"): "{n}.s3.{s}",
    ("AWS::S3::Bucket", "RegionalDomainName"): "{n}.s3.{r}.{s}",
    ("AWS::ECR::Repository", "RepositoryUri"): "{a}.dkr.ecr.{r}.{s}/{n}",
    ("AWS::SNS::Topic", "TopicArn"): "arn:{p}:sns:{r}:{a}:{n}",
    ("AWS::SNS::Topic", "TopicName"): "{n}",
    ("AWS::SQS::Queue", "QueueName"): "{n}",
    ("AWS::StepFunctions::StateMachine", "Name"): "{n}",
    ("AWS::KMS::Key", "KeyId"): "{u}",
    ("AWS::IAM::Role", "RoleId"): "AROA{h}",
    ("AWS::SecretsManager::Secret", "Id"): "arn:{p}:secretsmanager:{r}:{a}:secret:{n}-Ab12Cd",
    ("AWS::EC2::VPC", "VpcId"): "vpc-{h}",
    ("AWS::EC2::VPC", "CidrBlock"): "10.0.0.0/16",
    ("AWS::EC2::SecurityGroup", "GroupId"): "sg-{h}",
    ("AWS::FSx::FileSystem", "LustreMountName"): "abcdefgh",
}


class Templates:
    """The stacks of one synthesised app, by stack name."""

    def __init__(self, templates: Mapping[str, Json], environment: Environment | None = None) -> None:
        self.templates = dict(templates)
        self.environment = environment or Environment()

    # -- resources ----------------------------------------------------------------------------------

    def resources(self, *types: str) -> Iterator[Resource]:
        """Every resource (of the given types), resolved."""
        for stack, template in self.templates.items():
            for logical_id, raw in template.get("Resources", {}).items():
                if (not types or raw["Type"] in types) and self._condition(stack, raw.get("Condition")):
                    yield Resource(stack, logical_id, raw["Type"], self.resolve(stack, raw.get("Properties", {})), raw)

    def resource(self, type: str, *words: str) -> Resource:
        """The one resource of a type whose logical id holds every word.

        Raises:
            TemplateError: none, or more than one.
        """
        found = [r for r in self.resources(type) if all(word.lower() in r.logical_id.lower() for word in words)]
        if len(found) != 1:
            raise TemplateError(f"{len(found)} resources of type {type} with {words} in their id: {[r.logical_id for r in found]}")
        return found[0]

    def arn(self, resource: Resource) -> str:
        """ARN of a resource."""
        return self._attribute(resource.stack, resource.logical_id, "Arn")

    def outputs(self, stack: str) -> dict[str, str]:
        """A stack's outputs."""
        return {key: self.resolve(stack, out["Value"]) for key, out in self.templates[stack].get("Outputs", {}).items()}

    # -- intrinsics ---------------------------------------------------------------------------------

    def resolve(self, stack: str, node: Json) -> Json:
        """``node`` of ``stack``'s template with every intrinsic replaced."""
        if isinstance(node, list):
            return [value for value in (self.resolve(stack, item) for item in node) if value is not NO_VALUE]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((name, argument),) = node.items()
            if name == "Ref":
                return self._ref(stack, argument)
            if name.startswith("Fn::"):
                return self._function(stack, name, argument)
        resolved = {key: self.resolve(stack, value) for key, value in node.items()}
        return {key: value for key, value in resolved.items() if value is not NO_VALUE}

    def _function(self, stack: str, name: str, argument: Json) -> Json:
        if name == "Fn::GetAtt":
            logical_id, attribute = argument.split(".", 1) if isinstance(argument, str) else argument
            return self._attribute(stack, logical_id, attribute)
        if name == "Fn::Sub":
            return self._sub(stack, argument)
        if name == "Fn::If":
            condition, then, otherwise = argument
            return self.resolve(stack, then if self._condition(stack, condition) else otherwise)
        if name == "Fn::ImportValue":
            return self._import(self.resolve(stack, argument))
        if name == "Fn::GetStackOutput":
            return self.outputs(argument["StackName"])[argument["OutputName"]]
        if name == "Fn::FindInMap":
            top, first, second = (self.resolve(stack, part) for part in argument[:3])
            return self.templates[stack]["Mappings"][top][first][second]
        if name == "Fn::GetAZs":
            return [self.environment.region + letter for letter in "abc"]
        value = self.resolve(stack, argument)
        if name == "Fn::Join":
            return str(value[0]).join(str(part) for part in value[1])
        if name == "Fn::Select":
            return value[1][int(value[0])]
        if name == "Fn::Split":
            return str(value[1]).split(value[0])
        if name == "Fn::Base64":
            return base64.b64encode(str(value).encode()).decode()
        if name == "Fn::ToJsonString":
            return json.dumps(value)
        raise TemplateError(f"{stack}: {name} is not known to the resolver")

    def _sub(self, stack: str, argument: Json) -> str:
        text, given = (argument, {}) if isinstance(argument, str) else argument
        values = {key: self.resolve(stack, value) for key, value in given.items()}

        def replace(match: re.Match[str]) -> str:
            name = match[1]
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            if name in values:
                return str(values[name])
            return str(self._attribute(stack, *name.split(".", 1)) if "." in name else self._ref(stack, name))

        return re.sub(r"\$\{([^}]+)\}", replace, text)

    def _import(self, name: str) -> Json:
        for stack, template in self.templates.items():
            for output in template.get("Outputs", {}).values():
                if "Export" in output and self.resolve(stack, output["Export"]["Name"]) == name:
                    return self.resolve(stack, output["Value"])
        raise TemplateError(f"no stack exports {name!r}")

    def _condition(self, stack: str, name: str | None) -> bool:
        if name is None:
            return True
        if name not in self.templates[stack].get("Conditions", {}):
            raise TemplateError(f"{stack}: condition {name!r} is not declared")
        return self._holds(stack, self.templates[stack]["Conditions"][name])

    def _holds(self, stack: str, node: Json) -> bool:
        ((name, argument),) = node.items()
        if name == "Condition":
            return self._condition(stack, argument)
        if name == "Fn::Equals":
            left, right = (self.resolve(stack, part) for part in argument)
            return bool(left == right)
        parts = [self._holds(stack, part) for part in argument]
        if name in ("Fn::And", "Fn::Or", "Fn::Not"):
            return {"Fn::And": all(parts), "Fn::Or": any(parts), "Fn::Not": not parts[0]}[name]
        raise TemplateError(f"{stack}: {name} is no condition function")

    # -- names --------------------------------------------------------------------------------------

    def _raw(self, stack: str, logical_id: str) -> Json:
        try:
            return self.templates[stack]["Resources"][logical_id]
        except KeyError:
            raise TemplateError(f"{stack} has no resource {logical_id!r}") from None

    def _ref(self, stack: str, name: str) -> Json:
        where = self.environment
        pseudo = {
            "AWS::Partition": where.partition,
            "AWS::Region": where.region,
            "AWS::AccountId": where.account,
            "AWS::URLSuffix": where.url_suffix,
            "AWS::StackName": stack,
            "AWS::StackId": f"arn:{where.partition}:cloudformation:{where.region}:{where.account}:stack/{stack}/0",
            "AWS::NoValue": NO_VALUE,
        }
        if name in pseudo:
            return pseudo[name]
        if name in self.templates[stack].get("Parameters", {}):
            parameter = self.templates[stack]["Parameters"][name]
            if "Default" not in parameter:
                raise TemplateError(f"{stack}: parameter {name!r} has no default, so a deployment would have to ask for it")
            return parameter["Default"]
        type = self._raw(stack, name)["Type"]
        if type in REF_IS_ARN:
            return self._attribute(stack, name, "Arn")
        if type == "AWS::KMS::Key":
            return self._names(stack, name)["u"]
        if type == "AWS::SQS::Queue":
            return "https://sqs.{r}.{s}/{a}/{n}".format(**self._names(stack, name))
        return self._names(stack, name)["n"]

    def _attribute(self, stack: str, logical_id: str, attribute: str) -> str:
        type = self._raw(stack, logical_id)["Type"]
        form = ARN.get(type) if attribute == "Arn" else ATTRIBUTES.get((type, attribute))
        if form is None:
            raise TemplateError(f"{stack}: {type} {logical_id!r} has no attribute {attribute!r} that the resolver knows")
        return form.format(**self._names(stack, logical_id))

    def _names(self, stack: str, logical_id: str) -> dict[str, str]:
        raw = self._raw(stack, logical_id)
        given = raw.get("Properties", {}).get(NAME_PROPERTY.get(raw["Type"], ""))
        name = str(self.resolve(stack, given)) if given is not None else f"{stack}-{logical_id}"[-63:].lstrip("-")
        if given is None and raw["Type"] in LOWER_CASE_NAMES:
            name = name.lower()
        digest = base64.b16encode(logical_id.encode()).decode().lower()
        where = self.environment
        key_id = f"{digest[:8]:0<8}-1111-2222-3333-{digest[-12:]:0<12}"
        return {
            "p": where.partition,
            "r": where.region,
            "a": where.account,
            "s": where.url_suffix,
            "n": name,
            "u": key_id,
            "h": digest[:17],
        }


def machine_definitions(templates: Templates) -> dict[str, Json]:
    """Definition of every state machine, by logical id, its substitutions applied."""
    found: dict[str, Json] = {}
    for resource in templates.resources("AWS::StepFunctions::StateMachine"):
        properties = resource.properties
        text = properties.get("DefinitionString") or json.dumps(properties["Definition"])
        for key, value in properties.get("DefinitionSubstitutions", {}).items():
            text = text.replace("${" + key + "}", str(value))
        left = re.findall(r"(?<!\$)\$\{[A-Za-z0-9_]+\}", text)
        if left:
            raise TemplateError(f"{resource.logical_id}: substitution without a value: {', '.join(sorted(set(left)))}")
        found[resource.logical_id] = json.loads(text)
    return found
