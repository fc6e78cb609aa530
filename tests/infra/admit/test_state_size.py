"""The largest plan, and what its attempts add, fit into a state of Step Functions with a margin."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from admission_values import DEPLOYMENT, EXECUTION, price, spec

from contracts.config import parse
from contracts.mixture import MAX_SOURCES, SourceTokens
from infra.admit.estimate import estimate
from infra.admit.plan import Planner
from infra.admit.start import Start
from infra.run.deployment import TriageDeployment
from infra.run.job_requests import preparations
from infra.run.layout import RunLayout
from infra.run.run_spec import MAX_LEGS, RunSpec
from infra.triage.attempts import Limits, Source, decide, read_attempt, write_attempt
from infra.triage.decisions import MAX_DETAIL, Verdict
from infra.triage.explain import explanation
from infra.triage.triage import _record

Json = Any
LETTER = "語"  # of three bytes: what a job says may be in any language
STATE_BYTES = 256 << 10
"""Of a state's input, output or arguments, and of one variable: Step Functions' own limit."""
MARGIN = 0.8
ATTEMPTS = 20
RUN_ID = "r" * 80  # the longest, as are all names below
STARTED = "2026-11-22T00:00:00.123Z"
PLAN = f"arn:aws:sagemaker:us-east-1:111122223333:training-plan/{'p' * 60}"
SOURCES = [
    {"kind": "spot"}, {"kind": "on_demand"}, {"kind": "training_plan", "training_plan_arn": PLAN},
    {"kind": "spot", "instance_type": "ml.p5en.48xlarge"}, {"kind": "on_demand", "instance_type": "ml.p5e.48xlarge"},
]  # fmt: skip


def size(value: Json) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def largest_spec() -> RunSpec:
    legs = [{"name": f"{'l' * 22}{i:02}", "training": {"optimizer": {"lr": 1e-4 * (i + 1)}}} for i in range(MAX_LEGS)]
    compute = {"capacity": SOURCES, "max_attempts": ATTEMPTS, "instance_count": 8}
    sources = [
        {"name": f"{'s' * 22}{i:02}", "source": f"source/{'t' * 200}{i}/", "weight": i + 1, "curriculum": [{"from_step": 9, "weight": 1}]}
        for i in range(MAX_SOURCES)
    ]
    data = {"sources": sources, "corpus": {"near_duplicates": {}}}
    evaluation = {"tasks": ["t" * 120] * 64, "task_source": f"source/{'t' * 200}/"}
    given = {"run_id": RUN_ID, "data": data, "legs": legs, "compute": compute, "budget": {"max_usd": 1e9}}
    return spec(given | {"evaluation": evaluation})


@pytest.fixture(scope="module")
def plan() -> Json:
    """What Admit hands to the state machine."""
    chosen = largest_spec()
    layout = RunLayout(RUN_ID)
    place = f"s3://{'b' * 63}/tokens/{'f' * 32}/"
    tokens = tuple(SourceTokens(name=source.name, fingerprint="f" * 32, uri=place) for source in chosen.data.sources)
    planner = Planner(
        spec=chosen, layout=layout, deployment=DEPLOYMENT, price=price, execution_arn=f"{EXECUTION.arn}{'e' * 76}",
        execution_started=STARTED, tokens=tokens, source_bytes=10**15, imported=True, token=True, copies_uri=place,
    )  # fmt: skip
    costs = estimate(chosen, price, prepared=False)
    checkpoint = f"s3://{'b' * 63}/{layout.prefix}{'l' * 24}/attempts/20261122T000000-3fa9c1-20/checkpoints/step-1000000/"
    return {
        "run_id": RUN_ID,
        "recipe": chosen.recipe,
        "admitted": {
            "execution_arn": planner.execution_arn,
            "estimate": costs.as_value(),
            "sources": {item.name: {"uri": f"s3://{'b' * 63}/source/{'t' * 200}", "objects": 10**6, "bytes": 10**15} for item in tokens},
            "quotas": [{"quota": "q" * 80, "request": "u" * 120}] * 20,
        },
        "image": dict.fromkeys(("tag", "data_prep", "corpus", "training", "evaluate"), "u" * 160) | {"exists": True},
        "tokens": {"uri": place, "fingerprint": "f" * 32, "exist": True},
        "preparations": [planner.preparation(job) for job in preparations(chosen)],
        "train": planner.train(),
        "evaluate": planner.evaluate(),
        # Every leg begins from weights, under the longest key that S3 has.
        "legs": [
            planner.leg(leg, cost, checkpoint, Start(source="s", uri=f"s3://{'b' * 63}/{'k' * 1023}/"))
            for leg, cost in zip(chosen.legs, costs.legs, strict=True)
        ],
    }


def ended_job(name: str) -> Json:
    """A description as Triage records it, of a job that left the longest reason."""
    moment = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
    times = dict.fromkeys(("CreationTime", "TrainingStartTime", "TrainingEndTime"), moment)
    described = {
        "TrainingJobName": name,
        "TrainingJobStatus": "Stopped",
        "SecondaryStatus": "MaxWaitTimeExceeded",
        "BillableTimeInSeconds": 2_419_200,
        "FailureReason": LETTER * 1024,
        "ResourceConfig": {"InstanceType": "ml.p5en.48xlarge", "InstanceCount": 256},
    }
    return _record(described | times, "Training")


def after_all_attempts(leg: Json) -> Json:
    """The leg's attempt after all its jobs, each of which found a checkpoint damaged, and the last job's record."""
    limits, sources = parse(Limits, leg["limits"], "limits"), tuple(parse(Source, source, "sources") for source in leg["sources"])
    attempt = read_attempt(leg["attempt"])
    verdict = Verdict("CheckpointDamaged", "resume", LETTER * MAX_DETAIL)
    for _ in range(ATTEMPTS):
        decision = decide(limits, sources, attempt, verdict, ended_job(f"{leg['job']}-{attempt.number}"), jitter=1.0)
        attempt = decision.attempt
        if not decision.again:
            break
    assert attempt.number == ATTEMPTS and len(attempt.history) > 10
    return write_attempt(attempt) | {"unusable": [leg["attempt"].get("checkpoint")] * ATTEMPTS}


def outcome(leg: Json) -> Json:
    """What state Leg failed makes of it."""
    sentence = LETTER * (MAX_DETAIL + 200)
    runbook = TriageDeployment(
        name="pretrain",
        runbook="https://example.com/" + "r" * 80,
        log_groups={},
        bucket="b" * 63,
        topic_arn=EXECUTION.arn,
        report_function="r" * 140,
    )
    detail = explanation(
        runbook, stage="Train", name="CheckpointDamaged", sentence=sentence, retry="retry", log_group="g" * 60, log_stream="s" * 120
    )
    return {"name": leg["name"], "outcome": "failed", "attempts": [after_all_attempts(leg)["history"]], "explanation": detail}


def test_the_largest_plan_fits_into_a_state(plan: Json) -> None:
    assert (len(plan["legs"]), len(plan["train"]["sources"])) == (16, 5)
    assert len(plan["train"]["request"]["InputDataConfig"]) == 1 + MAX_SOURCES
    print(f"\nplan: {size(plan):,} of {STATE_BYTES:,} bytes")
    assert size(plan) < MARGIN * STATE_BYTES


def test_an_attempt_of_a_leg_fits_into_a_state_however_many_came_before(plan: Json) -> None:
    leg = plan["legs"][0]
    evaluation = {"attempt": after_all_attempts(leg["evaluate"] | {"limits": leg["limits"], "sources": leg["sources"]})}
    carried = {
        "leg": leg,
        "attempt": after_all_attempts(leg),
        "evaluation": evaluation,
        "error": {"Error": "States.TaskFailed", "Cause": LETTER * 32_768},
    }
    print(f"\nattempt: {size(carried):,} of {STATE_BYTES:,} bytes")
    assert size(carried) < MARGIN * STATE_BYTES


def test_what_the_report_is_told_of_all_legs_fits_into_a_state(plan: Json) -> None:
    legs = [outcome(leg) for leg in plan["legs"]]
    build = {"Id": "b" * 120, "StartTime": 1.79e12, "EndTime": 1.79e12}
    told = {
        "run_id": RUN_ID, "execution_arn": plan["admitted"]["execution_arn"], "image": plan["image"] | {"build": build}, "legs": legs,
        "data": {"prepared": True, "job": ended_job("j" * 63)}, "explanation": legs[0]["explanation"],
    }  # fmt: skip
    print(f"\nreport: {size(told):,} of {STATE_BYTES:,} bytes")
    assert size(told) < MARGIN * STATE_BYTES
