"""The paths through the machine that together use every state, branch, Retry and Catch entry.

Each names its input, what AWS does on the way, and how the execution must end. `every_error_of` derives the
injected errors from the machine itself, so that a new Retry entry is covered, or missed aloud, without an edit here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aws_models.coverage import all_states
from aws_models.execution import Failure, Result
from aws_models.pipeline import Build, Job, Scenario
from aws_models.starts import HUB
from aws_models.world import ApiCall, ApiError, World

Json = Any
LOCAL = {"recipe": "local", "budget": {"max_usd": 100}}
MIXED = [{"name": "api", "source": "source/botocore/", "weight": 3}, {"name": "other", "source": "source/other/", "weight": 1}]
MIXTURE = LOCAL | {"data": {"sources": MIXED}}
PLAN = "arn:aws:sagemaker:us-east-1:111111111111:training-plan/reserved"
LOST = Failure("Lambda.Unknown", "the function's process ended", seconds=1)
CLEANED = {**LOCAL, "data": {"corpus": {"gopher_repetition": True}}}
EVALUATED = {**LOCAL, "evaluation": {}}
BAD = "AlgorithmError: BadInput (stop): no"
SPOT = {"capacity": [{"kind": "spot"}, {"kind": "on_demand"}], "tensorboard": True}


@dataclass(frozen=True, kw_only=True)
class Path:
    """A scenario and its end."""

    scenario: Scenario
    status: str = "SUCCEEDED"
    error: str = ""
    """Failure class of the execution."""
    says: tuple[str, ...] = ()
    """Words that its Cause holds."""
    visits: tuple[str, ...] = ()
    """States that must be on the way."""
    avoids: tuple[str, ...] = ()
    """States that must not."""


def failed(scenario: Scenario, error: str, *says: str, visits: tuple[str, ...] = (), avoids: tuple[str, ...] = ()) -> Path:
    """A path that ends in Failed."""
    return Path(scenario=scenario, status="FAILED", error=error, says=says, visits=("Explain", "Notify", *visits), avoids=avoids)


def full_queue(builds: int) -> Failure:
    """StartBuild on an account whose queue takes no more."""
    return Failure("CodeBuild.AccountLimitExceededException", f"Cannot have more than {builds} builds in queue for the account", seconds=1)


def every_error_of(definition: Json, state: str) -> list[Failure | None]:
    """Each error name of the state's retriers once, so that the next attempt is the normal one."""
    retriers = dict(all_states(definition))[state].get("Retry", [])
    names = [name if name != "States.ALL" else "SNS.AnyException" for retrier in retriers for name in retrier["ErrorEquals"]]
    return [*(Failure(name, "injected", seconds=1) for name in names), None]


def paths(definition: Json) -> dict[str, Path]:
    """Every path by name."""
    names = [name for name, state in all_states(definition) if "Retry" in state]
    return {
        **_successes(),
        **_accounts(),
        **_refusals(),
        **_evaluations(),
        **_job_failures(),
        **_lost_functions(),
        **_taken_over(),
        **_throttled(),
        **_lost_answers(),
        **{f"{name}: each retried error once": _retried(definition, name) for name in names},
    }


def _retried(definition: Json, state: str) -> Path:
    """A run on which ``state`` is called, and first fails with each error that is retried."""
    tasks: dict[str, Any] = {state: every_error_of(definition, state)}
    if state in ("Evaluate", "Confirm evaluation", "Triage evaluation"):
        tasks.setdefault("Evaluate", [Job(status="Failed", reason=BAD)])
        return Path(scenario=Scenario(input=EVALUATED, tokens=True, tasks=tasks), visits=(state,))
    if state == "Prepare corpus":
        return Path(scenario=Scenario(input=CLEANED, tasks=tasks), visits=(state,))
    on_failure = state in ("Explain", "Report failure", "Notify", "Triage", "Triage preparation")
    if on_failure:
        job = "Prepare data" if state == "Triage preparation" else "Train"
        tasks[job] = [Job(status="Failed", reason=BAD)]
    scenario = Scenario(input=LOCAL, image=state != "Build image", tasks=tasks)
    return failed(scenario, "BadInput", visits=(state,)) if on_failure else Path(scenario=scenario, visits=(state,))


