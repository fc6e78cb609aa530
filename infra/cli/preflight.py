"""Checks before a run: `doctor` shows them as a table, `plan` beside the cost. Starts and changes nothing.

The look-ups and the checks are Admit's own (infra/admit/gather.py, checks.py), made with this person's role; here they become lines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from contracts.config import Problem
from data_prep.identify import resolve_uris
from infra.admit.checks import Finding, check, needs_token
from infra.admit.continued import continued
from infra.admit.data_sets import DataSet
from infra.admit.estimate import Estimate
from infra.admit.gather import Clients, Deployed, Facts, Topic, gather
from infra.admit.start import start_lines
from infra.cli.exits import CommandError, Exit
from infra.cli.images import base_image, build_variables
from infra.cli.registry import Unknown, digest_of
from infra.cli.target import STACKS, Target
from infra.run.layout import RunLayout
from infra.run.quota_requests import quota_requests
from infra.run.run_record import Change
from infra.run.run_spec import RunSpec
from infra.sagemaker.instance_types import PRICES_AS_OF
from infra.sagemaker.prices import PriceReader

T = TypeVar("T")
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


TOPICS: tuple[Topic, ...] = (
    *("Image", "Data", "Hub token", "Earlier run", "Start", "Instance types", "Devices", "Quotas", "Capacity", "Budget"),
)
"""Order of the lines."""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """Results of the checks, and the estimated cost."""

    checks: tuple[Check, ...]
    spec: RunSpec
    estimate: Estimate
    image_exists: bool
    data_exists: bool
    data_sets: tuple[DataSet, ...] | None = None
    """What each source makes, where it could be looked at."""
    changes: tuple[Change, ...] = ()
    """Settings of the run that exists already which this input changes."""
    finished: tuple[str, ...] = ()
    """Legs that an earlier execution finished: they are not trained again."""
    evaluated: tuple[str, ...] = ()
    """Those of them that are not evaluated again either."""
    begins: tuple[str, ...] = ()
    """Where legs begin that do not begin by chance."""
    refused_changes: tuple[str, ...] = ()
    """Which of them its checkpoints do not allow, each with its reason."""

    @property
    def ready(self) -> bool:
        """No line is red."""
        return all(check.state != "bad" for check in self.checks)


def preflight(target: Target, spec: RunSpec) -> Preflight:
    """Gather and check what Admit does, after credentials and stacks."""
    lines: list[Check] = []
    missed: dict[str, Check] = {}

    def look(topic: str, call: Callable[[], T]) -> T | None:
        """Make a look-up; a denied or unanswered one becomes the topic's line."""
        try:
            return call()
        except (CommandError, ClientError, BotoCoreError) as error:
            missed[topic] = _missed(topic, error)
            return None

    def skip(topic: str, call: Callable[[], T]) -> T | None:
        return None

    account = look("Account", lambda: _account(target))
    lines += [line for line in (account, missed.get("Account")) if line is not None]
    reached = account is not None and account.state == "good"
    deployed = look("Stacks", lambda: _deployed(target)) if reached else None
    if deployed is not None:
        lines.append(_good(f"{', '.join(f'{target.settings.name}-{s}' for s in STACKS)}: {len(target.outputs)} outputs", "Stacks"))
        deployed = dataclasses.replace(deployed, image_tag=look("Image", lambda: _image_tag(target)))
    lines += [missed["Stacks"]] if "Stacks" in missed else []
    layout = RunLayout(spec.run_id) if spec.run_id else None
    prices = PriceReader(target.client("pricing") if reached else None, target.region)
    facts = gather(spec, layout, deployed, _clients(target.client if reached else _none, prices), target.region, look if reached else skip)
    found = check(facts)
    for topic in TOPICS:
        about = [finding for finding in found if finding.topic == topic]
        lines.extend(_budget(facts, about, prices.failure) if topic == "Budget" else _lines(topic, facts, about, missed.get(topic), target))
    return Preflight(
        checks=tuple(lines),
        spec=facts.spec,
        estimate=facts.costs,
        image_exists=facts.image is not None and bool(facts.image["exists"]),
        data_exists=facts.prepared,
        data_sets=facts.data_sets,
        finished=tuple(facts.finished),
        evaluated=tuple(sorted(facts.evaluated)),
        begins=tuple(start_lines(facts.starts)),
        changes=facts.earlier.changes(facts.spec) if facts.earlier is not None else (),
        refused_changes=tuple(str(finding.problem) for finding in found if finding.topic == "Earlier run"),
    )


