"""Checks before a run: `doctor` shows them as a table, `plan` beside the cost. Starts and changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from botocore.exceptions import BotoCoreError, ClientError

from contracts.failure import JobFailure
from data_prep.sources import Identified, identify, resolve_uris
from infra.admit import checks as admit_checks
from infra.admit.estimate import Estimate, estimate
from infra.cli.exits import CommandError
from infra.cli.target import STACKS, Target
from infra.run.layout import index_key
from infra.run.quota_requests import quota_requests
from infra.run.run_spec import RunSpec
from infra.sagemaker.instance_types import PRICES_AS_OF
from infra.sagemaker.prices import PriceReader
from infra.sagemaker.quotas import QuotaRequest, quota_statuses

State = Literal["good", "warning", "bad"]
DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AccessDeniedError")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the table."""

    name: str
    state: State
    found: str
    fix: str = ""
    """What to do about it; a command where one does it."""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """Results of the checks, and the estimated cost."""

    checks: tuple[Check, ...]
    spec: RunSpec
    estimate: Estimate
    image_exists: bool
    data_exists: bool

    @property
    def ready(self) -> bool:
        """No line is red."""
        return all(check.state != "bad" for check in self.checks)


def preflight(target: Target, spec: RunSpec) -> Preflight:
    """Check everything that Admit checks, after credentials and stacks."""
    checks: list[Check] = []
    reached = _look(checks, "Account", lambda: _account(target))
    deployed = reached and _look(checks, "Stacks", lambda: _stacks(target))
    image = data = False
    if deployed:
        image = _look(checks, "Image", lambda: _image(target))
        data = _look(checks, "Data", lambda: _data(target, spec))
        _look(checks, "Hub token", lambda: _secret(target, spec))
    if reached:
        for request in quota_requests(spec, prepared=data):
            _look(checks, f"Quota: {request.quota}", lambda request=request: _quota(target, request))  # type: ignore[misc]
        _look(checks, "Capacity", lambda: _capacity(target, spec))
    prices = PriceReader(target.client("pricing") if reached else None, target.region)
    costs = estimate(spec, prices, prepared=data)
    _look(checks, "Budget", lambda: _budget(spec, costs, prices.failure))
    return Preflight(checks=tuple(checks), spec=spec, estimate=costs, image_exists=image, data_exists=data)


def _look(checks: list[Check], name: str, work: Callable[[], tuple[bool, Check]]) -> bool:
    """Run one check; a denied call becomes a line of its own. Returns whether the resource exists."""
    try:
        there, check = work()
    except CommandError as error:
        there, check = False, Check(name=name, state="bad", found=error.sentence)
    except ClientError as error:
        detail = error.response["Error"]
        denied = str(detail.get("Code")) in DENIED
        fix = f"grant {error.operation_name} to your role to see it; the run itself uses roles of its own" if denied else ""
        there, check = (
            False,
            Check(name=name, state="warning" if denied else "bad", found=f"{detail.get('Code')}: {detail.get('Message')}", fix=fix),
        )
    except BotoCoreError as error:
        there, check = (
            False,
            Check(name=name, state="bad", found=str(error), fix="name a profile (--profile) and a region (--region), or use --local"),
        )
    checks.append(dataclasses.replace(check, name=name))
    return there


def _account(target: Target) -> tuple[bool, Check]:
    identity = target.client("sts").get_caller_identity()
    who = str(identity["Arn"]).rsplit(":", 1)[-1]
    expected = target.settings.account
    if expected and expected != identity["Account"]:
        return False, _bad(
            f"{identity['Account']} as {who}", f"cdk.json's environment is for account {expected}: choose its profile with --profile"
        )
    where = "the embedded AWS" if target.embedded else target.region
    return True, _good(f"{identity['Account']} in {where}, as {who}")


def _stacks(target: Target) -> tuple[bool, Check]:
    count = len(target.outputs)
    return True, _good(f"{', '.join(f'{target.settings.name}-{stack}' for stack in STACKS)}: {count} outputs")


def _image(target: Target) -> tuple[bool, Check]:
    repository = target.output("RepositoryUri").rsplit("/", 1)[-1]
    project = target.client("codebuild").batch_get_projects(names=[target.output("BuildProjectName")])["projects"][0]
    variables = {item["name"]: item["value"] for item in project["environment"]["environmentVariables"]}
    tag = variables["IMAGE_TAG"]
    for name in ("data_prep", "training"):
        try:
            asked = [{"imageTag": f"{name}-{tag}"}]
            there = bool(target.client("ecr").describe_images(repositoryName=repository, imageIds=asked)["imageDetails"])
        except ClientError as error:
            if error.response["Error"]["Code"] != "ImageNotFoundException":
                raise
            there = False
        if not there:  # ministack answers with an empty list where ECR raises
            return False, Check(name="", state="good", found=f"{tag} is not built yet: the first run builds it")
    return True, _good(f"{tag} is built: the run skips this stage")


