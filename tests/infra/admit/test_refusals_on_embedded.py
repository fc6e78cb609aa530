"""Refusals on the embedded AWS: the real stacks, the real functions, one sentence each, nothing created."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.embedded


def refused(embedded_aws: Any, value: object) -> str:
    execution = embedded_aws.start(value)
    ended = embedded_aws.wait(execution, seconds=120)
    states = embedded_aws.states(execution)
    assert ended["status"] == "FAILED"
    assert ended["error"] == "Refused"
    assert states == ["Admit", "Explain", "Report failure", "Notify", "Failed"]
    return str(ended["cause"])


def test_everything_wrong_is_said_at_once(embedded_aws: Any) -> None:
    cause = refused(
        embedded_aws,
        {
            "data": {"source": "source/nothing/", "instance_type": "ml.p5.48xlarge"},
            "compute": {"instance_type": "ml.c7i.larg"},
        },
    )
    for words in (
        "source/nothing/ holds 0 objects",
        "is no instance type for processing jobs",
        'did you mean "ml.c7i.large"',
    ):
        assert words in cause
    assert "no price is known" not in cause  # for a type that does not exist


def test_a_gated_tokenizer_without_a_token_is_refused_before_anything_is_paid_for(embedded_aws: Any) -> None:
    cause = refused(embedded_aws, {"recipe": "llama3_8b"})
    assert "meta-llama/Llama-3.1-8B" in cause
    assert "put-secret-value" in cause
    jobs = embedded_aws.client("sagemaker").list_processing_jobs(NameContains="prepare")["ProcessingJobSummaries"]
    assert not [job for job in jobs if job["ProcessingJobStatus"] == "InProgress"]
