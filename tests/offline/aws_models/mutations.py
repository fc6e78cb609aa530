"""Seeded faults: each is one plausible mistake in roles, stacks, state machine or request code.

A mutation changes the synthesised templates, the machine's definition, or the request code; it must change something,
and some check must notice. test_proof_mutations prints which.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

from aws_models.coverage import all_states
from aws_models.synthesis import Synthesis
from aws_models.template import Templates

Json = Any
Change = Callable[[Json], None]


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One fault."""

    name: str
    templates: Change = lambda templates: None
    """Changes {stack: template} in place."""
    definition: Change | None = None
    """Changes the machine's definition in place."""
    code: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Patches the product's code while its checks run."""

    def apply(self, original: Synthesis) -> tuple[Synthesis, Json]:
        """A synthesis with the fault, and its definition.

        Raises:
            ValueError: nothing changed, so the fault was not seeded.
        """
        templates = copy.deepcopy(original.templates.templates)
        self.templates(templates)
        definition = copy.deepcopy(original.definition)
        if self.definition is not None:
            self.definition(definition)
        if self.code is nullcontext and templates == original.templates.templates and definition == original.definition:
            raise ValueError(f"{self.name}: nothing changed")
        return Synthesis(Templates(templates, original.templates.environment), original.folder), definition


# -- templates ---------------------------------------------------------------------------------------------


def _resources(templates: Json, type: str, word: str = "") -> list[Json]:
    """Raw resources of a type; ``word`` is in the logical id."""
    found = [r for t in templates.values() for key, r in t["Resources"].items() if r["Type"] == type and word.lower() in key.lower()]
    if not found:
        raise ValueError(f"no {type} {word}")
    return found


def _statements(templates: Json, role: str) -> list[Json]:
    """Statements of a role's inline policies."""
    return [
        s
        for r in _resources(templates, "AWS::IAM::Role", role)
        for p in r["Properties"]["Policies"]
        for s in p["PolicyDocument"]["Statement"]
    ]


def _actions(statement: Json) -> list[str]:
    return statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]


def without_action(role: str, action: str) -> Change:
    """The role loses an action."""

    def change(templates: Json) -> None:
        for statement in _statements(templates, role):
            if action in _actions(statement):
                statement["Action"] = [other for other in _actions(statement) if other != action] or ["none:Nothing"]

    return change


def without_resource(role: str, action: str, word: str) -> Change:
    """The statement that allows an action loses the resources with ``word`` in them."""

    def change(templates: Json) -> None:
        for statement in _statements(templates, role):
            if action in _actions(statement) and isinstance(statement["Resource"], list):
                statement["Resource"] = [resource for resource in statement["Resource"] if word not in json.dumps(resource)]

    return change


def without_condition(role: str, action: str) -> Change:
    """The statement that allows an action loses its condition."""

    def change(templates: Json) -> None:
        for statement in _statements(templates, role):
            if action in _actions(statement):
                statement.pop("Condition", None)

    return change


def on_everything(role: str, action: str) -> Change:
    """The statement that allows an action applies to every resource."""

    def change(templates: Json) -> None:
        for statement in _statements(templates, role):
            if action in _actions(statement):
                statement["Resource"] = "*"

    return change


def also_allowed(role: str, action: str, resource: Json) -> Change:
    """The role gets one more statement."""

    def change(templates: Json) -> None:
        (made,) = _resources(templates, "AWS::IAM::Role", role)
        made["Properties"]["Policies"][0]["PolicyDocument"]["Statement"].append({"Effect": "Allow", "Action": action, "Resource": resource})

    return change


def with_property(type: str, path: str, value: Json, word: str = "") -> Change:
    """A resource's property set (None: removed)."""

    def change(templates: Json) -> None:
        *folders, last = path.split(".")
        for resource in _resources(templates, type, word):
            target = resource["Properties"]
            for folder in folders:
                target = target.setdefault(folder, {})
            if value is None:
                target.pop(last, None)
            else:
                target[last] = value

    return change


def trust(role: str, change_statement: Change) -> Change:
    """The role's trust policy changed."""

    def change(templates: Json) -> None:
        for found in _resources(templates, "AWS::IAM::Role", role):
            for statement in found["Properties"]["AssumeRolePolicyDocument"]["Statement"]:
                change_statement(statement)

    return change


