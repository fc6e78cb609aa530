"""Requests similar to allowed ones that must be denied: other buckets, prefixes, keys, roles, services, accounts, plain HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from aws_models.needs import Names, Need
from aws_models.simulator import OTHER_ACCOUNT, Policies, Request

ADMINISTRATION = (
    ("s3:PutBucketPolicy", "bucket"), ("s3:DeleteBucket", "bucket"), ("s3:PutBucketVersioning", "bucket"),
    ("s3:PutLifecycleConfiguration", "bucket"),
    ("kms:ScheduleKeyDeletion", "key"), ("kms:PutKeyPolicy", "key"), ("kms:DisableKeyRotation", "key"),
    ("iam:CreateRole", "role"), ("iam:AttachRolePolicy", "role"), ("iam:PutRolePolicy", "role"),
    ("secretsmanager:PutSecretValue", "secret"), ("secretsmanager:DeleteSecret", "secret"),
    ("ecr:DeleteRepository", "images"), ("ecr:BatchDeleteImage", "images"), ("ecr:SetRepositoryPolicy", "images"),
    ("states:UpdateStateMachine", "machine"), ("states:DeleteStateMachine", "machine"), ("codebuild:UpdateProject", "project"),
    ("sns:Subscribe", "topic"), ("sns:DeleteTopic", "topic"),
)  # fmt: skip
"""What no role of the deployment may do to its own resources."""

# Role -> (action, key): places in the data bucket that the role has no business in.
FOREIGN_KEYS: dict[str, tuple[tuple[str, str], ...]] = {
    "Training": (
        ("s3:PutObject", "tokens/f/index.json"), ("s3:PutObject", "source/x"), ("s3:DeleteObject", "tokens/f/index.json"),
        ("s3:DeleteObject", "source/x"), ("s3:GetObject", "source/x"), ("s3:DeleteObjectVersion", "runs/r/main/checkpoints/x"),
        ("s3:GetObject", "corpus/f/documents/x"), ("s3:PutObject", "corpus/f/corpus.json"),
    ),
    "Evaluate": (
        ("s3:PutObject", "runs/r/main/attempts/a-1/export/model.safetensors"), ("s3:PutObject", "runs/r/main/attempts/a-1/metrics/x"),
        ("s3:DeleteObject", "runs/r/main/attempts/a-1/checkpoints/step-1/manifest.json"), ("s3:PutObject", "evaluation/f/index.json"),
        ("s3:PutObject", "runs/r/run.json"), ("s3:PutObject", "tokens/f/index.json"), ("s3:GetObject", "source/x"),
    ),
    "Prepare": (
        ("s3:DeleteObject", "evaluation/f/index.json"),
        ("s3:PutObject", "source/x"), ("s3:PutObject", "runs/r/run.json"), ("s3:DeleteObject", "runs/r/run.json"),
        ("s3:DeleteObject", "source/x"), ("s3:DeleteObjectVersion", "tokens/f/index.json"),
        ("s3:DeleteObjectVersion", "corpus/f/corpus.json"),
    ),
    "Admit": (
        ("s3:PutObject", "runs/r/report.html"), ("s3:PutObject", "runs/r/main/checkpoints/x"), ("s3:PutObject", "tokens/f/index.json"),
        ("s3:PutObject", "source/x"), ("s3:DeleteObject", "runs/r/run.json"), ("s3:DeleteObject", "runs/r/lock.json"),
    ),
    "Report": (
        ("s3:PutObject", "runs/r/run.json"), ("s3:PutObject", "runs/r/lock.json"), ("s3:PutObject", "runs/r/main/metrics/metrics.jsonl"),
        ("s3:DeleteObject", "runs/r/report.html"), ("s3:GetObject", "source/x"), ("s3:GetObject", "tokens/f/train/part-0.tokens"),
    ),
    "Triage": (
        ("s3:GetObject", "runs/r/run.json"), ("s3:PutObject", "runs/r/run.json"), ("s3:GetObject", "source/x"),
        ("s3:GetObject", "runs/r/main/attempts/a-1/checkpoints/step-1/__0_0.distcp"),
        ("s3:DeleteObject", "runs/r/main/attempts/a-1/checkpoints/step-1/manifest.json"),
    ),
    "Monitor": (
        ("s3:DeleteObject", "runs/r/run.json"), ("s3:DeleteObject", "runs/r/main/attempts/a-1/metrics/result.json"),
        ("s3:DeleteObject", "runs/r/main/attempts/a-1/export/model.safetensors"), ("s3:PutObject", "runs/r/run.json"),
    ),
    "Machine": (("s3:GetObject", "runs/r/run.json"), ("s3:PutObject", "runs/r/run.json"), ("s3:DeleteObject", "tokens/f/index.json")),
    "Schedule": (("s3:GetObject", "runs/r/run.json"),),
    "BuildRole": (("s3:GetObject", "runs/r/run.json"), ("s3:PutObject", "tokens/f/index.json")),
}  # fmt: skip
OTHER_SERVICES = (
    "ec2.amazonaws.com",
    "lambda.amazonaws.com",
    "ecs-tasks.amazonaws.com",
    "glue.amazonaws.com",
    "sagemaker.amazonaws.com",
    "states.amazonaws.com",
)


def neighbours(names: Names, policies: Policies, allowed: Iterable[Need]) -> Iterator[Need]:
    """Every neighbour once, with what makes it one."""
    requests = [need.request for need in allowed]
    yield from _unique(_transport(names, requests))
    yield from _unique(_elsewhere(names, requests))
    yield from _unique(_strangers(names, requests))
    yield from _roles(names, policies)
    yield from _keys(names)
    for role in policies.identity:
        for action, what in ADMINISTRATION:
            resource = {"bucket": names.bucket_arn, "role": role}.get(what) or getattr(names, what, "")
            yield _need(role, action, resource, "no role administers the deployment")
    for word, places in FOREIGN_KEYS.items():
        yield from (_need(names.role(word), action, names.object(key), f"{key} is not {word}'s") for action, key in places)
    yield from _privileges(names, policies)


def _need(principal: str, action: str, resource: str, because: str, **context: str) -> Need:
    request = Request(
        principal=principal, action=action, resource=resource, context={key.replace("__", ":"): v for key, v in context.items()}
    )
    return Need(request=request, because=because)


def _unique(needs: Iterable[Need]) -> Iterator[Need]:
    seen: set[tuple[str, str, str]] = set()
    for need in needs:
        key = (need.request.principal, need.request.action, need.because)
        if key not in seen:
            seen.add(key)
            yield need


def _transport(names: Names, requests: list[Request]) -> Iterator[Need]:
    """The same call in plain HTTP, or with an old TLS."""
    for request in requests:
        if request.resource.startswith(names.bucket_arn):
            for context, why in (({"aws:SecureTransport": "false"}, "plain HTTP"), ({"s3:TlsVersion": "1.1"}, "TLS 1.1")):
                changed = Request(
                    principal=request.principal, action=request.action, resource=request.resource, context={**request.context, **context}
                )
                yield Need(request=changed, because=why)
        if request.action == "sns:Publish" and request.principal.startswith("arn:"):
            changed = Request(
                principal=request.principal, action=request.action, resource=request.resource, context={"aws:SecureTransport": "false"}
            )
            yield Need(request=changed, because="plain HTTP")


def _elsewhere(names: Names, requests: list[Request]) -> Iterator[Need]:
    """The same call on somebody else's resource in the same account."""
    for request in requests:
        prefix, _, _name = request.resource.rpartition(":")
        other = {
            "s3": "arn:aws:s3:::somebody-elses-bucket" + ("/" + request.resource.split("/", 1)[1] if "/" in request.resource else ""),
            "lambda": f"{prefix}:somebody-elses-function",
            "codebuild": f"{prefix}:project/somebody-elses-project",
            "sns": f"{prefix}:somebody-elses-topic",
            "ecr": f"{prefix}:repository/somebody-elses-images",
            "secretsmanager": f"{prefix}:somebody-elses-secret-Ab12Cd",
            "states": f"{prefix}:somebody-elses-machine",
            "events": f"{prefix}:{'event-bus/somebody-elses-bus' if request.action == 'events:PutEvents' else 'rule/somebody-elses-rule'}",
            "kms": names.arn("kms", "key/99999999-9999-9999-9999-999999999999"),
            "logs": names.arn("logs", "log-group:/somebody/else:log-stream:x"),
        }.get(request.action.split(":")[0])
        own_prefix = f"{names.where.partition}:states:{names.where.region}:{names.where.account}:execution:"
        if other is None or request.resource == "*" or not request.principal.startswith("arn:") or own_prefix in request.resource:
            continue
        changed = Request(
            principal=request.principal,
            action=request.action,
            resource=other.replace("arn:aws:", f"arn:{names.where.partition}:"),
            context=request.context,
        )
        yield Need(request=changed, because="somebody else's resource")