def _data(target: Target, spec: RunSpec) -> tuple[bool, Check]:
    try:
        source: Identified = identify(resolve_uris(spec.data, target.bucket), target.client("s3"))
    except JobFailure as failure:
        return False, _bad(failure.sentence, f"upload text under s3://{target.bucket}/source/ or name another data.source")
    size = (
        f"{len(source.listing.objects):,} objects, {source.listing.total_bytes / 1e6:,.1f} MB"
        if source.listing.objects
        else source.listing.uri
    )
    try:
        target.client("s3").head_object(Bucket=target.bucket, Key=index_key(source.fingerprint))
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey", "NotFound"):
            raise
        return False, _good(f"{size}; not tokenised yet: the run does it (fingerprint {source.fingerprint[:12]})")
    return True, _good(f"{size}; tokenised already: the run skips this stage (fingerprint {source.fingerprint[:12]})")


def _secret(target: Target, spec: RunSpec) -> tuple[bool, Check]:
    gated = admit_checks.needs_token(spec.data)
    secret = target.output("SecretArn")
    if admit_checks.secret_has_value(target.client("secretsmanager"), secret):
        return True, _good("set" + (f"; {' and '.join(gated)} ask for it" if gated else ""))
    if not gated:
        return False, _good("not set, and not needed by this run")
    return False, _bad(
        f"{' and '.join(gated)} ask for a Hugging Face token, and none is set",
        f"accept the licence on the Hub, then: aws secretsmanager put-secret-value --secret-id {secret} --secret-string hf_...",
    )


def _quota(target: Target, request: QuotaRequest) -> tuple[bool, Check]:
    (quota,) = quota_statuses([request], target.client("service-quotas"), target.client("sagemaker"))
    if quota.enough:
        return True, _good(f"{quota.limit:g} allowed, {quota.used} in use, {request.count} wanted")
    return False, _bad(
        quota.message(target.region), "request it early: AWS reviews requests for p5 by hand" if "p5" in request.instance_type else ""
    )


def _capacity(target: Target, spec: RunSpec) -> tuple[bool, Check]:
    """A quota is no guarantee of capacity, and no AWS call tells on-demand capacity; reservations can be described."""
    problems = list(admit_checks.training_plan_problems(spec, target.client("sagemaker")))
    if problems:
        return False, _bad("; ".join(str(problem) for problem in problems), "")
    kinds = ", ".join(f"{source.kind} {spec.compute.instance_type_of(source)}" for source in spec.compute.capacity)
    if all(source.kind == "training_plan" for source in spec.compute.capacity):
        return True, _good(kinds)
    state: State = "good" if target.embedded or ".p" not in spec.compute.instance_type else "warning"
    fix = "" if state == "good" else "a training plan reserves instances; list several compute.capacity sources to fall back"
    return True, Check(name="", state=state, found=f"{kinds}; whether instances are free shows only when the job asks", fix=fix)


def _budget(spec: RunSpec, costs: Estimate, failure: str | None) -> tuple[bool, Check]:
    """Admit's own check, at the same prices. ``failure``: why the Pricing API could not be read; Admit reads it with a role of its own."""
    problems = list(admit_checks.budget_problems(spec, costs))
    if problems and costs.usd is None and failure is not None:
        fix = "Admit reads the Pricing API with a role of its own: the run's first state tells"
        return False, Check(name="", state="warning", found=f"{problems[0].message} ({failure})", fix=fix)
    if problems:
        return False, _bad(problems[0].message, "" if costs.usd is None else "raise budget.max_usd, or train fewer steps")
    prices = "prices of the Pricing API" if failure is None else f"price table of {PRICES_AS_OF}"
    return True, _good(f"${costs.usd or 0:,.2f} estimated of ${spec.budget.max_usd:,.2f} allowed ({prices})")


def _good(found: str) -> Check:
    return Check(name="", state="good", found=found)


def _bad(found: str, fix: str) -> Check:
    return Check(name="", state="bad", found=found, fix=fix)


def as_value(check: Check) -> dict[str, Any]:
    """The line for --json."""
    return dataclasses.asdict(check)