def changes_of(target: Target, spec: RunSpec) -> list[str]:
    """Sentences about what an input changes of a run that exists, for `start`: Admit decides.

    Raises:
        CommandError: what changes is not what the run's checkpoints were made with, so Admit would refuse it.
    """
    if spec.run_id is None:
        return []
    try:
        earlier = continued(spec, RunLayout(spec.run_id), target.client("s3"), target.bucket)
    except ClientError as error:
        if str(error.response["Error"].get("Code")) in DENIED:
            return []  # a role that may start runs and read none
        raise
    problems = [str(problem) for problem in earlier.problems(None)]
    if problems:
        raise CommandError("this run cannot go on so: " + "; ".join(problems), Exit.REFUSED)
    full = dataclasses.replace(earlier.spec, data=resolve_uris(spec.data, target.bucket))
    return [f"run {spec.run_id} exists; changed: {change}" for change in earlier.changes(full)]


def _clients(client: Callable[[str], Any], prices: PriceReader) -> Clients:
    return Clients(
        s3=client("s3"),
        ecr=client("ecr"),
        states=client("stepfunctions"),
        sagemaker=client("sagemaker"),
        quotas=client("service-quotas"),
        secrets=client("secretsmanager"),
        price=prices,
    )


def _none(service: str) -> None:
    """In place of clients where no account is reached and nothing is looked up."""


def _missed(name: str, error: CommandError | ClientError | BotoCoreError) -> Check:
    """The line of a look-up that could not be made."""
    if isinstance(error, CommandError):
        return _bad(error.sentence, "", name)
    if isinstance(error, BotoCoreError):
        return _bad(str(error), "name a profile (--profile) and a region (--region), or use --local", name)
    detail = error.response["Error"]
    denied = str(detail.get("Code")) in DENIED
    fix = f"grant {error.operation_name} to your role to see it; the run itself uses roles of its own" if denied else ""
    return Check(name=name, state="warning" if denied else "bad", found=f"{detail.get('Code')}: {detail.get('Message')}", fix=fix)


def _account(target: Target) -> Check:
    identity = target.client("sts").get_caller_identity()
    who = str(identity["Arn"]).rsplit(":", 1)[-1]
    expected = target.settings.account
    if expected and expected != identity["Account"]:
        return _bad(
            f"{identity['Account']} as {who}",
            f"cdk.json's environment is for account {expected}: choose its profile with --profile",
            "Account",
        )
    where = "the embedded AWS" if target.embedded else target.region
    return _good(f"{identity['Account']} in {where}, as {who}", "Account")


def _deployed(target: Target) -> Deployed:
    """The stacks' resources, from their outputs."""
    return Deployed(
        bucket=target.bucket, repository_uri=target.output("RepositoryUri"), image_tag=None, secret_arn=target.output("SecretArn")
    )


def _image_tag(target: Target) -> str:
    """The tag that the deployed build project makes."""
    project = target.client("codebuild").batch_get_projects(names=[target.output("BuildProjectName")])["projects"][0]
    return str({item["name"]: item["value"] for item in project["environment"]["environmentVariables"]}["IMAGE_TAG"])


def _lines(topic: Topic, facts: Facts, found: list[Finding], missed: Check | None, target: Target) -> Iterator[Check]:
    """The lines of one topic: the look-up that was missed, the problems, else the good news where there is any."""
    if topic == "Quotas":
        yield from _quotas(facts, found, missed)
        return
    if missed is not None:
        yield missed
    if found:
        yield _bad("; ".join(_said(finding.problem, topic) for finding in found), _fix(topic, facts), topic)
    elif topic == "Image" and facts.image is not None:
        yield from (
            [_good(f"{facts.image['tag']} is built: the run skips this stage", topic)] if facts.image["exists"] else _unbuilt(facts, target)
        )
    elif topic == "Data" and facts.data_sets is not None:
        yield from map(_data, facts.data_sets)
    elif topic == "Start" and facts.starts:
        yield _good("; ".join(start_lines(facts.starts)), topic)
    elif topic == "Hub token" and facts.token is not None:
        gated = needs_token(facts.spec)
        asked = f"; {' and '.join(gated)} ask for it" if gated else ""
        yield _good(f"set{asked}" if facts.token else "not set, and not needed by this run", topic)
    elif topic == "Capacity" and facts.training_plans is not None:
        yield _capacity(facts.spec, target)


def _unbuilt(facts: Facts, target: Target) -> Iterator[Check]:
    """What the first build needs of the account and of the registries."""
    found = f"{facts.image['tag'] if facts.image else ''} is not built yet: the first run builds it"
    project = target.output("BuildProjectName")
    if target.embedded or _listed(target, project):
        yield _good(found, "Image")
    else:
        fix = (
            'some new accounts may run no builds ("Cannot have more than 0 builds in queue"), whatever Service Quotas shows: then ask for '
            "them in a support case, or use make images"
        )
        yield Check(name="Image", state="warning", found=found, fix=fix)
    if not target.embedded:
        yield _base_image(base_image(build_variables(target)))


