"""AWS calls of code that the interpreter does not run, tied to their source: the preparation job's container and the image build.

Each row is an operation that the source scan finds, with the keys it is used on; a call in the source without a row,
and a row without a call, are both errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aws_models.needs import PULL, PUSH, Names, Need, of_api_calls
from aws_models.simulator import Request
from aws_models.world import ApiCall

Json = Any
FINGERPRINT = "0123456789abcdef0123456789abcdef"
WEIGHTS = "weights/owner--llama/0123456789abcdef0123456789abcdef01234567/"
COPY = f"evaluation/{FINGERPRINT}/held_out/books/part-0.jsonl.gz"
SHARD = f"tokens/{FINGERPRINT}/train/part-00000-000.tokens"
CLEANED = f"corpus/{FINGERPRINT}/documents/00000.jsonl.zst"
TASK = f"corpus/{FINGERPRINT}/.work/clean/00000.jsonl.zst"
# Operation of data_prep's and corpus's code -> keys it is used on. Where: data_prep/{sources,s3_store,tokenizer_source,hub}.py
# and corpus/work.py.
PREPARE: dict[str, tuple[str, ...]] = {
    "HeadObject": ("source/tokenizer/tokenizer.json", "source/models/lid.176.bin", f"tokens/{FINGERPRINT}/index.json"),
    "GetObject": (
        "source/text/part-0.jsonl.gz",
        CLEANED,
        TASK,
        f"corpus/{FINGERPRINT}/corpus.json",
        f"tokens/{FINGERPRINT}/index.json",
        f"tokens/{FINGERPRINT}/.work/plan.json",
    ),
    "ListObjectsV2": ("source/text/", f"tokens/{FINGERPRINT}/.work/", f"corpus/{FINGERPRINT}/documents/"),
    "PutObject": (
        f"tokens/{FINGERPRINT}/index.json",
        "tokens/gates/verdict.json",
        TASK,
        f"corpus/{FINGERPRINT}/corpus.json",
        f"{WEIGHTS}manifest.json",
        f"evaluation/{FINGERPRINT}/index.json",
    ),
    "CreateMultipartUpload": (SHARD, CLEANED, COPY, f"{WEIGHTS}model.safetensors"),
    "UploadPart": (SHARD, CLEANED, COPY, f"{WEIGHTS}model.safetensors"),
    "CompleteMultipartUpload": (SHARD, CLEANED, COPY, f"{WEIGHTS}model.safetensors"),
    "AbortMultipartUpload": (SHARD, CLEANED, COPY, f"{WEIGHTS}model.safetensors"),
    "DeleteObject": (f"tokens/{FINGERPRINT}/.work/plan.json",),
    "DeleteObjects": (f"tokens/{FINGERPRINT}/.work/plan.json", TASK),
    "GetSecretValue": ("",),
}
# `aws` commands of container/build.py -> the action of their service, and on what: the deployment's repositories, images/, or all.
BUILD_COMMANDS: dict[str, tuple[str, str]] = {
    "ecr get-login-password": ("GetAuthorizationToken", "*"),
    "ecr describe-images": ("DescribeImages", "own"),
    "ecr-public get-login-password": ("GetAuthorizationToken", "*"),
    "s3 cp": ("PutObject", "images"),
}


def prepare_needs(names: Names) -> Iterator[Need]:
    """Requests of the containers of Prepare corpus and Prepare data."""
    role, calls, missing = names.role("Prepare"), [], []
    for operation, keys in PREPARE.items():
        for key in keys:
            if operation == "GetSecretValue":
                calls.append(ApiCall(role, "secretsmanager", operation, {"SecretId": names.secret}))
            else:
                given = {"ListObjectsV2": {"Prefix": key}, "DeleteObjects": {"Delete": {"Objects": [{"Key": key}]}}}.get(
                    operation, {"Key": key}
                )
                calls.append(ApiCall(role, "s3", operation, {"Bucket": names.bucket, **given}))
            if operation == "HeadObject":
                missing.append(calls[-1])
    yield from of_api_calls(names, calls, missing)


def build_needs(names: Names) -> Iterator[Need]:
    """Requests of CodeBuild and of the build's own commands, in the build role's name."""
    role = names.role("Build")
    project = next(iter(names.templates.resources("AWS::CodeBuild::Project"))).properties
    context = f"arn:{names.where.partition}:s3:::{project['Source']['Location']}"
    group = names.arn("logs", f"log-group:{project['LogsConfig']['CloudWatchLogs']['GroupName']}:log-stream:")
    repositories = [names.templates.arn(repository) for repository in names.templates.resources("AWS::ECR::Repository")]

    def need(action: str, resource: str, because: str, **context: str) -> Need:
        return Need(request=Request(principal=role, action=action, resource=resource, context=context), because=because)

    yield from (need(f"s3:{action}", context, "CodeBuild reads its source") for action in ("GetObject", "GetObjectVersion"))
    yield from (
        need(f"s3:{action}", context.split("/", 1)[0], "CodeBuild reads its source") for action in ("GetBucketLocation", "ListBucket")
    )
    yield from (need(f"logs:{action}", group + "build", "CodeBuild writes the log") for action in ("CreateLogStream", "PutLogEvents"))
    for command, (action, where) in BUILD_COMMANDS.items():
        service = command.split()[0]
        found = {"*": ["*"], "own": repositories, "images": [f"arn:{names.where.partition}:s3:::{names.bucket}/images/0123abcd/sbom.json"]}
        yield from (need(f"{service}:{action}", resource, f"aws {command}") for resource in found[where])
    yield need("sts:GetServiceBearerToken", "*", "aws ecr-public get-login-password (API reference of ECR Public)")
    for repository in repositories:
        yield from (need(f"ecr:{action}", repository, "docker pull and push") for action in (*PULL, *PUSH))
    for base in ("pytorch-training", "base"):
        resource = f"arn:{names.where.partition}:ecr:{names.where.region}:763104351884:repository/{base}"
        yield from (need(f"ecr:{action}", resource, "docker pull of the base image") for action in PULL)
    # The project's encryption key: CodeBuild encrypts what it keeps of a build with it.
    yield from (need(f"kms:{action}", names.key, "CodeBuild's encryption key") for action in ("Decrypt", "GenerateDataKey", "DescribeKey"))


def aws_commands(source: Path) -> set[str]:
    """The `aws SERVICE COMMAND` calls in a build script."""
    return {f"{service} {command}" for service, command in re.findall(r'"aws", "([a-z0-9-]+)", "([a-z0-9-]+)"', source.read_text())}
