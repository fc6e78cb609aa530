"""The step after an attempt that did not complete: decision table, capacity sources, budget, limits."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace
from typing import Any

import pytest

import container.failure_classes
import contracts.failure
import corpus.failure_classes
import data_prep.failure_classes
import infra.admit.admission
import infra.edge.transient
import training.failure_classes
from contracts.config import to_json
from contracts.failure import JobFailure
from infra.constructs.alarms import OTHER_ALARMS, alarms, section
from infra.constructs.assets import ROOT
from infra.run.deployment import TriageDeployment
from infra.settings import AlarmSettings
from infra.triage.attempts import (
    MAX_REQUESTS,
    Attempt,
    Limits,
    Source,
    affordable_seconds,
    decide,
    first_attempt,
    read_attempt,
    write_attempt,
)
from infra.triage.decisions import TABLE, Evidence, Verdict, judge, markdown, wait_seconds
from infra.triage.triage import triage

LIMITS = Limits(max_attempts=3, max_runtime_seconds=7200, max_usd=200.0, max_wait_seconds=600)
SOURCES = (
    Source(kind="spot", instance_type="ml.p5.48xlarge", usd_per_hour=64.0),
    Source(kind="on_demand", instance_type="ml.p4d.24xlarge", usd_per_hour=32.0),
)
RESUME, WAIT, NEXT, STOP = (Verdict("Some", action, "it ended") for action in ("resume", "wait", "next_source", "stop"))


LIMIT = (
    "The account-level service limit 'ml.p5.48xlarge for training job usage' is {limit} Instances, with current utilization of {used} "
    "Instances and a request delta of {delta} Instances. Please use AWS Service Quotas to request an increase for this quota."
)
LONGEST = (
    "The account-level service limit 'Longest run time for a training job' is 432000 Seconds, with current utilization of 0 Seconds and "
    "a request delta of 2419200 Seconds."
)
UNSUPPORTED = "The field 'InfraCheckConfig' is not supported by Step Functions"


def ran(seconds: float) -> dict[str, Any]:
    return {"TrainingJobName": "job-1", "BillableTimeInSeconds": seconds}


@pytest.mark.parametrize(
    ("evidence", "name", "action"),
    [
        (Evidence(status="Stopped", secondary_status="MaxRuntimeExceeded", started=True), "TimeLimit", "resume"),
        (Evidence(status="Stopped", secondary_status="Interrupted", started=True), "SpotInterrupted", "resume"),
        (Evidence(status="Stopped", secondary_status="Stopped", waited_out=True), "PendingTooLong", "next_source"),
        (Evidence(status="Stopped", secondary_status="Stopped", started=True), "StoppedByHand", "stop"),
        (
            Evidence(status="Failed", failure_reason="CapacityError: Unable to provision requested ML compute capacity"),
            "NoCapacity",
            "wait",
        ),
        (Evidence(error="SageMaker.ResourceLimitExceededException", cause="the limit is 0"), "QuotaExceeded", "wait"),
        (Evidence(error="SageMaker.ResourceLimitExceededException", cause=LIMIT.format(limit=4, used=4, delta=1)), "QuotaExceeded", "wait"),
        (
            Evidence(error="SageMaker.ResourceLimitExceededException", cause=LIMIT.format(limit=0, used=0, delta=1)),
            "QuotaTooSmall",
            "other_source",
        ),
        (Evidence(error="SageMaker.ResourceLimitExceededException", cause=LONGEST), "QuotaTooSmall", "other_source"),
        (Evidence(error="States.TaskFailed", cause=UNSUPPORTED), "FieldNotSupported", "stop"),
        (Evidence(error="SageMaker.AmazonSageMakerException", cause="Rate exceeded (Status Code: 400)"), "Throttled", "wait"),
        (Evidence(status="Failed", failure_reason="InternalServerError: please try again", started=True), "ServiceFault", "resume"),
        (Evidence(status="Failed", failure_reason="AlgorithmError: , exit code: 137", started=True), "ContainerKilled", "resume"),
        (Evidence(error="SageMaker.AmazonSageMakerException", cause="ValidationException: bad"), "RequestRefused", "stop"),
        (Evidence(status="Failed", failure_reason="AlgorithmError: See job logs, exit code: 1", started=True), "Unexpected", "resume"),
        (Evidence(status="Failed", failure_reason="AlgorithmError: LossDiverged (stop): NaN, exit code: 1"), "LossDiverged", "stop"),
        (Evidence(status="Failed", failure_reason="AlgorithmError: HostLost (retry): rank 3, exit code: 1"), "HostLost", "resume"),
        # On SIGTERM a job leaves Preempted (retry); why it was stopped decides.
        (
            Evidence(status="Stopped", secondary_status="Stopped", failure_reason="Preempted (retry): x", started=True),
            "StoppedByHand",
            "stop",
        ),
    ],
)
def test_evidence_leads_to_one_class_and_action(evidence: Evidence, name: str, action: str) -> None:
    verdict = judge(evidence)
    assert (verdict.name, verdict.action) == (name, action)


def test_a_processing_jobs_sentence_is_its_own_and_nothing_is_added_to_it() -> None:
    job = {"ExitMessage": "DiskFull (stop): the disk is full", "FailureReason": "AlgorithmError: See job logs for more information"}
    clients = SimpleNamespace(
        sagemaker=SimpleNamespace(describe_processing_job=lambda ProcessingJobName: {"ProcessingJobStatus": "Failed", **job}),
        log_stream=lambda group, prefix: f"{prefix}algo-1",
    )
    leg = {"job": "r-prepare", "limits": to_json(LIMITS), "sources": [to_json(SOURCES[0])]}
    event = {"stage": "Prepare data", "leg": leg, "attempt": write_attempt(Attempt(max_runtime_seconds=10))}
    decided = triage(
        event,
        clients,
        TriageDeployment(name="pretrain", runbook="docs/runbook.md", bucket="data", topic_arn="arn:topic", report_function="arn:report"),
        jitter=0.0,
    )
    assert decided["again"] is False
    assert decided["explanation"]["sentence"] == "DiskFull (stop): the disk is full"
    assert decided["explanation"]["log_stream"] == "r-prepare-1/algo-1"
    assert decided["explanation"]["runbook"].endswith("#diskfull")


def test_every_row_of_the_table_but_the_last_can_be_missed() -> None:
    assert [row.matches(Evidence()) for row in TABLE].count(True) == 1
    assert TABLE[-1].matches(Evidence())


def test_a_resumed_attempt_has_a_new_number_and_the_money_that_is_left() -> None:
    decision = decide(LIMITS, SOURCES, Attempt(max_runtime_seconds=7200), RESUME, ran(3600), jitter=0.5)
    assert decision.again
    assert (decision.attempt.number, decision.attempt.started, decision.attempt.spent_usd) == (2, 1, 64.0)
    assert decision.attempt.max_runtime_seconds == min(7200, int((200 - 64) / 64 * 3600))


def test_attempts_end_at_the_limit() -> None:
    decision = decide(LIMITS, SOURCES, Attempt(max_runtime_seconds=7200, number=3, started=2), RESUME, ran(60), jitter=0.5)
    assert not decision.again
    assert "compute.max_attempts=3" in decision.sentence


def test_going_on_without_money_stops_with_the_amounts() -> None:
    decision = decide(LIMITS, SOURCES, Attempt(max_runtime_seconds=7200, spent_usd=130.0), RESUME, ran(3600), jitter=0.5)
    assert (decision.again, decision.name) == (False, "BudgetSpent")
    assert "$200.00" in decision.sentence
    assert "$194.00" in decision.sentence


def test_missing_capacity_pauses_then_goes_to_the_next_source_then_ends() -> None:
    attempt, seen = first_attempt(LIMITS, SOURCES), []
    while True:
        decision = decide(LIMITS, SOURCES, attempt, WAIT, {}, jitter=1.0)
        if not decision.again:
            break
        attempt = decision.attempt
        seen.append((attempt.source, attempt.wait_seconds))
    assert seen == [(0, 60), (0, 120), (0, 240), (1, 0), (1, 60), (1, 120), (1, 240)]
    assert attempt.started == 0  # asking for capacity is no attempt
    assert "spot ml.p5.48xlarge, on_demand ml.p4d.24xlarge" in decision.sentence


def test_a_pending_limit_goes_to_the_next_source_at_once() -> None:
    decision = decide(LIMITS, SOURCES, Attempt(max_runtime_seconds=7200), NEXT, {}, jitter=0.0)
    assert (decision.attempt.source, decision.attempt.wait_seconds) == (1, 0)


def test_a_failure_before_any_instance_pauses_instead_of_spinning() -> None:
    decision = decide(LIMITS, SOURCES, Attempt(max_runtime_seconds=7200), RESUME, {"TrainingJobName": "job-1"}, jitter=0.0)
    assert decision.again
    assert decision.attempt.wait_seconds >= 30


def test_requests_of_one_execution_are_bounded() -> None:
    attempt = Attempt(max_runtime_seconds=7200, number=MAX_REQUESTS)
    assert not decide(LIMITS, SOURCES, attempt, WAIT, {}, jitter=0.0).again


def test_a_stop_ends_the_leg_and_keeps_the_record() -> None:
    decision = decide(LIMITS, SOURCES, Attempt(max_runtime_seconds=7200), STOP, ran(10), jitter=0.0)
    assert not decision.again
    assert decision.attempt.history[0]["AttemptClass"] == "Some"


def test_an_unknown_price_leaves_the_time_limit_alone() -> None:
    source = dataclasses.replace(SOURCES[0], usd_per_hour=None)
    assert affordable_seconds(LIMITS, source, 0.0) == 7200


def test_an_attempt_survives_the_state_machine() -> None:
    attempt = Attempt(max_runtime_seconds=7200, history=({"TrainingJobName": "a"},))
    assert read_attempt(write_attempt(attempt)) == attempt


def test_pauses_grow_to_a_ceiling_and_jitter_halves_them_at_most() -> None:
    assert [wait_seconds(n, jitter=1.0) for n in range(1, 8)] == [60, 120, 240, 480, 900, 900, 900]
    assert wait_seconds(1, jitter=0.0) == 30


def test_a_limit_that_never_clears_is_not_waited_for() -> None:
    verdict = judge(Evidence(error="SageMaker.ResourceLimitExceededException", cause=LIMIT.format(limit=0, used=0, delta=1)))
    elsewhere = decide(LIMITS, SOURCES, first_attempt(LIMITS, SOURCES), verdict, {}, jitter=0.5)
    assert elsewhere.again and (elsewhere.attempt.source, elsewhere.attempt.wait_seconds) == (1, 0)
    ended = decide(LIMITS, SOURCES, elsewhere.attempt, verdict, {}, jitter=0.5)
    assert not ended.again and (ended.name, ended.retry) == ("QuotaTooSmall", "stop")


def classes() -> set[str]:
    def below(kind: type) -> set[type]:
        return {kind, *(found for child in kind.__subclasses__() for found in below(child))}

    modules = {
        container.failure_classes.__name__,
        corpus.failure_classes.__name__,
        contracts.failure.__name__,
        data_prep.failure_classes.__name__,
        training.failure_classes.__name__,
        infra.admit.admission.__name__,
        infra.edge.transient.__name__,
        "data_prep.sources",
    }
    return {kind.__name__ for kind in below(JobFailure) if kind is not JobFailure and kind.__module__ in modules}


RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()


def test_the_runbook_has_a_section_for_every_class_and_alarm() -> None:
    anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", RUNBOOK, re.MULTILINE)}
    wanted = {name.lower() for name in classes() | {row.name for row in TABLE} | {"BudgetSpent"}}
    wanted |= {section(name) for name in [alarm.name for alarm in alarms(AlarmSettings())] + list(OTHER_ALARMS)}
    assert wanted - anchors == set()


def test_the_runbook_shows_the_table_that_decides() -> None:
    assert markdown() in RUNBOOK