def policy_statements(type: str, document: str, keep: Callable[[Json], bool], word: str = "") -> Change:
    """A resource policy keeps only some statements."""

    def change(templates: Json) -> None:
        for resource in _resources(templates, type, word):
            policy = resource["Properties"][document]
            policy["Statement"] = [statement for statement in policy["Statement"] if keep(statement)]

    return change


def _anybody(templates: Json) -> None:
    (key,) = _resources(templates, "AWS::KMS::Key")
    everybody = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:Decrypt", "Resource": "*"}
    key["Properties"]["KeyPolicy"]["Statement"].append(everybody)


def _misspelt_attribute(templates: Json) -> None:
    (project,) = _resources(templates, "AWS::CodeBuild::Project")
    ((function, argument),) = project["Properties"]["ServiceRole"].items()
    project["Properties"]["ServiceRole"] = {function: [argument[0], "Arm"]}


STACK_FAULTS = (
    Mutation(name="machine: PassRole dropped", templates=without_action("MachineRole", "iam:PassRole")),
    Mutation(name="machine: PassRole to any service", templates=without_condition("MachineRole", "iam:PassRole")),
    Mutation(name="machine: PassRole of any role", templates=on_everything("MachineRole", "iam:PassRole")),
    Mutation(name="machine: events:PutRule dropped", templates=without_action("MachineRole", "events:PutRule")),
    Mutation(name="machine: sagemaker:AddTags dropped", templates=without_action("MachineRole", "sagemaker:AddTags")),
    Mutation(name="machine: sagemaker:StopTrainingJob dropped", templates=without_action("MachineRole", "sagemaker:StopTrainingJob")),
    Mutation(
        name="machine: training plans dropped", templates=without_resource("MachineRole", "sagemaker:CreateTrainingJob", ":training-plan/")
    ),
    Mutation(
        name="machine: reserved capacity dropped",
        templates=without_resource("MachineRole", "sagemaker:CreateTrainingJob", ":reserved-capacity/"),
    ),
    Mutation(name="schedule: dead letters dropped", templates=without_action("ScheduleRole", "sqs:SendMessage")),
    Mutation(name="triage: may not tell of an execution's end", templates=without_action("TriageRole", "sns:Publish")),
    Mutation(name="training: kms:Encrypt dropped", templates=without_action("TrainingRole", "kms:Encrypt")),
    Mutation(name="build: no login to the public registry", templates=without_action("BuildRole", "sts:GetServiceBearerToken")),
    Mutation(name="machine: may invoke any function", templates=on_everything("MachineRole", "lambda:InvokeFunction")),
    Mutation(name="training: no TensorBoard events", templates=without_resource("TrainingRole", "s3:PutObject", "/tensorboard/")),
    Mutation(name="training: kms:CreateGrant dropped", templates=without_action("TrainingRole", "kms:CreateGrant")),
    Mutation(name="training: image pull dropped", templates=without_action("TrainingRole", "ecr:BatchGetImage")),
    Mutation(name="training: may write everywhere", templates=on_everything("TrainingRole", "s3:PutObject")),
    Mutation(name="training: key without kms:ViaService", templates=without_condition("TrainingRole", "kms:GenerateDataKey")),
    Mutation(name="training: reads the secret", templates=also_allowed("TrainingRole", "secretsmanager:GetSecretValue", "*")),
    Mutation(name="preparation: secret dropped", templates=without_action("PrepareRole", "secretsmanager:GetSecretValue")),
    Mutation(
        name="Admit: may delete objects", templates=also_allowed("AdmitRole", "s3:DeleteObject", "arn:aws:s3:::pretrain-foundation-data/x")
    ),
    Mutation(
        name="Report: ListBucket only below a prefix",
        templates=lambda t: [
            s.update(Condition={"StringLike": {"s3:prefix": ["runs/*"]}})
            for s in _statements(t, "ReportRole")
            if "s3:ListBucket" in _actions(s)
        ],
    ),
    Mutation(name="training: any account's SageMaker", templates=trust("TrainingRole", lambda s: s.pop("Condition"))),
    Mutation(name="training: anybody assumes the role", templates=trust("TrainingRole", lambda s: s.update(Principal={"AWS": "*"}))),
    Mutation(name="key: anybody decrypts", templates=_anybody),
    Mutation(
        name="topic: alarms may not publish",
        templates=policy_statements("AWS::SNS::TopicPolicy", "PolicyDocument", lambda s: "cloudwatch" not in json.dumps(s)),
    ),
    Mutation(
        name="bucket: plain HTTP",
        templates=policy_statements("AWS::S3::BucketPolicy", "PolicyDocument", lambda s: "SecureTransport" not in json.dumps(s), "data"),
    ),
    Mutation(name="bucket: open to the public", templates=with_property("AWS::S3::Bucket", "PublicAccessBlockConfiguration", None, "data")),
    Mutation(name="bucket: no versions", templates=with_property("AWS::S3::Bucket", "VersioningConfiguration", None, "data")),
    Mutation(name="bucket: no access log", templates=with_property("AWS::S3::Bucket", "LoggingConfiguration", None, "data")),
    Mutation(name="images: tags move", templates=with_property("AWS::ECR::Repository", "ImageTagMutability", "MUTABLE", "images")),
    Mutation(name="key: no rotation", templates=with_property("AWS::KMS::Key", "EnableKeyRotation", False)),
    Mutation(
        name="function: token in the environment",
        templates=with_property("AWS::Lambda::Function", "Environment.Variables.HF_TOKEN", "hf_" + "x" * 30, "admit"),
    ),
    Mutation(name="logs: kept for ever", templates=with_property("AWS::Logs::LogGroup", "RetentionInDays", None)),
    Mutation(
        name="machine: executions not logged",
        templates=with_property("AWS::StepFunctions::StateMachine", "LoggingConfiguration.Level", "OFF"),
    ),
    Mutation(name="schedule: shipped enabled", templates=with_property("AWS::Scheduler::Schedule", "State", "ENABLED")),
    Mutation(name="template: misspelt attribute", templates=_misspelt_attribute),
)