def _listed(target: Target, project: str) -> bool:
    """Whether the project has ever been built; an answer that is denied says nothing against it."""
    try:
        return bool(target.client("codebuild").list_builds_for_project(projectName=project)["ids"])
    except ClientError:
        return True


def _base_image(reference: str) -> Check:
    """Asks the registry as the build will; the build itself falls back from a dated tag to the undated one."""
    try:
        if digest_of(reference) is not None:
            tag_only = (
                "" if "@" in reference else ", by its tag only (make lock-images writes its digest, so that every build starts from it)"
            )
            return _good(reference + tag_only, "Base image")
    except Unknown as unknown:
        fix = "the build pulls it with a login of its own"
        return Check(name="Base image", state="warning", found=f"{reference}: {unknown}", fix=fix)
    fix = "a dated tag falls back to the undated one; else set training_base_image to an image that exists"
    return Check(name="Base image", state="warning", found=f"the registry has no {reference}", fix=fix)


def _said(problem: Problem, topic: Topic) -> str:
    """Where the line's name does not already say which setting is meant, its path too."""
    return problem.message if topic in ("Data", "Hub token") else str(problem)


def _fix(topic: Topic, facts: Facts) -> str:
    return (
        f"upload text under s3://{facts.deployed.bucket}/source/ or name another data.source" if topic == "Data" and facts.deployed else ""
    )


def _data(found: DataSet) -> Check:
    listing = found.identified.listing
    size = f"{len(listing.objects):,} objects, {listing.total_bytes / 1e6:,.1f} MB" if listing.objects else listing.uri
    skips = "the run skips this source" if found.name else "the run skips this stage"
    there = f"tokenised already: {skips}" if found.written is not None else "not tokenised yet: the run does it"
    return _good(f"{size}; {there} (fingerprint {found.identified.fingerprint[:12]})", f"Data: {found.name}" if found.name else "Data")


def _quotas(facts: Facts, found: list[Finding], missed: Check | None) -> Iterator[Check]:
    """A line for each quota that the run counts against."""
    if missed is not None:
        for request in quota_requests(
            facts.spec, prepared=facts.prepared, trained=facts.trained, evaluated=len(facts.evaluated) == len(facts.spec.legs)
        ):
            yield dataclasses.replace(missed, name=f"Quota: {request.quota}")
    problems = {finding.problem.message for finding in found}
    for quota in facts.quotas or []:
        message, name = quota.message(facts.region), f"Quota: {quota.request.quota}"
        if message in problems:
            yield _bad(
                message, "request it early: AWS reviews requests for p5 by hand" if "p5" in quota.request.instance_type else "", name
            )
        elif quota.limit is None:
            yield _good(f"{quota.request.count} wanted; Service Quotas lists no such limit here", name)
        elif quota.enough:
            yield _good(f"{quota.limit:g} allowed, {quota.in_use} in use, {quota.request.count} wanted", name)


def _capacity(spec: RunSpec, target: Target) -> Check:
    """A quota is no guarantee of capacity, and no AWS call tells on-demand capacity; reservations were described."""
    kinds = ", ".join(f"{source.kind} {spec.compute.instance_type_of(source)}" for source in spec.compute.capacity)
    if all(source.kind == "training_plan" for source in spec.compute.capacity):
        return _good(kinds, "Capacity")
    state: State = "good" if target.embedded or ".p" not in spec.compute.instance_type else "warning"
    fix = "" if state == "good" else "a training plan reserves instances; list several compute.capacity sources to fall back"
    return Check(name="Capacity", state=state, found=f"{kinds}; whether instances are free shows only when the job asks", fix=fix)


def _budget(facts: Facts, found: list[Finding], failure: str | None) -> Iterator[Check]:
    """``failure``: why the Pricing API could not be read; Admit reads it with a role of its own."""
    costs = facts.costs
    for problem in (finding.problem for finding in found):
        if costs.usd is None and failure is not None:
            fix = "Admit reads the Pricing API with a role of its own: the run's first state tells"
            yield Check(name="Budget", state="warning", found=f"{problem.message} ({failure})", fix=fix)
        else:
            yield _bad(problem.message, "" if costs.usd is None else "raise budget.max_usd, or train fewer steps", "Budget")
    if not found and costs.usd is not None:
        prices = "prices of the Pricing API" if failure is None else f"price table of {PRICES_AS_OF}"
        yield _good(f"${costs.usd:,.2f} estimated of ${facts.spec.budget.max_usd:,.2f} allowed ({prices})", "Budget")


def _good(found: str, name: str) -> Check:
    return Check(name=name, state="good", found=found)


def _bad(found: str, fix: str, name: str) -> Check:
    return Check(name=name, state="bad", found=found, fix=fix)


def as_value(check: Check) -> dict[str, Any]:
    """The line for --json."""
    return dataclasses.asdict(check)
