"""The stage Evaluate: a job that gets no instances, is killed half way, finds its data gone, or its earlier results cut; and a run that is
evaluated again. A run that has trained succeeds whatever comes of its evaluation, and its report says what."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

from account import Account, Ended, Json, expect, expect_words
from capacity import succeeded
from small_run import run_input, unbroken
from table import Row

from local_aws.injected_faults import Fault

SETS = 8  # held-out texts, each a few hundred milliseconds: a killed job has measured some and not all
TEXT = "A held-out text about the number {}, which the run was not trained on. "
JOB = "main-evaluate-"
"""What the name of an evaluation job of leg ``main`` has after the run's."""


def _texts(account: Account, *names: str) -> list[Json]:
    """Held-out sets of these names, uploaded."""
    for name in names:
        account.client("s3").put_object(Bucket=account.bucket, Key=f"source/{name}/one.txt", Body=TEXT.format(name).encode() * 40)
    return [{"name": name, "source": f"source/{name}/"} for name in names]


def _evaluated(run: str, held_out: list[Json], **changes: Any) -> Json:
    return run_input(run, evaluation={"held_out": held_out, "validation": False, "batch_size": 4, **changes})


def _jobs(account: Account, run: str) -> tuple[list[Json], list[Json]]:
    """The run's jobs that trained, and those that evaluated."""
    found = account.training_jobs(run)
    stages = [job["HyperParameters"].get("stage") for job in found]
    return [job for job, stage in zip(found, stages, strict=True) if not stage], [
        job for job, stage in zip(found, stages, strict=True) if stage == "evaluate"
    ]


def _place(account: Account, run: str) -> str:
    """Key of the leg's results.json."""
    return f"{account.attempts(run)[0]}evaluation/results.json"


def _report(account: Account, run: str) -> Json:
    found: Json = json.loads(account.read(f"runs/{run}/report.json"))
    return found


def _evaluation(account: Account, run: str) -> Json:
    """The leg's evaluation in the report."""
    (leg,) = _report(account, run)["legs"]
    found: Json = leg["evaluation"]
    return found


def no_instances_then_killed_and_again(account: Account) -> Iterator[Row]:
    """Evaluate: no capacity, a fault of the service, then again for other texts, killed half way."""
    run = "evaluated"
    faults = (Fault(id="", on="TrainingJob", outcome=outcome) for outcome in ("CapacityError", "InternalServerError"))
    account.order(run, *faults, job=JOB)
    ended = account.run(_evaluated(run, _texts(account, "novel")))
    succeeded(ended)
    first, second = ended.verdicts
    expect_words(first, "NoCapacity: SageMaker has no capacity for this instance type now", "attempt 2 on on_demand ml.c7i.large in ")
    expect_words(second, "ServiceFault: SageMaker reports a fault of its own", "attempt 3 on on_demand ml.c7i.large in ")
    trained, evaluations = _jobs(account, run)
    expect("evaluation jobs", [job["TrainingJobStatus"] for job in evaluations], ["Failed", "Failed", "Completed"])
    found = _evaluation(account, run)
    expect("what is measured, and why not more", (sorted(found["held_out"]), found["failure"]), (["novel"], None))
    yield Row(
        injected="Evaluate: CapacityError, then InternalServerError before its job had instances",
        happened="NoCapacity, ServiceFault; evaluated by the third job, pauses in between; the training was not asked again",
        attempts=len(trained) + len(evaluations),
        lost=unbroken(account, run),
        seconds=ended.seconds,
    )
    yield _killed_half_way(account, run)


def _killed_half_way(account: Account, run: str) -> Row:
    before = json.loads(account.read(_place(account, run)))["held_out"]
    names = [f"text-{number}" for number in range(SETS)]
    execution = account.start(_evaluated(run, _texts(account, *names)))

    def half() -> list[str] | None:
        measured = [name for name in json.loads(account.read(_place(account, run)))["held_out"] if name in names]
        return measured if len(measured) > 1 else None

    measured = account.until(half, "the second new text in S3", every=0.1)
    doomed = account.processes(f"{run}-main-evaluate")
    for process in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    expect("whether there were processes to kill before the last text", bool(doomed), True)
    ended = account.ended(execution)
    succeeded(ended)
    expect("whether anything was trained or asked to be", [state for state in ended.states if state in ("Confirm attempt", "Train")], [])
    (said,) = ended.verdicts
    expect_words(said, "ContainerKilled", "attempt 2 on on_demand ml.c7i.large in 0 s")
    trained, evaluations = _jobs(account, run)
    expect("jobs that trained, of both executions", len(trained), 1)
    lines = " ".join(line for host in account.lines("Training", evaluations[-1]["TrainingJobName"]).values() for line in host)
    expect_words(lines, *(f"{name}: measured by an earlier evaluation" for name in measured))
    found = json.loads(account.read(_place(account, run)))["held_out"]
    expect("sets", sorted(found), sorted(["novel", *names]))
    expect("the result of the first execution", found["novel"], before["novel"])
    expect("sets in the report", sorted(_evaluation(account, run)["held_out"]), sorted(["novel", *names]))
    return Row(
        injected=f"the finished run started again for {SETS} other texts; kill -9 of its evaluation half way",
        happened="Train was skipped; ContainerKilled, then the second job measured what was left; the report has both executions' numbers",
        attempts=len(evaluations) - 3,
        lost="nothing: what had reached S3 was not measured again",
        seconds=ended.seconds,
    )