def _strangers(names: Names, requests: list[Request]) -> Iterator[Need]:
    """The same call by a role of another account that may do everything at home."""
    stranger = f"arn:{names.where.partition}:iam::{OTHER_ACCOUNT}:role/somebody"
    guarded = (names.bucket_arn, names.key, names.topic, names.secret, names.images, names.machine)
    for request in requests:
        if request.resource.startswith(guarded) and request.action != "sts:AssumeRole":
            context = {key: value for key, value in request.context.items() if not key.startswith("aws:Source")}
            yield Need(
                request=Request(principal=stranger, action=request.action, resource=request.resource, context=context),
                because="another account",
            )


def _roles(names: Names, policies: Policies) -> Iterator[Need]:
    """Assuming and passing roles: other services, other accounts, other roles."""
    stranger = f"arn:{names.where.partition}:iam::{OTHER_ACCOUNT}:role/somebody"
    for role, trust in policies.trust.items():
        own = trust["Statement"][0]["Principal"]["Service"]
        short = role.rsplit("/", 1)[-1]
        yield _need(stranger, "sts:AssumeRole", role, f"another account assumes {short}")
        yield _need("ec2.amazonaws.com", "sts:AssumeRole", role, f"another service assumes {short}", aws__SourceAccount=names.where.account)
        if own != "lambda.amazonaws.com":  # Lambda passes no source account when it assumes a function's role
            yield _need(
                own, "sts:AssumeRole", role, f"{own} on another account's behalf (confused deputy)", aws__SourceAccount=OTHER_ACCOUNT
            )
    machine = names.role("Machine")
    for word in ("Training", "Evaluate", "Prepare"):
        for service in OTHER_SERVICES:
            if service != "sagemaker.amazonaws.com":
                yield _need(machine, "iam:PassRole", names.role(word), f"{word}'s role to {service}", iam__PassedToService=service)
    for role in policies.identity:
        for passed in policies.identity:
            job = passed in (names.role("Training"), names.role("Evaluate"), names.role("Prepare"))
            if not (role == machine and job):
                yield _need(role, "iam:PassRole", passed, "a role that is not passed", iam__PassedToService="sagemaker.amazonaws.com")
    administrator = f"arn:{names.where.partition}:iam::{names.where.account}:role/Admin"
    yield _need(machine, "iam:PassRole", administrator, "the administrator's role", iam__PassedToService="sagemaker.amazonaws.com")


