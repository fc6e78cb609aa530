"""The whole pipeline offline: the synthesised machine calls the functions' real code, which calls a small AWS in memory.

Only what AWS itself would answer is scripted: how a job or build ends, which call is throttled.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from unittest import mock

from aws_models import rules
from aws_models.arguments import check_result, check_task, operation, service_model
from aws_models.asl import Interpreter
from aws_models.execution import Call, Execution, Failure, Outcome, Result
from aws_models.queries import Queries
from aws_models.starts import put_finished, put_starts
from aws_models.synthesis import Synthesis
from aws_models.world import World
from container.build_request import TARGETS
from infra.edge.function import forget_clients
from infra.run.layout import corpus_card_key, index_key, split_uri
from infra.run.run_spec import RunSpec, resolve

Json = Any
OFFLINE = {"AWS_ACCESS_KEY_ID": "offline", "AWS_SECRET_ACCESS_KEY": "offline", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
"""Lambda's credentials, and nobody who answers what boto3 has no client for."""
QUOTAS = ("training job", "spot training job", "training warm pool", "processing job")


@dataclass(frozen=True, kw_only=True)
class Job:
    """How a training or processing job ends."""

    status: str = "Completed"
    secondary: str = ""
    reason: str = ""
    seconds: float = 3600.0
    started: bool = True
    """Whether it ever had instances."""
    raised: bool | None = None
    """Whether `.sync` raises; None: exactly when the job did not complete."""
    error: str = "States.TaskFailed"
    lost: bool = False
    """Whether the answer to the call that creates it is lost; it runs all the same."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """How an image build ends."""

    status: str = "SUCCEEDED"
    lines: tuple[str, ...] = ()
    """Last lines of its log."""
    seconds: float = 900.0


Scripted = Job | Build | Failure | Result | None
"""What a task does instead of the normal; None is the normal."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One path through the machine."""

    input: Json = field(default_factory=dict)
    tasks: Mapping[str, Sequence[Scripted]] = field(default_factory=dict)
    """State -> what its calls do in turn; afterwards everything is normal."""
    image: bool = True
    """Whether both image tags exist."""
    tokens: bool = False
    """Whether the data set exists already."""
    tokens_of: tuple[str, ...] = ()
    """Sources of a mixture whose tokens are there."""
    corpus: bool = False
    """Whether the corpus does that it is made of."""
    begun: bool = False
    """Whether what legs may begin from is there: leg ``main`` of the finished run ``trunk``, and a copied model of the Hub."""
    finished: bool = False
    """Whether an earlier execution of the run, which needs a ``run_id``, has finished its leg ``main``."""
    world: Callable[[World], None] = lambda world: None
    """Further changes to the account."""
    name: str = "run-2026-11-22"


@dataclass(frozen=True)
class PipelineRun:
    """What one scenario led to."""

    execution: Execution
    world: World
    problems: tuple[str, ...]
    """What is wrong with calls and scripted results; empty when nothing."""
    queries: Queries