# -- machine -----------------------------------------------------------------------------------------------


def state(name: str, change_state: Change) -> Change:
    """One state changed."""
    return lambda definition: change_state(dict(all_states(definition))[name])


def replaced(old: str, new: str) -> Change:
    """Text replaced everywhere in the definition."""

    def change(definition: Json) -> None:
        changed = json.loads(json.dumps(definition).replace(json.dumps(old)[1:-1], json.dumps(new)[1:-1]))
        definition.clear()
        definition.update(changed)

    return change


def _set(key: str, value: Json) -> Change:
    return lambda found: found.update({key: value})


def _drop(key: str) -> Change:
    return lambda found: found.pop(key)


MACHINE_FAULTS = (
    Mutation(name="Prepare data: Catch dropped", definition=state("Prepare data", _drop("Catch"))),
    Mutation(name="Train: Catch dropped", definition=state("Train", _drop("Catch"))),
    Mutation(
        name="Attempt confirmed?: whoever owns the run",
        definition=state("Attempt confirmed?", lambda s: s["Choices"][0].update(Condition="{% true %}")),
    ),
    Mutation(name="Triage: Catch dropped", definition=state("Triage", _drop("Catch"))),
    Mutation(name="Report: TransientFault not retried", definition=state("Report", lambda s: s["Retry"][0]["ErrorEquals"].pop(0))),
    Mutation(name="Train legs: Catch dropped", definition=state("Train legs", _drop("Catch"))),
    Mutation(name="Report: Catch dropped", definition=state("Report", _drop("Catch"))),
    Mutation(name="Report: Retry dropped", definition=state("Report", _drop("Retry"))),
    Mutation(name="Notify: goes to a state that is not there", definition=state("Notify", _set("Next", "Faild"))),
    Mutation(name="JSONata: misspelt variable", definition=replaced("$plan.legs", "$plam.legs")),
    Mutation(name="JSONata: misspelt field", definition=replaced("$states.input.attempt.number", "$states.input.attempt.nummer")),
    Mutation(name="JSONata: bracket missing", definition=replaced("$string($prepare.number)", "$string($prepare.number")),
    Mutation(name="Train: misspelt parameter", definition=replaced("'TrainingJobName': $", "'TrainingJobname': $")),
    Mutation(
        name="Build later?: waits where no build is allowed",
        definition=replaced("$not($contains($states.input.cause, 'more than 0 builds'))", "true"),
    ),
    Mutation(name="Build image: a full queue is not waited for", definition=state("Build image", lambda s: s["Catch"].pop(0))),
    Mutation(name="Train: same job name for every attempt", definition=replaced("$string($states.input.attempt.number),", "'1',")),
    Mutation(
        name="Train: an attempt's number is no string",
        definition=replaced("{'attempt': $string($states.input.attempt.number)}", "{'attempt': $states.input.attempt.number}"),
    ),
    Mutation(
        name="Train: image by tag",
        definition=replaced("'TrainingImage': $image.training", "'TrainingImage': $substringBefore($image.training, '@') & ':latest'"),
    ),
    Mutation(name="Train: integration that does not exist", definition=replaced("createTrainingJob.sync", "createTrainingJob.sync:2")),
    Mutation(name="Trained?: Stopped counts as success", definition=state("Trained?", _set("Default", "Leg trained"))),
    Mutation(name="Trained?: misspelt status", definition=replaced("TrainingJobStatus = 'Completed'", "TrainingJobStatus = 'Complete'")),
    Mutation(
        name="Data exists?: condition inverted",
        definition=replaced("$turn >= $count($plan.preparations) %}", "$turn < $count($plan.preparations) %}"),
    ),
    Mutation(name="Prepare data: stopped counts as prepared", definition=state("Prepared?", _set("Default", "Train legs"))),
    Mutation(name="Failed: error without its class", definition=state("Failed", _drop("Error"))),
    Mutation(
        name="Notify: subject not cut",
        definition=lambda d: state(
            "Notify", lambda s: s["Arguments"].update(Subject=re.sub(r"\$substring\((.*), 0, \d+\)", r"\1", s["Arguments"]["Subject"]))
        )(d),
    ),
    Mutation(
        name="Explain: States.ALL beside another name", definition=state("Explain", lambda s: s["Catch"][0]["ErrorEquals"].append("X"))
    ),
)


