"""A run's events: the documented schema, what is sent, and that a lost event costs nothing."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from infra.edge.chat import show
from infra.edge.run_events import send
from infra.run.chat_message import TITLES, chat_message
from infra.run.run_event import MAX_SENTENCE_BYTES, STATES, RunEvent, detail, entry, event_id, schema

PROJECT = Path(__file__).parents[3]
ARN = "arn:aws:states:us-east-1:111122223333:execution:pretrain:evening"
EVENT = RunEvent(
    event_id=event_id(ARN, "TRAINED"), deployment="pretrain", state="TRAINED", run_id="evening", execution_arn=ARN,
    time="2026-11-25T06:00:00.000+00:00", sentence="150 steps trained.", usd=1.5,
)  # fmt: skip


def test_schema_in_the_docs_is_the_codes():
    assert json.loads((PROJECT / "docs/run-event.schema.json").read_text()) == json.loads(json.dumps(schema())), "run `make docs`"


def test_examples_and_states_of_the_documentation_are_the_schemas():
    text = (PROJECT / "docs/events.md").read_text()
    examples = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.S)]
    events = [example for example in examples if "detail" in example and "account" in example]
    assert events
    for example in events:
        jsonschema.validate(example["detail"], schema())
    patterns = [example for example in examples if "detail-type" in example and "account" not in example]
    assert patterns and all(set(pattern["detail"].get("state", [])) <= set(STATES) for pattern in patterns)
    assert re.findall(r"^\| `([A-Z_]+)` \|", text, re.M) == list(STATES)


def test_an_event_is_within_the_limits_and_leaves_out_what_is_not_known():
    long = dataclasses.replace(EVENT, sentence="\u00e9" * MAX_SENTENCE_BYTES)
    assert len(detail(long)["sentence"].encode()) <= MAX_SENTENCE_BYTES and "leg" not in detail(long)
    jsonschema.validate(json.loads(entry(long)["Detail"]), schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**detail(EVENT), "state": "DONE"}, schema())


class Refusing:
    """EventBridge that does not take an event."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def put_events(self, Entries: list[Any]) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (ClientError({"Error": {"Code": "ThrottlingException", "Message": "Rate exceeded"}}, "PutEvents"), "Rate exceeded"),
        (EndpointConnectionError(endpoint_url="https://events.example"), "events.example"),
        ({"FailedEntryCount": 1, "Entries": [{"ErrorCode": "InternalFailure", "ErrorMessage": "no"}]}, "InternalFailure: no"),
    ],
)
def test_a_lost_event_is_logged_and_fails_nothing(answer, words, capsys):
    send(Refusing(answer), EVENT)
    line = json.loads(capsys.readouterr().out)
    assert line["level"] == "WARNING" and line["state"] == "TRAINED" and words in line["error"]


def test_a_chat_message_has_the_form_of_custom_notifications_within_slacks_limits():
    """Amazon Q drops every other text on the topic without notice."""
    failed = dataclasses.replace(
        EVENT, state="FAILED", sentence="LossDiverged (stop): " + "x" * 9000, failure_class="LossDiverged", report="s3://b/r"
    )
    message = chat_message(failed, "https://wiki.example/runbook")
    assert (message["version"], message["source"], message["id"]) == ("1.0", "custom", failed.event_id)
    assert set(message) == {"version", "source", "id", "content", "metadata"}
    content = message["content"]
    assert (
        content["textType"] == "client-markdown"
        and content["title"] == "Failed: evening (pretrain)"
        and len(content["description"]) == 2900
    )
    assert content["nextSteps"] == [
        "https://wiki.example/runbook#lossdiverged", "`pretrain report evening`", "`pretrain start --again evening`",
    ]  # fmt: skip
    assert message["metadata"]["threadId"] == "evening" and message["metadata"]["relatedResources"] == [ARN, "s3://b/r"]
    assert all(isinstance(value, str) for value in message["metadata"]["additionalContext"].values())
    assert set(TITLES) == set(STATES)


def test_a_message_that_the_channel_does_not_take_is_logged_and_none_is_sent_without_a_channel(capsys):
    class Topic:
        def publish(self, **given: Any) -> None:
            raise ClientError({"Error": {"Code": "KMSAccessDenied", "Message": "no key"}}, "Publish")

    show(Topic(), None, EVENT, "x")
    assert capsys.readouterr().out == ""
    show(Topic(), "arn:topic", EVENT, "x")
    assert "no key" in json.loads(capsys.readouterr().out)["error"]