class Pipeline:
    """Runs scenarios on a synthesis."""

    def __init__(self, synthesis: Synthesis, definition: Json | None = None) -> None:
        self.synthesis = synthesis
        self.definition = definition or synthesis.definition
        templates = synthesis.templates
        self.functions = {templates.arn(function): function for function in templates.resources("AWS::Lambda::Function")}
        foundation = next(name for name in templates.templates if name.endswith("-foundation"))
        outputs = templates.outputs(foundation)
        self.bucket, self.repository = outputs["BucketName"], outputs["RepositoryUri"]
        admit = next(f for f in self.functions.values() if "admit" in f.properties["Handler"])
        self.image_tag = json.loads(admit.properties["Environment"]["Variables"]["DEPLOYMENT"])["image_tag"]

    def run(self, scenario: Scenario, *, seed: int = 0) -> PipelineRun:
        """One execution."""
        world = self.world(scenario)
        problems: list[str] = []
        queries = Queries()
        turns: dict[str, int] = {}

        def check(resource: str, arguments: Json, where: str) -> list[str]:
            found = check_task(resource, arguments, where)
            found += rules.problems(operation(resource)[1].name, arguments, where) if not found else []
            problems.extend(found)
            return found

        def script(call: Call) -> Outcome:
            turn = turns[call.state] = turns.get(call.state, 0) + 1
            planned = scenario.tasks.get(call.state, ())
            outcome = self._outcome(call, planned[turn - 1] if turn <= len(planned) else None, world)
            if isinstance(outcome, Result):
                problems.extend(check_result(call.resource, outcome.value, call.state))
            return outcome

        execution = Interpreter(self.definition, queries=queries, check=check, seed=seed).run(script, scenario.input, name=scenario.name)
        names = [
            call.arguments[key]
            for call in execution.calls
            for key in ("TrainingJobName", "ProcessingJobName")
            if key in call.arguments and "RoleArn" in call.arguments and call.retry == 0 and call.arguments[key] not in world.under_way
        ]
        problems += [*rules.job_name_problems(names), *world.wrong]
        return PipelineRun(execution, world, tuple(problems), queries)

    # -- the account -------------------------------------------------------------------------------------

    def world(self, scenario: Scenario) -> World:
        """The account as the scenario finds it."""
        world = World(region=self.synthesis.templates.environment.region)
        world.quotas = {f"{kind} for {use} usage": 64.0 for kind in _instance_types() for use in QUOTAS}
        for folder in ("botocore", "other"):
            world.put(self.bucket, f"source/{folder}/part-0.jsonl.gz", "text")
        if scenario.image:
            world.image_tags = {f"{name}-{self.image_tag}": f"sha256:{name.encode().hex():0<64}" for name in TARGETS}
        for name, found in self._identified(scenario, world).items():
            if scenario.tokens or name in scenario.tokens_of:
                world.put(self.bucket, index_key(found.fingerprint), "{}")
            if scenario.corpus:
                world.put(self.bucket, corpus_card_key(found.corpus), "{}")
        if scenario.begun:
            put_starts(world, self.bucket, self._resolved(scenario), self._identified(scenario, world)[""].fingerprint)
        if scenario.finished:
            put_finished(world, self.bucket, self._resolved(scenario), self._identified(scenario, world)[""].fingerprint)
        scenario.world(world)
        return world

    def _resolved(self, scenario: Scenario) -> RunSpec:
        recipe = json.loads(self._environment("admit")["DEPLOYMENT"])["default_recipe"]
        return resolve(scenario.input, default_recipe=recipe)

    def _identified(self, scenario: Scenario, world: World) -> dict[str, Any]:
        """The names of each source's data set and corpus, from the same code that Admit runs."""
        if not (scenario.tokens or scenario.tokens_of or scenario.corpus or scenario.begun or scenario.finished):
            return {}
        from data_prep.identify import identify_each, resolve_uris

        spec = self._resolved(scenario)
        found = dict(identify_each(resolve_uris(spec.data, self.bucket), world.client("s3")))
        world.calls.clear()
        return found

    def _environment(self, handler: str) -> dict[str, str]:
        function = next(f for f in self.functions.values() if f".{handler}." in f.properties["Handler"])
        variables: dict[str, str] = function.properties["Environment"]["Variables"]
        return variables

    # -- tasks -------------------------------------------------------------------------------------------

    def _outcome(self, call: Call, planned: Scripted, world: World) -> Outcome:
        world.now = call.time
        if isinstance(planned, Failure | Result):
            return planned
        name = operation(call.resource)[1].name
        if name == "Invoke":
            return self.invoke(call.arguments["FunctionName"], call.arguments["Payload"], world)
        if name == "DescribeTrainingJob":
            return _status(call.arguments["TrainingJobName"], world)
        if name in ("CreateTrainingJob", "CreateProcessingJob"):
            kind = name.removeprefix("Create").removesuffix("Job")
            job, job_name = planned if isinstance(planned, Job) else Job(), call.arguments[f"{kind}JobName"]
            if job_name in world.jobs:
                return Failure("SageMaker.ResourceInUseException", f"{kind} job names must be unique, and {job_name} exists", seconds=1)
            ended = _job(call.arguments, job, kind, world)
            if job.lost:
                world.under_way[job_name] = call.time + job.seconds
                return Failure("SageMaker.SdkClientException", "Unable to execute HTTP request: Read timed out", seconds=12)
            if ":aws-sdk:" not in call.resource:
                return ended
            return Result({f"{kind}JobArn": world.jobs[job_name][f"{kind}JobArn"]}, seconds=1)
        if name == "StartBuild":
            return self._build(planned if isinstance(planned, Build) else Build(), _targets(call.arguments), world)
        return Result({"MessageId": "00000000-0000-0000-0000-000000000000"})

    def invoke(self, function_arn: str, event: Json, world: World) -> Outcome:
        """A function's own code with its synthesised environment and role, in ``world``."""
        function = self.functions[function_arn]
        module, name = function.properties["Handler"].rsplit(".", 1)
        handler = getattr(importlib.import_module(module), name)
        variables = function.properties.get("Environment", {}).get("Variables", {})
        environment = {**variables, **OFFLINE, "AWS_REGION": world.region, "AWS_DEFAULT_REGION": world.region, "PATH": os.environ["PATH"]}
        event = json.loads(json.dumps(event))
        with (
            mock.patch.dict(os.environ, environment, clear=True),
            mock.patch("boto3.client", world.client),
            world.acting_as(function.properties["Role"]),
        ):
            forget_clients()  # each call is a fresh container's, and makes its clients of this world
            try:
                payload = json.loads(json.dumps(handler(event, None)))
            except Exception as error:  # as Lambda reports it: the class's name is the error's
                cause = {"errorMessage": str(error), "errorType": type(error).__name__, "requestId": "0", "stackTrace": []}
                return Failure(type(error).__name__, json.dumps(cause), seconds=1)
        return Result({"ExecutedVersion": "$LATEST", "StatusCode": 200, "Payload": payload}, seconds=1)

    def _build(self, build: Build, wanted: Sequence[str], world: World) -> Outcome:
        group = next(iter(self.synthesis.templates.resources("AWS::CodeBuild::Project"))).properties["LogsConfig"]["CloudWatchLogs"][
            "GroupName"
        ]
        world.logs[group, "build-1"] = list(build.lines)
        digests = {name: f"{self.repository}@sha256:{name.encode().hex():0<64}" for name in TARGETS}
        value = {
            "Id": "project:1",
            "Arn": "arn:aws:codebuild:us-east-1:111111111111:build/project:1",
            "BuildStatus": build.status,
            "StartTime": _milliseconds(world, 0),
            "EndTime": _milliseconds(world, build.seconds),
            "Logs": {"GroupName": group, "StreamName": "build-1"},
            "Phases": [{"PhaseType": "BUILD", "PhaseStatus": build.status, "Contexts": [{"Message": "exit status 1"}]}],
            "ExportedEnvironmentVariables": [
                {"Name": f"{name.upper()}_IMAGE", "Value": digest if name in wanted else ""} for name, digest in digests.items()
            ],
        }
        if build.status == "SUCCEEDED":
            return Result({"Build": value}, seconds=build.seconds)
        return Failure("States.TaskFailed", json.dumps({"Build": value}), seconds=build.seconds)


