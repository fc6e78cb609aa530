"""Inputs that nobody means, through real executions: each ends at once, in a sentence, and nothing is created."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from odd_inputs import EndOf, odd_inputs, outcomes

pytestmark = pytest.mark.embedded
COUNT = 60  # `make faults` tries 300 others


def run_all(embedded_aws: Any, *texts: str) -> list[EndOf]:
    return outcomes(embedded_aws.client("stepfunctions"), embedded_aws.machine, texts)


def test_every_generated_input_ends_in_a_sentence(embedded_aws: Any) -> None:
    ends = run_all(embedded_aws, *odd_inputs(COUNT))
    assert [str(end) for end in ends if not end.good] == []
    assert sum(end.error == "Refused" for end in ends) > COUNT // 2  # most get as far as Admit


def test_what_step_functions_refuses_is_refused_before_an_execution_exists(embedded_aws: Any) -> None:
    long = '{"recipe": "' + "é" * 131_100 + '"}'  # 262,214 bytes, half as many characters
    ends = run_all(embedded_aws, long, "{a", "", '{"training": {"steps": NaN}}', '{"recipe": "\ud800"}')
    assert [end.error for end in ends] == ["ValidationException", *["InvalidExecutionInput"] * 4]
    assert "less than or equal to 262144" in ends[0].cause


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param('{"training": {"steps": ' + "9" * 5000 + "}}", "input cannot be read: Exceeds the limit", id="5000 digits"),
        pytest.param("[" * 20_000 + "]" * 20_000, "input cannot be read", id="20000 levels"),
        pytest.param('{"recipe": "\\ud800"}', "there is no recipe", id="a lone surrogate"),
        pytest.param(
            '{"schedule": {"name": "nightly", "time": "<aws.scheduler.scheduled-time>"}}', "is not a time in UTC", id="unfilled time"
        ),
    ],
)
def test_an_unreadable_input_ends_the_execution(embedded_aws: Any, text: str, words: str) -> None:
    (end,) = run_all(embedded_aws, text)
    assert end.good
    assert words in end.cause