def _keys(names: Names) -> Iterator[Need]:
    """The key outside of the service that it is meant for."""
    for word in ("Training", "Evaluate", "Prepare", "Admit", "Report"):
        for action in ("kms:Decrypt", "kms:GenerateDataKey"):
            yield _need(names.role(word), action, names.key, "the key used directly, not through a service")
            yield _need(
                names.role(word), action, names.key, "the key used through EC2", **{f"kms__{k[4:]}": v for k, v in names.via("ec2").items()}
            )
        yield _need(names.role(word), "kms:CreateGrant", names.key, "a grant for anyone", kms__GrantIsForAWSResource="false")
    yield _need(
        "cloudwatch.amazonaws.com", "kms:Decrypt", names.key, "CloudWatch on another account's behalf", aws__SourceAccount=OTHER_ACCOUNT
    )
    yield _need(
        "cloudwatch.amazonaws.com", "sns:Publish", names.topic, "CloudWatch on another account's behalf", aws__SourceAccount=OTHER_ACCOUNT
    )


def _privileges(names: Names, policies: Policies) -> Iterator[Need]:
    """What only one role may do, tried by the others."""
    training_job = names.arn("sagemaker", "training-job/x")
    only = (
        ("secretsmanager:GetSecretValue", names.secret, ("Prepare",)),
        ("sagemaker:CreateTrainingJob", training_job, ("Machine",)),
        ("sagemaker:StopTrainingJob", training_job, ("Machine", "Triage")),
        ("codebuild:StartBuild", names.project, ("Machine",)),
        ("ecr:PutImage", names.images, ("BuildRole",)),
        ("states:StartExecution", names.machine, ("Schedule",)),
        ("sns:Publish", names.topic, ("Machine", "Monitor", "Triage")),
    )
    for action, resource, words in only:
        for role in policies.identity:
            if not any(word in role for word in words):
                yield _need(role, action, resource, f"only {' and '.join(words)} may")
    machine = names.role("Machine")
    for action, rest in (
        ("CreateEndpoint", "endpoint/x"),
        ("DeleteModel", "model/x"),
        ("CreateNotebookInstance", "notebook-instance/x"),
        ("CreateTrainingPlan", "training-plan/x"),
    ):
        yield _need(machine, f"sagemaker:{action}", names.arn("sagemaker", rest), "a part of SageMaker that the machine does not use")
    yield _need(
        names.role("Schedule"),
        "states:StopExecution",
        names.machine.replace(":stateMachine:", ":execution:") + ":x",
        "a schedule only starts",
    )
    for role in (names.role("Training"), names.role("Evaluate"), names.role("Prepare")):
        yield _need(role, "cloudwatch:PutMetricData", "*", "another namespace", cloudwatch__namespace="AWS/Billing")