def _beginning(initial: str) -> Json:
    return LOCAL | {"training": {"initial": initial}}


def _successes() -> dict[str, Path]:
    stopped = Job(status="Stopped", secondary="MaxRuntimeExceeded", raised=False)
    broken = Job(status="Failed", reason="InternalServerError: We encountered an internal error. Please try again.", seconds=700)
    no_capacity = Job(
        status="Failed", reason="CapacityError: Unable to provision requested ML compute capacity.", started=False, seconds=30
    )
    limits = Failure("SageMaker.ResourceLimitExceededException", "The account-level service limit is 0", seconds=1)
    return {
        "everything for the first time": Path(scenario=Scenario(image=False), visits=("Build image", "Prepare data", "Announce")),
        "the build queue is full, then there is a place": Path(
            scenario=Scenario(image=False, tasks={"Build image": [full_queue(5)] * 3}), visits=("Wait to build", "Announce")
        ),
        "image and data there": Path(scenario=Scenario(input=LOCAL, tokens=True), avoids=("Build image", "Prepare data", "Triage")),
        "a mixture, each source there": Path(scenario=Scenario(input=MIXTURE, tokens=True), avoids=("Prepare data",)),
        "a mixture, one source there": Path(scenario=Scenario(input=MIXTURE, tokens_of=("api",)), visits=("Prepare data", "Announce")),
        "four compared legs": Path(scenario=Scenario(input={"ablation": "reference", "budget": {"max_usd": 1e6}}, tokens=True)),
        "weights of a finished leg, twice": Path(
            scenario=Scenario(input=_beginning("run:trunk/main"), tokens=True, begun=True, tasks={"Train": [no_capacity, None]}),
            visits=("Wait",),
        ),
        "weights of the Hub, copied before": Path(
            scenario=Scenario(input=_beginning(HUB), tokens=True, begun=True), avoids=("Prepare data",)
        ),
        "a cool-down, twice from its trunk and then from its own": Path(
            scenario=Scenario(input=_beginning("run:trunk/main@1"), tokens=True, begun=True, tasks={"Train": [no_capacity, broken]}),
            visits=("Wait",),
        ),
        "a schedule's run": Path(
            scenario=Scenario(input={**LOCAL, "schedule": {"name": "weekly", "time": "2026-11-23T06:00:00Z"}}, tokens=True)
        ),
        "time limit, returned as Stopped": Path(
            scenario=Scenario(input=LOCAL, tokens=True, tasks={"Train": [stopped]}), visits=("Triage", "Wait")
        ),
        "a fault of the service, then resumed": Path(
            scenario=Scenario(input=LOCAL, tokens=True, tasks={"Train": [broken, broken]}), visits=("Wait",)
        ),
        "no capacity, then there is": Path(
            scenario=Scenario(input=LOCAL, tokens=True, tasks={"Train": [no_capacity, limits, None]}), visits=("Wait",)
        ),
        "spot interrupted, then resumed": Path(
            scenario=Scenario(
                input={**LOCAL, "compute": SPOT},
                tokens=True,
                tasks={"Train": [Job(status="Stopped", secondary="Interrupted"), None]},
            ),
            visits=("Wait",),
        ),
        "the training task fails although its job completed": Path(
            scenario=Scenario(input=LOCAL, tokens=True, tasks={"Train": [Job(status="Completed", raised=True)]}),
            visits=("Triage", "Leg trained"),
        ),
        "preparation fails once and is done again": Path(
            scenario=Scenario(
                input=LOCAL, tasks={"Prepare data": [Job(status="Failed", reason="WorkerLost (retry): a worker was killed", seconds=60)]}
            ),
            visits=("Triage preparation", "Wait to prepare"),
        ),
        "preparation's task fails although its job completed": Path(
            scenario=Scenario(input=LOCAL, tasks={"Prepare data": [Job(status="Completed", raised=True)]}),
            visits=("Triage preparation", "Train legs"),
        ),
        "a corpus is cleaned first": Path(
            scenario=Scenario(input=CLEANED, image=False),
            visits=("Build image", "Prepare corpus", "Next preparation", "Prepare data", "Announce"),
        ),
        "the corpus is there already": Path(
            scenario=Scenario(input=CLEANED, corpus=True), visits=("Prepare data",), avoids=("Prepare corpus", "Build image")
        ),
        "corpus and data are there": Path(scenario=Scenario(input=CLEANED, tokens=True), avoids=("Prepare corpus", "Prepare data")),
        "cleaning fails once and is done again": Path(
            scenario=Scenario(
                input=CLEANED,
                tasks={"Prepare corpus": [Job(status="Failed", reason="WorkerLost (retry): a worker was killed", seconds=60)]},
            ),
            visits=("Triage preparation", "Wait to prepare", "Prepare data"),
        ),
        "cleaning's task fails although its job completed": Path(
            scenario=Scenario(input=CLEANED, tasks={"Prepare corpus": [Job(status="Completed", raised=True)]}),
            visits=("Triage preparation", "Prepare data"),
        ),
        "a run with the longest name": Path(scenario=Scenario(input=LOCAL, name="long-" + "x" * 75)),
        "the announcement cannot be sent": Path(
            scenario=Scenario(input=LOCAL, tokens=True, tasks={"Announce": [Failure("SNS.Down")] * 9}), visits=("Done",)
        ),
    }


