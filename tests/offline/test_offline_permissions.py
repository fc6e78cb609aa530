"""The permission matrix: what runs need is allowed, neighbouring requests are denied, and nothing unused is allowed."""

import re

from aws_models import sent_on
from aws_models.execution import Failure
from aws_models.jobs import BUILD_COMMANDS, PREPARE, aws_commands
from aws_models.needs import Names, of_api_calls, of_services
from aws_models.neighbours import neighbours
from aws_models.privileges import unused, wildcards
from aws_models.scan import calls_in, modules_of
from aws_models.simulator import Request, decide
from ledger import LEDGER

from infra.constructs.assets import ROOT

# Granted and not seen in any run, each with its reason. Role's word, action -> reason.
ACCEPTED_UNUSED = {
    (
        "PrepareRole",
        "s3:GetBucketLocation",
    ): "SageMaker's samples of execution roles have it; its downloader may ask for the bucket's region",
    (
        "EvaluateRole",
        "s3:GetBucketLocation",
    ): "SageMaker's samples of execution roles have it; its downloader may ask for the bucket's region",
    (
        "TrainingRole",
        "s3:GetBucketLocation",
    ): "SageMaker's samples of execution roles have it; its downloader may ask for the bucket's region",
}
# What a function's imports reach and the function does not call. Handler, operation -> reason.
REACHED_NOT_CALLED = {
    ("admit", "GetSecretValue"): "Admit reads the Hub through data_prep.hub without a token: its role may not read the secret",
    ("monitor", "GetProducts"): "Monitor takes from infra.sagemaker.prices what Admit put into run.json",
    ("report", "GetProducts"): "Report takes from infra.sagemaker.prices what Admit put into run.json",
}
# Actions whose service offers no resource to name, and the only wildcards that a role may have.
WITHOUT_RESOURCES = re.compile(
    r"ecr(-public)?:GetAuthorizationToken|sts:GetServiceBearerToken|cloudwatch:PutMetricData|xray:\w+|pricing:GetProducts|servicequotas:List\w+|sagemaker:List\w+|sagemaker:Search\w*"
    r"|logs:(\w+LogDelivery|ListLogDeliveries|PutResourcePolicy|DescribeResourcePolicies|DescribeLogGroups)"
)


def test_everything_that_runs_do_is_allowed(synthesised, needs):
    decisions = decide([(synthesised.policies, need.request) for need in needs])
    LEDGER.figures["allowed"] = sum(decision.allowed for decision in decisions)
    refused = [f"{need.request} ({need.because}): {d.result}" for need, d in zip(needs, decisions, strict=True) if not d.allowed]
    assert refused == []
    assert [f"{need.request}: {d.ignored}" for need, d in zip(needs, decisions, strict=True) if d.ignored] == []


