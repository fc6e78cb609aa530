"""Findings in a synthesis: external validators, security rules, secrets, limits."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cfnlint.api import ManualArgs, lint

from aws_models import node
from aws_models.rules import SECRET_VALUES, SECRET_WORDS
from aws_models.template import Templates

Json = Any
MAX_TEMPLATE_BYTES = 1_000_000  # CloudFormation: 1 MB from S3
MAX_RESOURCES = 500  # CloudFormation quota
MAX_LAMBDA_ENVIRONMENT_BYTES = 4096  # Lambda quota, all variables together
MAX_LAMBDA_UNZIPPED_BYTES = 250 << 20  # Lambda quota
MAX_ROLE_INLINE_CHARACTERS = 10_240  # IAM quota: all inline policies of a role, white space not counted
MAX_TRUST_CHARACTERS = 2048  # IAM quota
MAX_BUCKET_POLICY_BYTES = 20_480  # S3 quota
MAX_DASHBOARD_WIDGETS = 500  # CloudWatch quota
# cfn-lint's rules about what CDK itself writes; nothing a person could change in the stacks.
LINT_ACCEPTED = {
    "W3005": "CDK writes DependsOn beside a reference to the same resource",
    "W6001": "an output that passes on another stack's output is what strong references make",
}


def cfn_lint(templates: Templates) -> list[str]:
    """cfn-lint on every template."""
    found = []
    for stack, template in templates.templates.items():
        for match in lint(json.dumps(_lintable(template)), config=ManualArgs(regions=[templates.environment.region])):
            if match.rule.id not in LINT_ACCEPTED:
                found.append(f"{stack} {'/'.join(map(str, match.path))}: {match.rule.id} {match.message}")
    return found


def _lintable(template: Json) -> Json:
    """cfn-lint reads a state machine's text before its substitutions: put the one in that decides about ARNs."""
    copy = json.loads(json.dumps(template))
    for resource in copy["Resources"].values():
        text = resource.get("Properties", {}).get("DefinitionString")
        if isinstance(text, str):
            resource["Properties"]["DefinitionString"] = text.replace("${Partition}", "aws")
    return copy


def asl_validator(definition: Json) -> list[str]:
    """npm asl-validator. Its pattern for JSONata knows no line break inside of an expression, which Step Functions takes."""
    (found,) = node.call("asl", [_on_one_line(definition)])
    return [str(problem) for problem in found]