def _evaluations() -> dict[str, Path]:
    """Whatever an evaluation comes to, a run that has trained succeeds."""
    two = {**EVALUATED, "legs": [{"name": "a"}, {"name": "b"}]}
    own = {"tasks": ["words"], "task_source": "source/botocore/", "held_out": [{"name": "text", "source": "source/botocore/"}]}
    stopped = Job(status="Stopped", secondary="MaxRuntimeExceeded", raised=False, seconds=60)
    never = Job(status="Failed", reason="CapacityError: Unable to provision", started=False, seconds=5)
    bad = Job(status="Failed", reason=BAD)

    def evaluated(*ends: Any, visits: tuple[str, ...] = (), **tasks: Any) -> Path:
        scenario = Scenario(input=EVALUATED, tokens=True, tasks={"Evaluate": list(ends), **tasks})
        return Path(scenario=scenario, visits=("Evaluate", "Leg trained", "Announce", *visits))

    return {
        "every leg is evaluated": Path(
            scenario=Scenario(input=two, image=False), visits=("Build image", "Evaluate", "Announce"), avoids=("Triage evaluation",)
        ),
        "an evaluation's data is copied for tokens that exist": Path(
            scenario=Scenario(input={**LOCAL, "evaluation": own}, tokens=True), visits=("Prepare data", "Evaluate")
        ),
        "a leg that failed is not evaluated, the other one is": failed(
            Scenario(input=two, tokens=True, tasks={"Train": [bad]}), "BadInput", visits=("Leg failed", "Evaluate")
        ),
        "an evaluation fails for good": evaluated(bad, visits=("Triage evaluation",)),
        "an evaluation is stopped at its time limit, then goes on": evaluated(stopped, visits=("Evaluated?", "Wait to evaluate")),
        "an evaluation gets no capacity, then it does": evaluated(never, None, visits=("Wait to evaluate",)),
        "the evaluation's task fails although its job completed": evaluated(
            Job(status="Completed", raised=True), visits=("Triage evaluation",)
        ),
        "triage is lost after an evaluation": evaluated(bad, visits=("Triage evaluation",), **{"Triage evaluation": [LOST]}),
        "an evaluation's confirmation is lost": Path(
            scenario=Scenario(input=EVALUATED, tokens=True, tasks={"Confirm evaluation": [LOST]}),
            visits=("Leg trained", "Announce"),
            avoids=("Evaluate",),
        ),
        "a finished leg is evaluated and not trained": Path(
            scenario=Scenario(input={**EVALUATED, "run_id": "mine"}, tokens=True, finished=True),
            visits=("Trained before?", "Evaluate", "Announce"),
            avoids=("Confirm attempt", "Train"),
        ),
        "a finished leg's evaluation is stopped, then goes on": Path(
            scenario=Scenario(input={**EVALUATED, "run_id": "mine"}, tokens=True, finished=True, tasks={"Evaluate": [stopped]}),
            visits=("Wait to evaluate",),
            avoids=("Train",),
        ),
        "a finished run without an evaluation is only reported": Path(
            scenario=Scenario(input={**LOCAL, "run_id": "mine"}, tokens=True, finished=True),
            visits=("Leg trained", "Report"),
            avoids=("Train", "Evaluate"),
        ),
    }


