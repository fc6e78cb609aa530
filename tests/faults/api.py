"""What AWS's APIs do to a run: odd inputs, throttling, an unknown field; and many executions and jobs at once."""

from __future__ import annotations

import collections
import json
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from account import Account, Ended, Json, expect, expect_words
from capacity import succeeded
from small_run import run_input
from table import Row

from local_aws.injected_faults import Fault

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "infra/admit"))
from odd_inputs import odd_inputs, outcomes

INPUTS = 300
SEED = 1  # `make test` tries the first inputs of seed 0
AT_ONCE, STUB_SECONDS = 20, 5.0
ACTIVE_JOBS = 500
LEGS = 16


def generated_inputs(account: Account) -> Iterator[Row]:
    """300 generated inputs."""
    began = time.monotonic()
    ends = outcomes(account.client("stepfunctions"), account.machine, odd_inputs(INPUTS, SEED))
    expect("inputs that ended badly", [str(end) for end in ends if not end.good], [])
    counts = collections.Counter(end.error for end in ends)
    told = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    ran = sorted(end.seconds for end in ends if end.status != "refused")
    yield Row(
        injected=f"{INPUTS} generated inputs: extreme numbers, depths, lengths, letters, types and keys",
        happened=f"{told}; the median execution took {ran[len(ran) // 2]:.1f} s, the longest {ran[-1]:.1f} s",
        attempts=0,
        lost="nothing was created",
        seconds=time.monotonic() - began,
    )


def _with(account: Account, run: str, *faults: Fault) -> Ended:
    """One run under faults of API calls, which end with it: they befall calls that name no job, and so every run."""
    account.aws.inject(*(replace(fault, id=f"{run}-{number}-{uuid.uuid4().hex[:6]}") for number, fault in enumerate(faults)))
    try:
        return account.run(run_input(run, training={"steps": 1}))
    finally:
        account.aws.inject()


def every_second_call_throttled(account: Account) -> Iterator[Row]:
    """Every second call of every API by every caller throttled: state machine, functions, jobs, command line."""
    run = "every-second-call"
    ended = _with(account, run, Fault(id="", on="*", error="throttled", every=2, times=-1))
    succeeded(ended)
    expect("attempts that a throttled call cost", ended.verdicts, [])
    jobs = account.training_jobs(run)
    expect("the job", [job["TrainingJobStatus"] for job in jobs], ["Completed"])
    yield Row(
        injected="every second call of every API by every caller throttled: state machine, functions, jobs, command line",
        happened="asked again; prepared, trained and reported, without a second attempt of anything",
        attempts=len(jobs),
        lost="nothing",
        seconds=ended.seconds,
    )


def lost_answer(account: Account) -> Iterator[Row]:
    """CreateTrainingJob is carried out, and its answer is lost."""
    run = "lost-answer"
    lost = Fault(id="", on="CreateTrainingJob", caller="state machine", error="InternalFailure", message="no answer", carried_out=True)
    ended = _with(account, run, lost)
    succeeded(ended)
    expect_words(ended.verdicts[0], "the task failed, and its job", "no other is created, it is looked at again in 60 s")
    expect("the last verdict", ended.verdicts[-1], "the job had completed")
    jobs = account.training_jobs(run)
    expect("the jobs", [job["TrainingJobStatus"] for job in jobs], ["Completed"])
    yield Row(
        injected="CreateTrainingJob is carried out, and its answer is lost",
        happened="SageMaker refused the name that exists; the job was looked at after a minute, and its result used",
        attempts=len(jobs),
        lost="nothing: no second job was created",
        seconds=ended.seconds,
    )


def unknown_field(account: Account) -> Iterator[Row]:
    """Step Functions does not know a field of the training job's request."""
    ended = _with(account, "unknown-field", Fault(id="", on="CreateTrainingJob", unsupported_field="CheckpointConfig", times=-1))
    expect("the end", (ended.status, ended.error), ("FAILED", "States.Runtime"))
    expect_words(ended.cause, "The field 'CheckpointConfig' is not supported by Step Functions")
    key = account.until(lambda: next((key for key in account.keys("runs/unknown-field/ended-")), None), "an explanation", every=1)
    explained = json.loads(account.read(f"runs/unknown-field/ended-{key}"))
    expect("the explanation's class and stage", (explained["class"], explained["stage"]), ("FieldNotSupported", "Train"))
    yield Row(
        injected="a field of CreateTrainingJob that Step Functions does not know",
        happened=f"States.Runtime, which no state can catch; explained from its event: {explained['sentence']}",
        attempts=len(account.training_jobs("unknown-field")),
        lost="nothing was created",
        seconds=ended.seconds,
    )


# -- load ------------------------------------------------------------------------------------------------


