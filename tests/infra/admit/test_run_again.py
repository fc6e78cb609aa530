"""A run id that is started again: what its checkpoints depend on holds, run.json is what jobs use, every execution has its record."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import pytest
from admission_values import DEPLOYMENT, EXECUTION, SageMaker, spec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from test_gather_check_commit import INPUT, account

from infra.admit.admission import Refused, admit
from infra.admit.commit import Execution
from infra.admit.gather import Clients
from infra.edge.transient import TransientFault
from infra.run import run_lock
from infra.run.deployment import TriageDeployment
from infra.run.job_requests import job_name
from infra.run.layout import RunLayout
from infra.run.run_jobs import UNDER_WAY
from infra.run.run_lock import owner_of
from infra.run.run_record import read_records
from infra.triage.owner import confirm_owner
from training.leg_identity import leg_identity

RUN = RunLayout("r")
TRIAGE = TriageDeployment(
    name="pretrain", bucket=DEPLOYMENT.bucket, topic_arn="arn:topic", report_function="arn:report", runbook="docs/runbook.md"
)
ATTEMPT = "runs/r/main/attempts/20261122T000000-aaaaaa-1/"
INPUT_OF_RUN: dict[str, Any] = INPUT | {"run_id": "r"}


class States:
    """DescribeExecution over a dictionary of statuses."""

    class exceptions:
        class ExecutionDoesNotExist(Exception):
            pass

    def __init__(self) -> None:
        self.status: dict[str, str] = {}

    def describe_execution(self, executionArn: str) -> Any:
        return {"status": self.status[executionArn]}


class RunningJobs(SageMaker):
    """Training jobs of the run by their status."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}

    def get_paginator(self, name: str) -> Any:
        def paginate(NameContains: str = "", StatusEquals: str | None = None, **_: Any) -> list[Any]:
            wanted = [job for job, status in self.jobs.items() if NameContains in job and StatusEquals in (None, status)]
            training = [{"TrainingJobName": job} for job in wanted] if name == "list_training_jobs" else []
            return [{"TrainingJobSummaries": training, "ProcessingJobSummaries": []}]

        return SimpleNamespace(paginate=paginate)

    def describe_training_job(self, TrainingJobName: str) -> Any:
        return {
            "TrainingJobName": TrainingJobName,
            "TrainingJobStatus": self.jobs[TrainingJobName],
            "HyperParameters": {"run_id": "r", "leg": "main"},
            "CheckpointConfig": {"S3Uri": f"s3://{DEPLOYMENT.bucket}/runs/r/main/"},
            "ResourceConfig": {"InstanceType": "ml.c7i.large", "InstanceCount": 1},
        }


def execution(name: str) -> Execution:
    return dataclasses.replace(EXECUTION, arn=EXECUTION.arn.removesuffix("e1") + name, name=name)


def deployed() -> Clients:
    return dataclasses.replace(account(), states=States(), sagemaker=RunningJobs())


def trained(**settings: Any) -> Clients:
    """A deployment in which execution e1 of run r, with these training settings, left a checkpoint and has ended."""
    clients = deployed()
    plan = admit(INPUT_OF_RUN | {"training": settings}, EXECUTION, DEPLOYMENT, clients)
    leg = spec(INPUT_OF_RUN | {"training": settings}).legs[0]
    clients.s3.put_checkpoint(ATTEMPT, 8, of=leg_identity(leg.training, plan["tokens"]["fingerprint"], 1))
    clients.states.status[EXECUTION.arn] = "ABORTED"
    return clients


def try_again(clients: Clients, name: str = "e2", **changes: Any) -> Any:
    return admit(INPUT_OF_RUN | changes, execution(name), DEPLOYMENT, clients)


