"""Executions that no Catch can catch are explained and reported once, by the rule on their end and the triage function's own code."""

import json
from pathlib import Path

import jsonschema
import pytest
from aws_models.execution import Failure, Result
from aws_models.unreported import RUN

from infra.constructs.polling import with_polling
from infra.run.run_event import DETAIL_TYPE, SOURCE
from infra.stacks.pipeline_stack import load_definition
from infra.triage.history import STAGES

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/run-event.schema.json").read_text())


def payload(outcome):
    assert isinstance(outcome, Result), outcome
    return outcome.value["Payload"]


@pytest.mark.parametrize(
    ("end", "stage", "name", "words"),
    [
        ("oversized", "Train", "Unexpected", "States.DataLimitExceeded: the result exceeds the maximum number of bytes"),
        ("faulty", "Report", "Unexpected", "States.Runtime"),
        ("unknown field", "Train", "FieldNotSupported", 'field "InfraCheckConfig" is not supported by Step Functions'),
        ("stopped", "Train", "StoppedByHand", "pretrain stop"),
        ("stopped again", "Train", "StoppedByHand", "pretrain stop"),
        ("stopped preparing", "Prepare data", "StoppedByHand", "pretrain stop"),
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
        *[f"Stopped: {RUN}"] * 3,
        f"Timed out: {RUN}",
        "Failed: large-input",
        "Failed: before-Admit-ended",
    ]
    assert payload(ended.outcomes["explained"]) == {"explained": "by its own state Failed"}
    again = payload(ended.outcomes["oversized again"])
    assert again == {**payload(ended.outcomes["oversized"]), "explained": "by an earlier delivery of this event"}


def test_the_explanation_lies_in_the_runs_folder(ended):
    (body,) = [body for (_, key), body in ended.world.objects.items() if key == f"runs/{RUN}/ended-oversized.json"]
    assert json.loads(body)["class"] == "Unexpected"


def test_each_has_its_report_and_what_explained_itself_has_only_its_own(ended):
    found = [payload(outcome) for outcome in ended.reports]
    assert [one["outcome"] for one in found] == ["failed"] * 3 + ["stopped"] * 3 + ["timed out", "refused", "failed"]
    assert [one["run_id"] for one in found] == [RUN] * 7 + ["large-input", "before-Admit-ended"]
    document = json.loads(next(body for (_, key), body in ended.world.objects.items() if key == f"runs/{RUN}/report.json"))
    assert document["outcome"] == "timed out" and [stage["state"] for stage in document["stages"]][3] == "timed out"


def test_every_state_has_its_stage():
    pipeline_definition = load_definition()
    nested = [
        states
        for definition in (pipeline_definition, with_polling(pipeline_definition))
        for states in (definition["States"], definition["States"]["Train legs"]["ItemProcessor"]["States"])
    ]
    assert {state for states in nested for state in states} == {state for states in STAGES.values() for state in states}


def test_every_end_is_told_to_eventbridge_in_the_documented_shape(ended):
    sent = [entry for call in ended.world.calls if call.operation == "PutEvents" for entry in call.parameters["Entries"]]
    details = [json.loads(entry["Detail"]) for entry in sent]
    for entry, detail in zip(sent, details, strict=True):
        jsonschema.validate(detail, SCHEMA)
        assert (entry["Source"], entry["DetailType"], entry["Resources"]) == (SOURCE, DETAIL_TYPE, [detail["execution_arn"]])
    states = [(detail["state"], detail.get("failure_class")) for detail in details]
    assert states == [
        ("FAILED", "Unexpected"),
        ("FAILED", "Unexpected"),  # the same end, delivered again
        ("FAILED", "Unexpected"),
        ("FAILED", "FieldNotSupported"),
        *[("STOPPED", None)] * 3,
        ("TIMED_OUT", None),
        ("FAILED", "CorruptShard"),
        ("REFUSED", "Refused"),
        ("FAILED", "Unexpected"),
    ]
    assert details[0]["event_id"] == details[1]["event_id"] and len({detail["event_id"] for detail in details}) == 10