def twenty_at_once(account: Account) -> Iterator[Row]:
    """Twenty executions at once, training jobs that run nothing."""
    account.aws.set_quota("ml.c7i.large for training job usage", AT_ONCE * 2)
    account.aws.inject(Fault(id=uuid.uuid4().hex, on="TrainingJob", match="^load-", outcome="Completed", seconds=STUB_SECONDS, times=-1))
    began = time.monotonic()
    started = {f"load-{number}": account.start(run_input(f"load-{number}", training={"steps": 1})) for number in range(AT_ONCE)}
    ends = {run: account.ended(execution) for run, execution in started.items()}
    wall = time.monotonic() - began
    account.aws.inject()
    expect("ends", collections.Counter(end.status for end in ends.values()), collections.Counter({"SUCCEEDED": AT_ONCE}))
    jobs = [job["TrainingJobName"] for run in ends for job in account.training_jobs(run)]
    expect("training jobs", len(set(jobs)), AT_ONCE)
    for run in ends:
        expect(f"run id of {run}'s report", json.loads(account.read(f"runs/{run}/report.json"))["run_id"], run)
    seconds = sorted(end.seconds for end in ends.values())
    yield Row(
        injected=f"{AT_ONCE} executions at once, training jobs that run nothing for {STUB_SECONDS:g} s",
        happened=f"each trained and reported under its own id: {wall:.0f} s in all, one run {seconds[0]:.0f} to {seconds[-1]:.0f} s",
        attempts=len(jobs),
        lost="nothing",
        seconds=wall,
    )


def sixteen_legs(account: Account) -> Iterator[Row]:
    """Sixteen legs, the most that an input may have, training jobs that run nothing."""
    run = "legs"
    account.aws.inject(Fault(id=uuid.uuid4().hex, on="TrainingJob", match=f"^{run}-", outcome="Completed", seconds=0.5, times=-1))
    value = run_input(run, training={"steps": 1}) | {"legs": [{"name": f"leg{number:02d}"} for number in range(LEGS)]}
    execution = account.start(value)
    ended = account.ended(execution)
    account.aws.inject()
    succeeded(ended)
    jobs = account.training_jobs(run)
    expect(
        "jobs", ([job["TrainingJobStatus"] for job in jobs], len({job["TrainingJobName"] for job in jobs})), (["Completed"] * LEGS, LEGS)
    )
    report = json.loads(account.read(f"runs/{run}/report.json"))
    expect("legs of the report", [leg["name"] for leg in report["legs"]], [leg["name"] for leg in value["legs"]])
    largest = max(len(text) for text in account.texts(execution))
    yield Row(
        injected=f"{LEGS} legs, the most that an input may have, training jobs that run nothing",
        happened=f"one after the other, each trained and reported; the largest state holds {largest / 1024:.0f} of 256 KiB",
        attempts=len(jobs),
        lost="nothing",
        seconds=ended.seconds,
    )


def many_active_jobs(account: Account) -> Iterator[Row]:
    """500 active training jobs in the account."""
    sagemaker = account.client("sagemaker")
    account.aws.set_quota("ml.c7i.large for training job usage", ACTIVE_JOBS + 10)
    alone = account.run(run_input("alone", data={"source": "source/nothing/"}))
    account.aws.inject(Fault(id=uuid.uuid4().hex, on="TrainingJob", match="^crowd-", outcome="Pending", seconds=3600, times=-1))
    names = [f"crowd-{number}" for number in range(ACTIVE_JOBS)]
    for name in names:
        sagemaker.create_training_job(**_request(account, name))
    began = time.monotonic()
    pages = list(sagemaker.get_paginator("list_training_jobs").paginate(StatusEquals="InProgress", MaxResults=100))
    listing = time.monotonic() - began
    expect("active jobs", sum(len(page["TrainingJobSummaries"]) for page in pages), ACTIVE_JOBS)
    crowded = account.run(run_input("crowded", data={"source": "source/nothing/"}))
    for name in names:
        sagemaker.stop_training_job(TrainingJobName=name)
    account.aws.inject()
    expect("the end", crowded.error, "Refused")
    expect_words(crowded.cause, "holds 0 objects")
    yield Row(
        injected=f"{ACTIVE_JOBS} active training jobs in the account, a bad input",
        happened=f"refused after {crowded.seconds:.1f} s, {alone.seconds:.1f} s without them; the list takes {listing:.2f} s",
        attempts=0,
        lost="nothing was created",
        seconds=crowded.seconds,
    )


def _request(account: Account, name: str) -> Json:
    return {
        "TrainingJobName": name,
        "RoleArn": "arn:aws:iam::000000000000:role/crowd",
        "AlgorithmSpecification": {"TrainingImage": "none", "TrainingInputMode": "File"},
        "OutputDataConfig": {"S3OutputPath": f"s3://{account.bucket}/crowd/"},
        "ResourceConfig": {"InstanceType": "ml.c7i.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 600},
    }


PROOFS = (generated_inputs, unknown_field, lost_answer, every_second_call_throttled, twenty_at_once, sixteen_legs, many_active_jobs)