MODEL = {"dim": 64, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_dim": 128, "vocab_size": 4096, "max_sequence_length": 512}


@pytest.mark.parametrize(
    ("changes", "path", "old", "new"),
    [
        ({"training": {"seed": 5}}, "training.seed", "1", "5"),
        ({"training": {"sequence_length": 128}}, "training.sequence_length", "256", "128"),
        ({"training": {"local_batch_size": 2}}, "training.global_batch_size", None, None),
        ({"training": {"model": {"layers": 2}}}, "training.model.layers", None, "2"),
        ({"training": {"optimizer": {"name": "muon"}}}, "training.optimizer.name", "none", "muon"),
        ({"data": {"validation_share": 0.2}}, "run_id", None, None),
    ],
)
def test_what_the_checkpoints_depend_on_is_refused_with_old_and_new(changes: Any, path: str, old: str | None, new: str | None) -> None:
    clients = trained()
    before = clients.s3.objects["runs/r/run.json"]
    with pytest.raises(Refused) as refused:
        try_again(clients, **changes)
    problem = next(problem for problem in refused.value.problems if problem.path == path)
    assert "choose another run_id" in problem.message and 'run "r" has checkpoints of leg main' in problem.message
    if new is not None:
        assert f"this input has {new}" in problem.message
    if old is not None:
        assert f"go back to {old}" in problem.message
    assert clients.s3.objects["runs/r/run.json"] == before  # the runbook's advice, "go back to the settings in run.json", holds
    assert owner_of(clients.s3, DEPLOYMENT.bucket, RUN) == EXECUTION.arn
    assert try_again(clients, "e3")["run_id"] == "r"  # the old settings are taken


@pytest.mark.parametrize("changes", [{"training": {"steps": 300}}, {"training": {"optimizer": {"lr": 1e-4}}}, {"budget": {"max_usd": 7.5}}])
def test_other_settings_may_change_and_the_record_says_what(changes: Any) -> None:
    clients = trained()
    try_again(clients, **changes)
    first, second = read_records(clients.s3, DEPLOYMENT.bucket, RUN)
    assert (first.outcome, first.changes, second.outcome) == ("admitted", (), "admitted")
    (section, content), *_ = changes.items()
    assert all(change["path"].startswith(section) for change in second.changes)
    assert any(json.dumps(change["new"]) in json.dumps(content) for change in second.changes)
    again = clients.s3.objects[RUN.execution_record("e2")]
    try_again(clients, **changes)  # Lambda calls Admit again after it wrote run.json
    assert clients.s3.objects[RUN.execution_record("e2")] == again


def test_without_a_checkpoint_every_setting_may_change() -> None:
    clients = trained()
    del clients.s3.objects[f"{ATTEMPT}checkpoints/step-8/manifest.json"]
    assert try_again(clients, training={"seed": 5})["run_id"] == "r"


def test_a_refused_execution_has_its_record_and_its_settings() -> None:
    clients = trained()
    for name, changes in (("e2", {"training": {"seed": 5}}), ("e3", {"trainig": {}})):
        with pytest.raises(Refused):
            try_again(clients, name, **changes)
    _, seeded, misspelt = read_records(clients.s3, DEPLOYMENT.bucket, RUN)
    assert seeded.outcome == "refused" and "go back to 1" in seeded.reasons[0]
    assert [(change["path"], change["old"], change["new"]) for change in seeded.changes] == [("training.seed", 1, 5)]
    assert misspelt.settings["trainig"] == {} and "trainig" in misspelt.reasons[0]


@pytest.mark.parametrize("depth", [20, 40, 300, 900])
def test_an_input_nested_deeply_is_refused_and_its_record_can_be_read(depth: int) -> None:
    clients = deployed()
    nested: Any = []
    for _ in range(depth):
        nested = [nested]
    with pytest.raises(Refused):
        admit({"run_id": "r", "trainig": nested}, EXECUTION, DEPLOYMENT, clients)
    (record,) = read_records(clients.s3, DEPLOYMENT.bucket, RUN)
    assert bool(record.settings) is (depth < 30) and record.reasons


@pytest.mark.parametrize(
    "body", ["", "{}", "[]", "null", '{"legs": 3, "tokens": {"fingerprint": "f"}}', '{"legs": [{"name": "ma', "\x00", "[" * 9999]
)
def test_a_damaged_run_json_is_one_sentence_that_names_the_object_and_the_fix(body: str) -> None:
    clients = trained()
    clients.s3.put(RUN.run_json, body)
    with pytest.raises(Refused, match=r"s3://data/runs/r/run\.json cannot be read, .*restore its version before") as refused:
        try_again(clients)
    assert len(refused.value.problems) == 1


@pytest.mark.parametrize("body", ["", "{}", "[]", "null", '{"execution_arn": 3}', '{"execution_arn": "me"}', '{"execution', "[" * 9999])
def test_a_damaged_lock_is_one_sentence_that_names_the_object_and_the_fix(body: str) -> None:
    clients = trained()
    clients.s3.put(RUN.lock, body)
    with pytest.raises(Refused, match=r"s3://data/runs/r/lock\.json cannot be read.*aws s3 rm s3://data/runs/r/lock\.json"):
        try_again(clients)
    del clients.s3.objects[RUN.lock]
    try_again(clients)


@pytest.mark.parametrize("status", ["InProgress", "Stopping"])
def test_an_owner_whose_job_can_still_write_owns(status: str) -> None:
    clients = trained()
    job = f"{job_name('main', 'r', EXECUTION.arn)}-1"
    clients.sagemaker.jobs[job] = status
    with pytest.raises(TransientFault, match=f"{job} .* is still stopping"):  # the machine tries again
        try_again(clients)
    assert owner_of(clients.s3, DEPLOYMENT.bucket, RUN) == EXECUTION.arn
    clients.sagemaker.jobs[job] = "Stopped"
    try_again(clients)
    assert owner_of(clients.s3, DEPLOYMENT.bucket, RUN) == execution("e2").arn


def test_a_redrive_amid_a_take_over_has_one_winner() -> None:
    """The owner is looked up as ABORTED, is redriven and confirms its lock; the take-over that looked before is late."""
    clients, mine, other = trained(), EXECUTION.arn, execution("e2").arn

    class Redriven(States):
        def describe_execution(self, executionArn: str) -> Any:
            answer = super().describe_execution(executionArn)
            if answer["status"] == "ABORTED":
                self.status[executionArn] = "RUNNING"
                run_lock.confirm(clients.s3, DEPLOYMENT.bucket, RUN, executionArn)
            return answer

    states = Redriven()
    states.status = clients.states.status
    with pytest.raises(run_lock.RunIsActive):
        run_lock.acquire(clients.s3, states, DEPLOYMENT.bucket, RUN, other)
    assert owner_of(clients.s3, DEPLOYMENT.bucket, RUN) == mine


def test_a_take_over_amid_a_confirmation_has_one_winner() -> None:
    clients, other = trained(), execution("e2").arn
    put, taken = clients.s3.put_object, []

    def put_object(**request: Any) -> None:
        if not taken:
            taken.append(True)
            run_lock.acquire(clients.s3, clients.states, DEPLOYMENT.bucket, RUN, other)
        put(**request)

    clients.s3.put_object = put_object
    with pytest.raises(run_lock.RunTakenOver, match=r"is execution .*e2's now"):
        run_lock.confirm(clients.s3, DEPLOYMENT.bucket, RUN, EXECUTION.arn)
    assert owner_of(clients.s3, DEPLOYMENT.bucket, RUN) == other


def test_an_owner_whose_lock_was_deleted_has_it_again_and_a_damaged_one_is_told() -> None:
    clients, event = trained(), {"run_id": "r", "execution_arn": EXECUTION.arn, "stage": "Train", "attempt": 3}
    del clients.s3.objects[RUN.lock]
    assert confirm_owner(event, clients.s3, TRIAGE) == {"ours": True}
    assert owner_of(clients.s3, DEPLOYMENT.bucket, RUN) == EXECUTION.arn
    clients.s3.put(RUN.lock, "{")
    told = confirm_owner(event, clients.s3, TRIAGE)
    assert (told["ours"], told["explanation"]["class"], told["explanation"]["attempts"]) == (False, "DamagedLock", 2)
    assert "aws s3 rm s3://data/runs/r/lock.json" in told["explanation"]["sentence"]


class TwoExecutions(RuleBasedStateMachine):
    """Starts, stops, aborts, redrives, retries and kills over executions of one run, against the real Admit and the real confirmation."""

    def __init__(self) -> None:
        super().__init__()
        self.clients = deployed()
        self.started = 0
        self.admitted: set[str] = set()

    def attempt(self, name: str) -> None:
        one = execution(name)
        try:
            admit(INPUT_OF_RUN, one, DEPLOYMENT, self.clients)
        except Refused:
            self.clients.states.status[one.arn] = "FAILED"
        except TransientFault:
            pass  # Admit is tried again, or the execution ends
        else:
            self.admitted.add(name)

    def active(self, *, admitted: bool) -> list[str]:
        status = self.clients.states.status
        running = [f"e{n}" for n in range(1, self.started + 1) if status[execution(f"e{n}").arn] == "RUNNING"]
        return [name for name in running if (name in self.admitted) == admitted]

    @precondition(lambda self: self.started < 6)
    @rule()
    def start(self) -> None:
        self.started += 1
        self.clients.states.status[execution(f"e{self.started}").arn] = "RUNNING"
        self.attempt(f"e{self.started}")

    @precondition(lambda self: self.active(admitted=True) or self.active(admitted=False))
    @rule()
    def admit_is_called_again(self) -> None:
        for name in self.active(admitted=True) + self.active(admitted=False):
            self.attempt(name)

    @precondition(lambda self: self.active(admitted=True))
    @rule(number=st.integers(1, 3))
    def create_a_job(self, number: int) -> None:
        """What the state machine does after Admit or a redrive: confirm the lock, then CreateTrainingJob, whose names are used once."""
        for name in self.active(admitted=True):
            job = f"{job_name('main', 'r', execution(name).arn)}-{number}"
            if not self.confirmed(name):
                self.clients.states.status[execution(name).arn] = "FAILED"
            elif job not in self.clients.sagemaker.jobs:
                self.clients.sagemaker.jobs[job] = "InProgress"

    def confirmed(self, name: str) -> bool:
        event = {"run_id": "r", "execution_arn": execution(name).arn, "stage": "Train", "attempt": 1}
        return bool(confirm_owner(event, self.clients.s3, TRIAGE)["ours"])

    def stopped(self) -> list[str]:
        ended = self.clients.states.status.items()
        return [arn for arn, status in ended if status in ("ABORTED", "TIMED_OUT") and arn.rpartition(":")[2] in self.admitted]

    @precondition(lambda self: self.stopped())
    @rule(number=st.integers(0, 5))
    def redrive(self, number: int) -> None:
        """Of an execution that was stopped or timed out: it goes on without Admit. One that failed would only fail again."""
        stopped = self.stopped()
        self.clients.states.status[stopped[number % len(stopped)]] = "RUNNING"

    @precondition(lambda self: self.active(admitted=True) or self.active(admitted=False))
    @rule(how=st.sampled_from(["ABORTED", "FAILED", "TIMED_OUT"]))
    def an_execution_ends_and_its_job_is_told_to_stop(self, how: str) -> None:
        for name in self.active(admitted=True) + self.active(admitted=False):
            self.clients.states.status[execution(name).arn] = how
            for job, status in self.clients.sagemaker.jobs.items():
                if status == "InProgress" and job.startswith(job_name("main", "r", execution(name).arn)):
                    self.clients.sagemaker.jobs[job] = "Stopping"

    @rule(how=st.sampled_from(["Stopped", "Failed", "Completed"]))
    def jobs_end(self, how: str) -> None:
        self.clients.sagemaker.jobs = dict.fromkeys(self.clients.sagemaker.jobs, how)

    @invariant()
    def at_most_one_execution_writes(self) -> None:
        writing = {job.rsplit("-", 1)[0] for job, status in self.clients.sagemaker.jobs.items() if status in UNDER_WAY}
        assert len(writing) <= 1
        owner = owner_of(self.clients.s3, DEPLOYMENT.bucket, RUN)
        for job in writing:
            assert owner is not None and job == job_name("main", "r", owner)

    def teardown(self) -> None:
        """Some execution can always go on: once jobs have ended, an active one owns the run, or a new one is admitted."""
        self.jobs_end("Stopped")
        if not any(self.confirmed(name) for name in self.active(admitted=True)):
            for name in self.active(admitted=False):
                self.clients.states.status[execution(name).arn] = "ABORTED"
            self.start()
            assert self.confirmed(f"e{self.started}")


TwoExecutions.TestCase.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
test_at_most_one_writer_at_every_moment_and_some_execution_can_always_go_on = TwoExecutions.TestCase