def data_gone(account: Account) -> Iterator[Row]:
    """Evaluate: one of two copied texts is deleted before its job starts."""
    run = "eval-data"
    account.order(run, Fault(id="", on="TrainingJob", outcome="CapacityError"), job=JOB)
    execution = account.start(_evaluated(run, _texts(account, "kept", "gone")))
    account.until(lambda: "Wait to evaluate" in account.states(execution), f"the pause of {run}", every=0.2)
    place = json.loads(account.read(f"runs/{run}/run.json"))["evaluation_data"]["uri"].partition(f"{account.bucket}/")[2]
    account.client("s3").delete_object(Bucket=account.bucket, Key=f"{place}held_out/gone/one.txt")
    ended = account.ended(execution)
    succeeded(ended)
    expect_words(ended.verdicts[-1], "BadInput", "1 of 2 files of the evaluation's data", "held-out text gone", "no further attempt")
    found = _evaluation(account, run)
    expect("what was measured all the same", sorted(found["held_out"]), ["kept"])
    expect_words(found["failure"], "BadInput (stop)", "held-out text gone")
    expect_words(_report(account, run)["headline"], "48 steps trained", "Leg main: BadInput (stop)")
    again = account.run(_evaluated(run, _texts(account, "kept", "gone")))
    succeeded(again)
    expect("what the repair made again", [state for state in again.states if state in ("Prepare data", "Train")], ["Prepare data"])
    found = _evaluation(account, run)
    expect("the report after the repair", (sorted(found["held_out"]), found["failure"]), (["gone", "kept"], None))
    trained, evaluations = _jobs(account, run)
    yield Row(
        injected="Evaluate: one of two copied texts deleted before its job starts; then the run started again",
        happened="the run succeeds, its report says why this text was not measured; then copied again and measured, nothing trained again",
        attempts=len(trained) + len(evaluations),
        lost=unbroken(account, run),
        seconds=ended.seconds + again.seconds,
    )


def results_cut(account: Account) -> Iterator[Row]:
    """Evaluate: results.json is cut off, and then the leg's own result.json."""
    run = "eval-cut"
    first = account.run(_evaluated(run, _texts(account, "whole")))
    succeeded(first)
    key = _place(account, run)
    whole = _cut(account, key)
    plain = account.run(run_input(run))  # nothing is left to do but the report
    succeeded(plain)
    expect("jobs of an execution with nothing to do", [state for state in plain.states if state in ("Train", "Evaluate")], [])
    report = _report(account, run)
    expect("outcome, and whether the leg is finished", (report["outcome"], report["legs"][0]["figures"]["finished"]), ("succeeded", True))
    expect_words(" ".join(report["unread"]), "evaluation/results.json cannot be read: it is cut off or no JSON")
    again = account.run(_evaluated(run, _texts(account, "whole")))
    succeeded(again)
    found = json.loads(account.read(key))
    expect("the loss, measured anew", found["held_out"]["whole"]["loss"], json.loads(whole)["held_out"]["whole"]["loss"])
    trained, evaluations = _jobs(account, run)
    expect("jobs that trained", len(trained), 1)
    yield Row(
        injected="Evaluate: results.json cut off in S3, then the run started again without and with an evaluation",
        happened="the report says that it cannot be read and why; the next evaluation measures everything anew: the same loss",
        attempts=len(trained) + len(evaluations),
        lost="the earlier numbers, until they were measured anew (the bucket keeps versions)",
        seconds=first.seconds + plain.seconds + again.seconds,
    )
    _cut(account, f"{account.attempts(run)[0]}metrics/result.json")
    last: Ended = account.run(_evaluated(run, _texts(account, "whole")))
    succeeded(last)
    trained, _ = _jobs(account, run)
    report = _report(account, run)
    expect("the leg", (len(trained), report["legs"][0]["figures"]["finished"], report["legs"][0]["evaluation"]["failure"]), (2, True, None))
    yield Row(
        injected="the finished leg's result.json cut off in S3, then the run started again",
        happened="whether it had finished cannot be told, so a job went on from its last checkpoint: exported and evaluated anew",
        attempts=2,
        lost=unbroken(account, run),
        seconds=last.seconds,
    )


def _cut(account: Account, key: str) -> bytes:
    """Leave the first half of an object; what it was."""
    body = account.read(key)
    account.client("s3").put_object(Bucket=account.bucket, Key=key, Body=body[: len(body) // 2])
    return body


PROOFS = (no_instances_then_killed_and_again, data_gone, results_cut)