def _on_one_line(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _on_one_line(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_on_one_line(item) for item in value]
    return value.replace("\n", " ") if isinstance(value, str) else value


def limits(templates: Templates, folder: Path | None = None) -> Iterator[str]:
    """Sizes that a service refuses at deployment."""
    for stack, template in templates.templates.items():
        if (size := len(json.dumps(template).encode())) > MAX_TEMPLATE_BYTES:
            yield f"{stack}: template of {size} bytes"
        if len(template["Resources"]) > MAX_RESOURCES:
            yield f"{stack}: {len(template['Resources'])} resources"
    for function in templates.resources("AWS::Lambda::Function"):
        variables = function.properties.get("Environment", {}).get("Variables", {})
        if (size := sum(len(key) + len(value) for key, value in variables.items())) > MAX_LAMBDA_ENVIRONMENT_BYTES:
            yield f"{function.logical_id}: environment of {size} bytes"
    for role in templates.resources("AWS::IAM::Role"):
        text = json.dumps([p["PolicyDocument"] for p in role.properties.get("Policies", [])])
        if (size := len(re.sub(r"\s", "", text))) > MAX_ROLE_INLINE_CHARACTERS:
            yield f"{role.logical_id}: inline policies of {size} characters"
        if (size := len(re.sub(r"\s", "", json.dumps(role.properties["AssumeRolePolicyDocument"])))) > MAX_TRUST_CHARACTERS:
            yield f"{role.logical_id}: trust policy of {size} characters"
    for bucket in templates.resources("AWS::S3::BucketPolicy"):
        if (size := len(json.dumps(bucket.properties["PolicyDocument"]).encode())) > MAX_BUCKET_POLICY_BYTES:
            yield f"{bucket.logical_id}: bucket policy of {size} bytes"
    for dashboard in templates.resources("AWS::CloudWatch::Dashboard"):
        if (count := len(json.loads(dashboard.properties["DashboardBody"])["widgets"])) > MAX_DASHBOARD_WIDGETS:
            yield f"{dashboard.logical_id}: {count} widgets"
    for asset in folder.glob("asset.*") if folder else ():
        size = sum(path.stat().st_size for path in asset.rglob("*") if path.is_file()) if asset.is_dir() else asset.stat().st_size
        if size > MAX_LAMBDA_UNZIPPED_BYTES:
            yield f"{asset.name}: {size} bytes unpacked"


# -- posture -----------------------------------------------------------------------------------------------


def posture(templates: Templates) -> list[str]:
    """The security properties that issue and design promise, resource by resource."""
    return [*_buckets(templates), *_keys_and_images(templates), *_messages_and_logs(templates), *_functions_and_machine(templates)]


def _buckets(templates: Templates) -> Iterator[str]:
    logging_targets = {
        bucket.properties["LoggingConfiguration"]["DestinationBucketName"]
        for bucket in templates.resources("AWS::S3::Bucket")
        if "LoggingConfiguration" in bucket.properties
    }
    policies = {p.properties["Bucket"]: json.dumps(p.properties["PolicyDocument"]) for p in templates.resources("AWS::S3::BucketPolicy")}
    for bucket in templates.resources("AWS::S3::Bucket"):
        name, given = templates.arn(bucket).rsplit(":", 1)[-1], bucket.properties
        rules = given.get("BucketEncryption", {}).get("ServerSideEncryptionConfiguration", [{}])
        algorithm = rules[0].get("ServerSideEncryptionByDefault", {}).get("SSEAlgorithm")
        # S3 delivers access logs only into a bucket with its own keys.
        if algorithm != ("AES256" if name in logging_targets else "aws:kms"):
            yield f"{bucket.logical_id} is encrypted with {algorithm}"
        blocked = given.get("PublicAccessBlockConfiguration", {})
        if not all(
            blocked.get(key) is True for key in ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
        ):
            yield f"{bucket.logical_id} does not block public access"
        if given.get("VersioningConfiguration", {}).get("Status") != "Enabled":
            yield f"{bucket.logical_id} keeps no versions"
        if name not in logging_targets and "LoggingConfiguration" not in given:
            yield f"{bucket.logical_id} logs no access"
        if '"aws:SecureTransport": "false"' not in policies.get(name, ""):
            yield f"{bucket.logical_id} takes plain HTTP"


def _keys_and_images(templates: Templates) -> Iterator[str]:
    for key in templates.resources("AWS::KMS::Key"):
        if key.properties.get("EnableKeyRotation") is not True:
            yield f"{key.logical_id} is not rotated"
    # The build cache lives under one moving tag; only images that jobs run are immutable and scanned.
    cache = {r.logical_id for r in templates.resources("AWS::ECR::Repository") if "cache" in r.logical_id.lower()}
    for repository in templates.resources("AWS::ECR::Repository"):
        given = repository.properties
        if given.get("EncryptionConfiguration", {}).get("EncryptionType") != "KMS":
            yield f"{repository.logical_id} is not encrypted with the project's key"
        if repository.logical_id not in cache and given.get("ImageTagMutability") != "IMMUTABLE":
            yield f"{repository.logical_id} lets a tag move to another image"
        if repository.logical_id not in cache and given.get("ImageScanningConfiguration", {}).get("ScanOnPush") is not True:
            yield f"{repository.logical_id} does not scan what is pushed"
    for secret in templates.resources("AWS::SecretsManager::Secret"):
        if "KmsKeyId" not in secret.properties:
            yield f"{secret.logical_id} is not encrypted with the project's key"


def _messages_and_logs(templates: Templates) -> Iterator[str]:
    for topic in templates.resources("AWS::SNS::Topic"):
        if "KmsMasterKeyId" not in topic.properties:
            yield f"{topic.logical_id} is not encrypted"
    for queue in templates.resources("AWS::SQS::Queue"):
        if "KmsMasterKeyId" not in queue.properties and not queue.properties.get("SqsManagedSseEnabled"):
            yield f"{queue.logical_id} is not encrypted"
    for group in templates.resources("AWS::Logs::LogGroup"):
        if "RetentionInDays" not in group.properties:
            yield f"{group.logical_id} keeps logs for ever"


def _functions_and_machine(templates: Templates) -> Iterator[str]:
    for machine in templates.resources("AWS::StepFunctions::StateMachine"):
        if machine.properties.get("LoggingConfiguration", {}).get("Level") != "ALL":
            yield f"{machine.logical_id} does not log its executions"
        if machine.properties.get("TracingConfiguration", {}).get("Enabled") is not True:
            yield f"{machine.logical_id} is not traced"
    for function in templates.resources("AWS::Lambda::Function"):
        if "LoggingConfig" not in function.properties:
            yield f"{function.logical_id} has no log group of its own, so its logs are kept for ever"
    for project in templates.resources("AWS::CodeBuild::Project"):
        if "EncryptionKey" not in project.properties:
            yield f"{project.logical_id} is not encrypted with the project's key"
    for schedule in templates.resources("AWS::Scheduler::Schedule"):
        if schedule.properties.get("State") != "DISABLED":
            yield f"{schedule.logical_id} is shipped enabled: it would spend money unasked"


# -- secrets -----------------------------------------------------------------------------------------------


def secrets(templates: Templates, folder: Path | None = None) -> list[str]:
    """No secret in any environment, parameter, default, template text or packaged file."""
    return [*_named_values(templates), *_texts(templates), *(_files(folder) if folder else ())]


def _named_values(templates: Templates) -> Iterator[str]:
    for function in templates.resources("AWS::Lambda::Function"):
        yield from _named(function.logical_id, function.properties.get("Environment", {}).get("Variables", {}).items())
    for project in templates.resources("AWS::CodeBuild::Project"):
        variables = project.properties.get("Environment", {}).get("EnvironmentVariables", [])
        plain = [(item["Name"], item["Value"]) for item in variables if item.get("Type", "PLAINTEXT") == "PLAINTEXT"]
        yield from _named(project.logical_id, plain)
    for stack, template in templates.templates.items():
        for name, parameter in template.get("Parameters", {}).items():
            if SECRET_WORDS.search(name) and not parameter.get("NoEcho"):
                yield f"{stack}: parameter {name} is named like a secret and would be shown"
    for secret in templates.resources("AWS::SecretsManager::Secret"):
        if "SecretString" in secret.properties:
            yield f"{secret.logical_id}: its value stands in the template"


def _named(where: str, pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for key, value in pairs:
        if SECRET_WORDS.search(key) and not str(value).startswith("arn:"):
            yield f"{where}: variable {key} is named like a secret and is no ARN"


def _texts(templates: Templates) -> Iterator[str]:
    for stack, template in templates.templates.items():
        if match := SECRET_VALUES.search(json.dumps(template)):
            yield f"{stack}: {match[0][:12]}... looks like a secret"


def _files(folder: Path) -> Iterator[str]:
    """Everything that is packaged: function code, build context."""
    for path in folder.rglob("*"):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                contents = {name: archive.read(name) for name in archive.namelist()}
        else:
            contents = {path.name: path.read_bytes()} if path.is_file() else {}
        for name, content in contents.items():
            if match := SECRET_VALUES.search(content.decode(errors="ignore")):
                yield f"{path.relative_to(folder)}/{name}: {match[0][:12]}... looks like a secret"