def test_every_neighbour_is_denied(synthesised, names, needs):
    others = list(neighbours(names, synthesised.policies, needs))
    decisions = decide([(synthesised.policies, other.request) for other in others])
    LEDGER.figures["denied"] = sum(not decision.allowed for decision in decisions)
    kinds = {}
    for other in others:
        kinds[other.because.split(" (")[0]] = kinds.get(other.because.split(" (")[0], 0) + 1
    LEDGER.tables["denied neighbours"] = [f"{count:4} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1])[:12]]
    assert [f"{other.request} ({other.because})" for other, d in zip(others, decisions, strict=True) if d.allowed] == []
    assert [f"{other.request}: {d.ignored}" for other, d in zip(others, decisions, strict=True) if d.ignored] == []
    assert len(others) >= 40


def test_nothing_is_granted_that_no_call_uses(synthesised, needs):
    found = [grant for grant in unused(synthesised.policies, needs) if "Monitor" not in grant.role]
    left = [str(g) for g in found if not any(word in g.role and action == g.action for word, action in ACCEPTED_UNUSED)]
    assert left == []
    stale = [key for key in ACCEPTED_UNUSED if not any(key[0] in g.role and key[1] == g.action for g in found)]
    assert stale == []


def test_the_calls_of_monitor_and_quota_check_are_allowed_and_nothing_else_is_granted_to_them(watched, monitored):
    """On the deployment with the options that give them work; the default one grants less, and has no quota check."""
    assert {name: outcome for name, outcome in monitored.outcomes.items() if isinstance(outcome, Failure)} == {}
    assert monitored.world.wrong == []
    names = Names(watched.templates)
    wanted = [*of_api_calls(names, monitored.world.calls, monitored.world.missing), *of_services(names, watched.policies)]
    wanted = [need for need in wanted if re.search("Monitor|Quotas", need.request.principal)]
    decisions = decide([(watched.policies, need.request) for need in wanted])
    assert [f"{need.request} ({need.because})" for need, d in zip(wanted, decisions, strict=True) if not d.allowed] == []
    assert [str(grant) for grant in unused(watched.policies, wanted) if re.search("Monitor|Quotas", grant.role)] == []


def test_wildcards_are_only_where_a_service_has_no_resources(synthesised):
    assert [
        str(grant) for grant in wildcards(synthesised.policies) if "*" in grant.action or not WITHOUT_RESOURCES.fullmatch(grant.action)
    ] == []


def test_what_report_sends_on_is_allowed_and_its_role_can_do_no_more(watched, sent):
    """Model Registry is given one version however often the report is written; the trackers, whom nobody answers for, are told."""
    told = [outcome.value["Payload"]["sinks"] for outcome in sent.outcomes]
    assert [[each["sink"] for each in sinks] for sinks in told] == [["Model Registry", "MLflow", "Weights & Biases"]] * 2
    assert [[each["complete"] for each in sinks] for sinks in told] == [[True, False, False]] * 2
    assert [len(versions) for versions in sent.world.models.values()] == [1]
    assert sent.world.wrong == []
    names = Names(watched.templates)
    role = names.role("Report")
    wanted = [*of_api_calls(names, sent.world.calls, sent.world.missing), *of_services(names, watched.policies)]
    wanted = [need for need in wanted if need.request.principal == role]
    assert {"sagemaker:CreateModelPackage", "secretsmanager:GetSecretValue"} <= {need.request.action for need in wanted}
    decisions = decide([(watched.policies, need.request) for need in wanted])
    assert [f"{need.request} ({need.because})" for need, d in zip(wanted, decisions, strict=True) if not d.allowed] == []
    left = [grant for grant in unused(watched.policies, wanted) if grant.role == role]
    # Calls that boto3 has no client for (tests/infra/report/test_report_mlflow.py), the secret's own key, other recipes' groups.
    assert {
        str(grant).split(": ")[1] for grant in left if "sagemaker-mlflow:" not in grant.action and "-llama3-" not in grant.resource
    } == {f"kms:Decrypt on {sent_on.KEY}"}


def test_report_approves_no_model_and_touches_no_other_group_or_secret(watched):
    names = Names(watched.templates)

    def asked(action, resource, **context):
        return Request(principal=names.role("Report"), action=action, resource=resource, context=context)

    pending, approved = ({"sagemaker:ModelApprovalStatus": status} for status in ("PendingManualApproval", "Approved"))
    own = names.arn("sagemaker", "model-package/pretrain-local/1")
    requests = [
        asked("sagemaker:CreateModelPackage", own, **pending),
        asked("sagemaker:CreateModelPackage", own, **approved),
        asked("sagemaker:CreateModelPackage", names.arn("sagemaker", "model-package/somebody-elses/1"), **pending),
        asked("sagemaker:UpdateModelPackage", own),
        asked("sagemaker:DeleteModelPackage", own),
        asked("sagemaker:CreateModelPackageGroup", names.arn("sagemaker", "model-package-group/somebody-elses")),
        asked("secretsmanager:GetSecretValue", names.secret),
        asked("s3:PutObject", names.object("runs/r/main/attempts/a-1/export/model.safetensors")),
    ]
    assert [decision.allowed for decision in decide([(watched.policies, request) for request in requests])] == [True] + [False] * 7


def test_every_aws_call_in_the_functions_code_was_made_on_some_path(synthesised, runs, ended, watched, monitored, sent):
    """The source scan against the recorded calls: a call that no path makes would go unproven."""
    worlds = [(synthesised, run.world) for _, run in runs.values()] + [(synthesised, ended.world)]
    worlds += [(watched, monitored.world), (watched, sent.world)]
    made = {(_handler(synthesis, call.role), call.operation) for synthesis, world in worlds for call in world.calls}
    found = {}
    for function in watched.templates.resources("AWS::Lambda::Function"):
        module = function.properties["Handler"].rsplit(".", 1)[0]
        for call in calls_in(modules_of(module, ROOT), ROOT):
            found.setdefault((module.split(".")[-2], call.operation), str(call))
    assert sorted(text for key, text in found.items() if key not in made and key not in REACHED_NOT_CALLED) == []
    assert sorted(key for key in REACHED_NOT_CALLED if key not in found or key in made) == []


def _handler(synthesis, role):
    """Folder of the function that a role belongs to: infra.<folder>.handler.handler."""
    functions = synthesis.templates.resources("AWS::Lambda::Function")
    return next((f.properties["Handler"].split(".")[-3] for f in functions if f.properties["Role"] == role), role)


def test_the_preparation_jobs_calls_are_those_of_its_source():
    found = {call.operation for call in calls_in(modules_of("data_prep.job", ROOT), ROOT)}
    assert found == set(PREPARE)


def test_the_training_job_makes_no_aws_calls():
    """It runs without network: channels and checkpoints are SageMaker's own work."""
    assert calls_in(modules_of("training.job", ROOT), ROOT) == []


def test_the_builds_aws_commands_are_those_of_its_source():
    assert aws_commands(ROOT / "container" / "build.py") == set(BUILD_COMMANDS)
