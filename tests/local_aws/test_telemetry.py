"""Messages, metrics and alarms on the embedded AWS."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from example_machine import ROLE, Example

pytestmark = pytest.mark.embedded


def until(look: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def topic(example: Example) -> str:
    sns = example.aws.client("sns")
    arn = str(sns.create_topic(Name="told")["TopicArn"])
    sns.subscribe(TopicArn=arn, Protocol="email", Endpoint="someone@example.com")
    return arn


def test_published_messages_can_be_read_with_their_addressees(example: Example, topic: str) -> None:
    example.aws.client("sns").publish(TopicArn=topic, Subject="Run failed", Message="because")
    last = example.aws.messages()[-1]
    assert (last["topic"], last["subject"], last["message"], last["email"]) == (topic, "Run failed", "because", ["someone@example.com"])


def test_failed_execution_raises_an_alarm_that_tells_the_topic(example: Example, topic: str) -> None:
    steps, watch = example.aws.client("stepfunctions"), example.aws.client("cloudwatch")
    machines = []
    for name in ("fails", "other"):
        definition = {"StartAt": "No", "States": {"No": {"Type": "Fail", "Error": "Broken", "Cause": "as asked"}}}
        machines.append(steps.create_state_machine(name=name, definition=json.dumps(definition), roleArn=ROLE)["stateMachineArn"])
        watch.put_metric_alarm(
            AlarmName=f"alarm-{name}",
            Namespace="AWS/States",
            MetricName="ExecutionsFailed",
            Dimensions=[{"Name": "StateMachineArn", "Value": machines[-1]}],
            Statistic="Sum",
            Period=60,
            EvaluationPeriods=1,
            Threshold=0,
            ComparisonOperator="GreaterThanThreshold",
            TreatMissingData="notBreaching",
            AlarmActions=[topic],
        )
    steps.start_execution(stateMachineArn=machines[0])
    states = until(lambda: [a for a in watch.describe_alarms(AlarmNamePrefix="alarm-fails")["MetricAlarms"] if a["StateValue"] == "ALARM"])
    assert "ExecutionsFailed" in states[0]["StateReason"]
    [message] = [item for item in example.aws.messages() if "alarm-fails" in item["message"]]
    assert json.loads(message["message"])["NewStateValue"] == "ALARM"
    [other] = watch.describe_alarms(AlarmNamePrefix="alarm-other")["MetricAlarms"]
    assert other["StateValue"] == "OK"  # its own dimension has no failure


def test_alarm_counts_the_breaching_periods_it_was_told_to(example: Example) -> None:
    watch = example.aws.client("cloudwatch")
    watch.put_metric_alarm(
        AlarmName="two-of-three",
        Namespace="Patrol",
        MetricName="Waiting",
        Statistic="Maximum",
        Period=60,
        EvaluationPeriods=3,
        DatapointsToAlarm=2,
        Threshold=10,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
    )

    def put(value: float, minutes_ago: float) -> None:
        watch.put_metric_data(
            Namespace="Patrol", MetricData=[{"MetricName": "Waiting", "Value": value, "Timestamp": time.time() - 60 * minutes_ago}]
        )

    def state() -> str:
        return str(watch.describe_alarms(AlarmNames=["two-of-three"])["MetricAlarms"][0]["StateValue"])

    put(20, 0.2)
    assert state() == "OK"
    put(20, 10)  # too old to count
    assert state() == "OK"
    put(20, 1.5)
    assert state() == "ALARM"


def test_prices_have_the_price_lists_shape(example: Example) -> None:
    pricing = example.aws.client("pricing")
    filters = [
        {"Type": "TERM_MATCH", "Field": "regionCode", "Value": "us-west-2"},
        {"Type": "TERM_MATCH", "Field": "instanceName", "Value": "ml.p5.48xlarge"},
    ]
    products = [
        json.loads(text)
        for page in pricing.get_paginator("get_products").paginate(
            ServiceCode="AmazonSageMaker", Filters=filters, PaginationConfig={"PageSize": 1}
        )
        for text in page["PriceList"]
    ]
    assert {product["product"]["attributes"]["usagetype"] for product in products} == {
        "USW2-Train:ml.p5.48xlarge",
        "USW2-Processing:ml.p5.48xlarge",
    }
    [term] = products[0]["terms"]["OnDemand"].values()
    [dimension] = term["priceDimensions"].values()
    assert (dimension["unit"], float(dimension["pricePerUnit"]["USD"])) == ("Hrs", 63.296)