def _accounts() -> dict[str, Path]:
    """Runs in accounts that are not empty: other jobs, quotas never raised, plans, tokenizers, earlier executions."""
    busy = {"InstanceType": "ml.m7i.4xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30}
    weekly = {"name": "weekly", "time": "2026-11-23T06:00:00Z", "concurrency": "skip"}

    def others(world: World) -> None:
        world.jobs["theirs"] = {"TrainingJobName": "theirs", "TrainingJobStatus": "InProgress", "ResourceConfig": busy}
        world.jobs["theirs-too"] = {
            "ProcessingJobName": "theirs-too",
            "ProcessingJobStatus": "InProgress",
            "ProcessingResources": {"ClusterConfig": busy},
        }

    def default_quotas(world: World) -> None:
        world.quotas, world.default_quotas = {}, world.quotas

    def plan(world: World) -> None:
        world.plans["reserved"] = {
            "TrainingPlanArn": PLAN,
            "TrainingPlanName": "reserved",
            "Status": "Active",
            "TargetResources": ["training-job"],
        }

    def tokenizer(world: World) -> None:
        world.put(_bucket(world), "source/tokenizer/tokenizer.json", "{}")

    def firing(world: World) -> None:
        other = "arn:aws:states:us-east-1:111111111111:execution:machine:other"
        world.put(_bucket(world), "runs/weekly/lock.json", f'{{"execution_arn": "{other}"}}')
        world.running.add(other)

    def stale(world: World) -> None:
        world.put(
            _bucket(world), "runs/mine/lock.json", '{"execution_arn": "arn:aws:states:us-east-1:111111111111:execution:machine:ended"}'
        )

    faulty = Job(status="Failed", reason="AlgorithmError: DeviceFault (retry): algo-1 fails its health check", seconds=60)
    pooled = {**LOCAL, "compute": {"keep_alive_seconds": 600}}
    reserved = {**LOCAL, "compute": {"capacity": [{"kind": "training_plan", "training_plan_arn": PLAN}]}}
    own = {**LOCAL, "data": {"tokenizer": {"uri": "source/tokenizer/", "train": None}}}
    return {
        "a GPU is at fault in a warm pool": Path(
            scenario=Scenario(input=pooled, tokens=True, tasks={"Train": [faulty, None]}), visits=("Triage", "Wait")
        ),
        "others use the quota too, and a warm pool is kept": Path(scenario=Scenario(input=pooled, world=others)),
        "quotas that were never raised": Path(scenario=Scenario(input=LOCAL, world=default_quotas)),
        "on a training plan": Path(scenario=Scenario(input=reserved, tokens=True, world=plan)),
        "with a tokenizer of one's own": Path(scenario=Scenario(input=own, world=tokenizer)),
        "a run whose last execution has ended": Path(scenario=Scenario(input={**LOCAL, "run_id": "mine"}, world=stale)),
        "a schedule gives way to its earlier firing": Path(
            scenario=Scenario(input={**LOCAL, "schedule": weekly}, world=firing), visits=("Done",), avoids=("Train", "Report")
        ),
    }


def _bucket(world: World) -> str:
    return next(iter(world.objects))[0]


def _refusals() -> dict[str, Path]:
    other = "arn:aws:states:us-east-1:111111111111:execution:machine:other"

    def empty(world: World) -> None:
        world.objects.clear()

    def poor(world: World) -> None:
        world.quotas = dict.fromkeys(world.quotas, 0.0)

    def owned(world: World) -> None:
        bucket = next(iter(world.objects))[0]
        world.put(bucket, "runs/mine/lock.json", f'{{"execution_arn": "{other}"}}')
        world.running.add(other)

    def forbidden(world: World) -> None:
        world.refuse = lambda call: ApiError("AccessDenied", "Access Denied", 403) if call.operation == "ListObjectsV2" else None

    def tokenless(world: World) -> None:
        world.secret_set = False

    return {
        "something gated and no token": failed(Scenario(world=tokenless), "Refused", "token", avoids=("Prepare data",)),
        "several mistakes in the input": failed(
            Scenario(input={"recip": "x", "training": {"stepz": 1}}), "Refused", "recip", "stepz", avoids=("Train",)
        ),
        "an input that is no object": failed(Scenario(input=[1, 2]), "Refused", avoids=("Build image",)),
        "a source without objects": failed(Scenario(input=LOCAL, world=empty), "Refused", "data", avoids=("Prepare data",)),
        "no quota": failed(Scenario(input=LOCAL, world=poor), "Refused", "quota", avoids=("Prepare data",)),
        "too little money": failed(Scenario(input={"budget": {"max_usd": 1}}), "Refused", "budget.max_usd", avoids=("Prepare data",)),
        "the run is active elsewhere": failed(
            Scenario(input={**LOCAL, "run_id": "mine"}, world=owned), "Refused", "is active", avoids=("Prepare data",)
        ),
        "Admit may not list the source": failed(Scenario(input=LOCAL, world=forbidden), "Refused", "refused", avoids=("Prepare data",)),
    }


def _job_failures() -> dict[str, Path]:
    corrupt = Job(status="Failed", reason="AlgorithmError: CorruptShard (stop): shard train/part-0 is cut short, exit code: 1")
    by_hand = Job(status="Stopped", secondary="Stopped")
    never = Job(status="Failed", reason="CapacityError: Unable to provision", started=False, seconds=5)
    lines = ("Step 3/9", "BaseImageMissing (stop): there is no base image", "Command did not exit successfully")
    two = {**LOCAL, "legs": [{"name": "a"}, {"name": "b"}]}
    return {
        "no build is allowed": failed(
            Scenario(input=LOCAL, image=False, tasks={"Build image": [full_queue(0)]}),
            "BuildsNotAllowed",
            "support case",
            "make images",
            visits=("Build later?",),
            avoids=("Wait to build", "Prepare data"),
        ),
        "the build queue stays full": failed(
            Scenario(input=LOCAL, image=False, tasks={"Build image": [full_queue(5)] * 61}),
            "BuildQueueFull",
            "two hours",
            visits=("Wait to build",),
            avoids=("Prepare data",),
        ),
        "the build fails with a sentence": failed(
            Scenario(input=LOCAL, image=False, tasks={"Build image": [Build(status="FAILED", lines=lines)]}),
            "BaseImageMissing",
            "no base image",
        ),
        "the build fails without one": failed(
            Scenario(input=LOCAL, image=False, tasks={"Build image": [Build(status="FAILED")]}), "ImageBuildFailed", "exit status 1"
        ),
        "the build is refused": failed(
            Scenario(input=LOCAL, image=False, tasks={"Build image": [Failure("CodeBuild.InvalidInputException", "no")]}),
            "Unexpected",
            "Build image",
        ),
        "preparation finds a corrupt file": failed(
            Scenario(input=LOCAL, tasks={"Prepare data": [Job(status="Failed", reason="CorruptSource (stop): part-0 is no gzip")]}),
            "CorruptSource",
            "part-0",
        ),
        "cleaning leaves nothing": failed(
            Scenario(input=CLEANED, tasks={"Prepare corpus": [Job(status="Failed", reason="NothingLeft (stop): none of 24 is left")]}),
            "NothingLeft",
            "none of 24",
            visits=("Prepare corpus",),
            avoids=("Prepare data",),
        ),
        "preparation is stopped at its time limit, and no money is left": failed(
            Scenario(input={"recipe": "local"}, tasks={"Prepare data": [Job(status="Stopped", raised=False, seconds=90_000)]}),
            "BudgetSpent",
            visits=("Prepared?", "Triage preparation"),
        ),
        "preparation is stopped by hand": failed(
            Scenario(input=LOCAL, tasks={"Prepare data": [Job(status="Stopped", raised=False, seconds=60)]}), "StoppedByHand"
        ),
        "a leg fails for good": failed(
            Scenario(input=LOCAL, tokens=True, tasks={"Train": [corrupt]}), "CorruptShard", "cut short", visits=("Leg failed",)
        ),
        "one leg of two fails": failed(
            Scenario(input=two, tokens=True, tasks={"Train": [corrupt]}), "CorruptShard", "trained: b", visits=("Leg trained", "Leg failed")
        ),
        "training is stopped by hand": failed(
            Scenario(input=LOCAL, tokens=True, tasks={"Train": [by_hand]}), "StoppedByHand", visits=("Leg failed",)
        ),
        "a run with the longest name fails": failed(
            Scenario(input=LOCAL, name="long-" + "x" * 75, tasks={"Prepare data": [Job(status="Stopped", raised=False, seconds=60)]}),
            "StoppedByHand",
        ),
        "never any capacity": failed(
            Scenario(input=LOCAL, tokens=True, tasks={"Train": [never] * 99}), "NoCapacity", "tried", visits=("Wait",)
        ),
        "attempts used up": failed(
            Scenario(input=LOCAL, tokens=True, tasks={"Train": [Job(status="Failed", reason="InternalServerError")] * 9}),
            "ServiceFault",
            "max_attempts",
        ),
        "the request is refused": failed(
            Scenario(
                input=LOCAL,
                tokens=True,
                tasks={"Train": [Failure("SageMaker.AmazonSageMakerException", "ValidationException: no", seconds=1)] * 6},
            ),
            "RequestRefused",
        ),
    }


def _lost_functions() -> dict[str, Path]:
    """A function that cannot answer: each stage's failure is still explained, in the worst case by the machine itself."""
    corrupt = Job(status="Failed", reason="AlgorithmError: CorruptShard (stop): cut")
    stopped = Job(status="Stopped", secondary="MaxRuntimeExceeded", raised=False)
    refused = Failure("SageMaker.AmazonSageMakerException", "ValidationException: no", seconds=1)
    two = {**LOCAL, "legs": [{"name": "a"}, {"name": "b"}]}
    return {
        "Admit is lost": failed(Scenario(input=LOCAL, tasks={"Admit": [LOST]}), "Unexpected", "Admit", avoids=("Train",)),
        "Triage is lost": failed(
            Scenario(input=LOCAL, tokens=True, tasks={"Train": [stopped], "Triage": [LOST]}),
            "Unexpected",
            "Train failed with Lambda.Unknown: MaxRuntimeExceeded; Triage of attempt 1 failed",
            visits=("Leg failed",),
        ),
        "Triage is lost, and the job had said why it failed": failed(
            Scenario(input=two, tokens=True, tasks={"Train": [corrupt], "Triage": [LOST]}),
            "CorruptShard",
            "Triage of attempt 1 failed",
            "failed: a; trained: b",
            visits=("Leg failed", "Leg trained"),
        ),
        "Triage is lost, and there was no job": failed(
            Scenario(input=LOCAL, tokens=True, tasks={"Train": [refused] * 6, "Triage": [LOST]}), "Unexpected", "ValidationException: no"
        ),
        "Triage's answer cannot be used": failed(
            Scenario(
                input=LOCAL,
                tokens=True,
                tasks={"Train": [stopped], "Triage": [Result({"StatusCode": 200, "Payload": {"again": True, "attempt": {}}})]},
            ),
            "Unexpected",
            "Train legs",
        ),
        "Triage of the preparation is lost": failed(
            Scenario(input=LOCAL, tasks={"Prepare data": [corrupt], "Triage preparation": [LOST]}), "Unexpected", "Prepare data"
        ),
        "Report is lost": Path(
            scenario=Scenario(input=LOCAL, tokens=True, tasks={"Report": [LOST]}),
            visits=("Report", "Announce", "Done"),
            avoids=("Explain", "Report failure"),
        ),
        "Explain is lost": failed(
            Scenario(input=LOCAL, tokens=True, tasks={"Train": [corrupt], "Explain": [LOST]}),
            "Unexpected",
            "Train legs",
            "could not be explained",
        ),
        "Explain and Report are lost": failed(
            Scenario(input={"recip": 1}, tasks={"Explain": [LOST], "Report failure": [LOST]}),
            "Unexpected",
            "recip",
            visits=("Report failure",),
        ),
        "the failure cannot be sent": failed(
            Scenario(input={"recip": 1}, tasks={"Notify": [Failure("SNS.Down")] * 9}), "Refused", "recip", visits=("Failed",)
        ),
    }


def _taken_over() -> dict[str, Path]:
    """Another execution's lock when a job is about to be made, as a redriven execution may find it: Admit has not been asked again."""
    other = "arn:aws:states:us-east-1:111111111111:execution:machine:other"
    foreign, nobody = f'{{"execution_arn": "{other}"}}', "{"
    broken = Job(status="Failed", reason="InternalServerError: We encountered an internal error. Please try again.", seconds=700)

    def replaced(body: str, before: int) -> Callable[[World], None]:
        """The lock is ``body`` from the moment on at which it is about to be confirmed for the time number ``before``."""
        asked = [0]

        def change(world: World) -> None:
            def refuse(call: ApiCall) -> ApiError | None:
                if call.operation == "GetObject" and call.parameters["Key"].endswith("lock.json"):
                    asked[0] += 1
                    if asked[0] == before:
                        world.put(call.parameters["Bucket"], call.parameters["Key"], body)
                return None

            world.refuse = refuse

        return change

    def exchanged(world: World) -> None:
        """The trunk's weights are others once Admit has looked at them."""

        def refuse(call: ApiCall) -> ApiError | None:
            if call.operation == "PutObject" and call.parameters["Key"].endswith("run.json"):
                key = next(key for _, key in world.objects if key.startswith("runs/trunk/") and key.endswith(".safetensors"))
                world.put(call.parameters["Bucket"], key, "other weights")
            return None

        world.refuse = refuse

    run = {**LOCAL, "run_id": "mine"}
    return {
        "taken over before the preparation": failed(
            Scenario(input=run, world=replaced(foreign, 1)),
            "RunTakenOver",
            other,
            visits=("Confirm preparation",),
            avoids=("Prepare data",),
        ),
        "taken over before the first attempt": failed(
            Scenario(input=run, tokens=True, world=replaced(foreign, 1)), "RunTakenOver", other, visits=("Leg failed",), avoids=("Train",)
        ),
        "taken over before the second attempt": failed(
            Scenario(input=run, tokens=True, tasks={"Train": [broken]}, world=replaced(foreign, 2)),
            "RunTakenOver",
            visits=("Train", "Wait"),
        ),
        "taken over before the evaluation": Path(
            scenario=Scenario(input={**EVALUATED, "run_id": "mine"}, tokens=True, world=replaced(foreign, 2)),
            visits=("Train", "Evaluation confirmed?", "Leg trained"),
            avoids=("Evaluate",),
        ),
        "the weights to begin from are exchanged before the first attempt": failed(
            Scenario(input=_beginning("run:trunk/main"), tokens=True, begun=True, world=exchanged),
            "WeightsUnusable",
            "were changed after the run was admitted",
            avoids=("Train",),
        ),
        "the lock is damaged before the first attempt": failed(
            Scenario(input=run, tokens=True, world=replaced(nobody, 1)), "DamagedLock", "aws s3 rm", avoids=("Train",)
        ),
        "the preparation's confirmation is lost": failed(
            Scenario(input=LOCAL, tasks={"Confirm preparation": [LOST]}), "Unexpected", "Prepare data", avoids=("Prepare data",)
        ),
        "an attempt's confirmation is lost": failed(
            Scenario(input=LOCAL, tokens=True, tasks={"Confirm attempt": [LOST]}), "Unexpected", "Lambda.Unknown", avoids=("Train",)
        ),
    }


def _throttled() -> dict[str, Path]:
    """AWS does not answer the functions' own calls: for a moment, which the retries outlast, and for good."""

    def refusing(operation: str, times: float, code: str = "ThrottlingException", status: int = 400) -> Callable[[World], None]:
        def change(world: World) -> None:
            left = [times]

            def refuse(call: ApiCall) -> ApiError | None:
                if call.operation != operation or not left[0]:
                    return None
                left[0] -= 1
                return ApiError(code, "Rate exceeded", status)

            world.refuse = refuse

        return change

    stopped = Job(status="Stopped", secondary="MaxRuntimeExceeded", raised=False)
    corrupt = Job(status="Failed", reason="AlgorithmError: CorruptShard (stop): cut")
    for_good = float("inf")
    return {
        "Admit is throttled for a moment": Path(scenario=Scenario(input=LOCAL, world=refusing("ListServiceQuotas", 2))),
        "the source is throttled for a moment": Path(scenario=Scenario(input=LOCAL, world=refusing("ListObjectsV2", 2, "SlowDown", 503))),
        "Triage is throttled for a moment": Path(
            scenario=Scenario(input=LOCAL, tokens=True, tasks={"Train": [stopped]}, world=refusing("DescribeTrainingJob", 2)),
            visits=("Wait",),
            avoids=("Leg failed",),
        ),
        "S3 fails for a moment": Path(
            scenario=Scenario(input=LOCAL, tokens=True, world=refusing("PutObject", 5, "InternalError", 500)), avoids=("Explain",)
        ),
        "Admit is throttled for good": failed(
            Scenario(input=LOCAL, world=refusing("ListServiceQuotas", for_good)), "TransientFault", "ListServiceQuotas", avoids=("Train",)
        ),
        "Triage is throttled for good": failed(
            Scenario(input=LOCAL, tokens=True, tasks={"Train": [stopped]}, world=refusing("DescribeTrainingJob", for_good)),
            "TransientFault",
            "DescribeTrainingJob",
            visits=("Leg failed",),
        ),
        "Triage is throttled for good, and the job had said why it failed": failed(
            Scenario(input=LOCAL, tokens=True, tasks={"Train": [corrupt]}, world=refusing("DescribeTrainingJob", for_good)),
            "CorruptShard",
            "cut",
            visits=("Leg failed",),
        ),
    }


def _lost_answers() -> dict[str, Path]:
    """A job is created, and its creator does not hear of it: it is not created again, and what it comes to counts."""
    lost, once = Job(lost=True), Failure("SageMaker.AmazonSageMakerException", "Rate exceeded (Error Code: ThrottlingException)", seconds=1)
    broken = Job(lost=True, status="Failed", reason="InternalServerError: We encountered an internal error. Please try again.", seconds=700)
    corrupt = Job(lost=True, status="Failed", reason="AlgorithmError: CorruptShard (stop): cut")
    return {
        "every creation is throttled once": Path(
            scenario=Scenario(input=EVALUATED, tasks=dict.fromkeys(("Prepare data", "Train", "Evaluate"), (once,))),
            visits=("Prepare data", "Evaluate", "Announce"),
            avoids=("Triage preparation", "Triage", "Triage evaluation"),
        ),
        "the answer is lost for every job": Path(
            scenario=Scenario(input=EVALUATED, tasks=dict.fromkeys(("Prepare data", "Train", "Evaluate"), (lost,))),
            visits=("Wait to prepare", "Wait", "Wait to evaluate", "Announce"),
        ),
        "the answer is lost, and the job fails": Path(
            scenario=Scenario(input=LOCAL, tokens=True, tasks={"Train": [broken]}), visits=("Wait", "Leg trained")
        ),
        "the answer is lost, and the job fails for good": failed(
            Scenario(input=LOCAL, tokens=True, tasks={"Train": [corrupt]}), "CorruptShard", "cut", visits=("Leg failed",)
        ),
    }