def _targets(start_build: Json) -> list[str]:
    """The images that a run's StartBuild asks for."""
    variables = {item["Name"]: item["Value"] for item in start_build["EnvironmentVariablesOverride"]}
    return str(variables["TARGETS"]).split()


def _instance_types() -> set[str]:
    from infra.sagemaker.instance_types import INSTANCE_TYPES

    return set(INSTANCE_TYPES)


def _milliseconds(world: World, seconds: float) -> int:
    return int(world.time(seconds).timestamp() * 1000)


def _status(name: str, world: World) -> Outcome:
    """DescribeTrainingJob by the SDK integration: in progress when it is first asked for, then how the job ended."""
    job = {key: value.isoformat() if isinstance(value, datetime) else value for key, value in world.jobs[name].items()}
    if name not in world.polled:
        world.polled.add(name)
        job |= {"TrainingJobStatus": "InProgress", "SecondaryStatus": "Training"}
    return Result(job, seconds=1)


def _job(request: Json, job: Job, kind: str, world: World) -> Outcome:
    """Register the job in the world; the `.sync` result or error that follows from how it ends."""
    name = request[f"{kind}JobName"]
    times = {"CreationTime": 0.0, "LastModifiedTime": job.seconds}
    if job.started:
        times |= {f"{kind}StartTime": min(60.0, job.seconds), f"{kind}EndTime": job.seconds}
    described = service_model("sagemaker").operation_model(f"Describe{kind}Job").output_shape.members
    description = {
        **{key: value for key, value in request.items() if key in described},  # tags, for one, are not described
        f"{kind}JobArn": f"arn:aws:sagemaker:us-east-1:111111111111:{kind.lower()}-job/{name}",
        f"{kind}JobStatus": job.status,
    }
    if kind == "Training":
        secondary = job.secondary or {"Completed": "Completed", "Failed": "Failed", "Stopped": "Stopped"}[job.status]
        description["SecondaryStatus"] = secondary
        description |= {"BillableTimeInSeconds": int(job.seconds)} if job.started else {}
        description |= {"ModelArtifacts": {"S3ModelArtifacts": f"{request['OutputDataConfig']['S3OutputPath']}{name}/output/model.tar.gz"}}
        if job.started:  # it has saved something
            bucket, attempt = split_uri(request["CheckpointConfig"]["S3Uri"])
            world.put_checkpoint(bucket, attempt, 1)
    if job.reason:
        description["FailureReason"] = job.reason
    world.jobs[name] = {**description, **{key: world.time(seconds) for key, seconds in times.items()}}
    returned = {**description, **{key: _milliseconds(world, seconds) for key, seconds in times.items()}}
    raised = job.status != "Completed" if job.raised is None else job.raised
    return Failure(job.error, json.dumps(returned), seconds=job.seconds) if raised else Result(returned, seconds=job.seconds)