# -- request code ------------------------------------------------------------------------------------------


def _request(function: str, change_request: Change) -> Callable[[], AbstractContextManager[Any]]:
    """A request builder whose result is changed."""

    def patch() -> AbstractContextManager[Any]:
        import infra.admit.plan

        original = getattr(infra.admit.plan, function)

        def changed(*args: Any, **kwargs: Any) -> Json:
            request = original(*args, **kwargs)
            change_request(request)
            return request

        return mock.patch.object(infra.admit.plan, function, changed)

    return patch


CODE_FAULTS = (
    Mutation(
        name="functions: a throttled call keeps boto3's name",
        code=lambda: mock.patch("infra.edge.function.transient_cause", lambda error: None),
    ),
    Mutation(name="training request: network isolation off", code=_request("training_request", _set("EnableNetworkIsolation", False))),
    Mutation(
        name="training request: token in the environment",
        code=_request("training_request", lambda r: r["Environment"].update(HF_TOKEN="x")),
    ),
    Mutation(
        name="training request: output without the key", code=_request("training_request", lambda r: r["OutputDataConfig"].pop("KmsKeyId"))
    ),
    Mutation(
        name="training request: checkpoints into the model folder",
        code=_request("training_leg", lambda r: r["CheckpointConfig"].update(LocalPath="/opt/ml/model")),
    ),
    Mutation(
        name="training request: wrong input mode",
        code=_request("training_request", lambda r: r["InputDataConfig"][0].update(InputMode="Fastfile")),
    ),
    Mutation(
        name="preparation request: FastFile",
        code=_request("preparation_request", lambda r: r["ProcessingInputs"][0]["S3Input"].update(S3InputMode="FastFile")),
    ),
    Mutation(
        name="preparation request: a training type",
        code=_request("preparation_request", lambda r: r["ProcessingResources"]["ClusterConfig"].update(InstanceType="ml.p5.48xlarge")),
    ),
    Mutation(name="requests: a key for NVMe storage", code=lambda: mock.patch("infra.run.job_requests.has_nvme", lambda kind: False)),
    Mutation(name="requests: job names of 80 characters", code=lambda: mock.patch("infra.run.job_requests.JOB_WORDS", 80)),
)

ALL = (*STACK_FAULTS, *MACHINE_FAULTS, *CODE_FAULTS)
