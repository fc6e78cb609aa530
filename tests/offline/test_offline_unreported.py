"""Executions that no Catch can catch are explained and reported once, by the rule on their end and the triage function's own code."""

import json

import pytest
from aws_models.execution import Failure, Result
from aws_models.unreported import RUN


def payload(outcome):
    assert isinstance(outcome, Result), outcome
    return outcome.value["Payload"]


@pytest.mark.parametrize(
    ("end", "stage", "name", "words"),
    [
        ("oversized", "Train legs", "Unexpected", "States.DataLimitExceeded: the result exceeds the maximum number of bytes"),
        ("faulty", "Report", "Unexpected", "States.Runtime"),
        ("unknown field", "Train", "FieldNotSupported", 'field "InfraCheckConfig" is not supported by Step Functions'),
        ("stopped", "Train", "StoppedByHand", "pretrain stop"),
        ("late", "Train", "Unexpected", "timed out"),
        ("large input", "Admit", "Refused", "the input is too large"),
        ("before Admit ended", "Admit", "Unexpected", "States.Runtime"),
    ],
)
def test_an_end_outside_of_every_catch_is_explained(ended, end, stage, name, words):
    found = payload(ended.outcomes[end])
    assert (found["stage"], found["class"]) == (stage, name) and words in found["sentence"]


def test_one_message_for_each_and_none_for_what_explained_itself(ended):
    assert not any(isinstance(outcome, Failure) for outcome in ended.outcomes.values()) and ended.world.wrong == []
    subjects = [call.parameters["Subject"] for call in ended.world.calls if call.operation == "Publish"]
    assert subjects == [f"Failed: {RUN}"] * 3 + [
        f"Aborted: {RUN}",
        f"Timed_out: {RUN}",
        "Failed: large-input",
        "Failed: before-Admit-ended",
    ]
    assert payload(ended.outcomes["explained"]) == {"explained": "by its own state Failed"}
    assert payload(ended.outcomes["oversized again"]) == {"explained": "by an earlier delivery of this event"}


def test_the_explanation_lies_in_the_runs_folder(ended):
    (body,) = [body for (_, key), body in ended.world.objects.items() if key == f"runs/{RUN}/ended-oversized.json"]
    assert json.loads(body)["class"] == "Unexpected"
