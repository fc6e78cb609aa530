"""`pretrain logs`: lines of this run only, and waiting for a stage."""

from __future__ import annotations

import datetime as dt
import json
from types import SimpleNamespace

import pytest
from cli_aws import BEGAN, Deployed

from infra.cli import logs
from infra.cli.exits import CommandError, Exit


def minutes(number: float) -> dt.datetime:
    return BEGAN + dt.timedelta(minutes=number)


def deployed(builds: dict[str, dt.datetime]) -> Deployed:
    """A deployment whose CodeBuild ran these builds, and whose log groups hold one line of each, a minute after its start."""

    class Lines:
        def paginate(self, *, logGroupName, startTime, endTime=None, logStreamNames=()):
            events = [
                {"logStreamName": name, "timestamp": int((when + dt.timedelta(minutes=1)).timestamp() * 1000), "message": f"line of {name}"}
                for name, when in builds.items()
                if not logStreamNames or name in logStreamNames
            ]
            last = endTime or float("inf")
            return [{"events": [event for event in events if startTime <= event["timestamp"] <= last]}]

    described = [{"startTime": when, "logs": {"groupName": "/build", "streamName": name}} for name, when in builds.items()]
    return Deployed(
        embedded=True,
        codebuild=SimpleNamespace(
            list_builds_for_project=lambda **_: {"ids": list(builds)}, batch_get_builds=lambda **_: {"builds": described}
        ),
        logs=SimpleNamespace(get_paginator=lambda name: Lines()),
    )


def lines(aws: Deployed, execution: str, *, follow: bool = False) -> list[str]:
    return list(logs.stage_log(aws, execution, "build", follow=follow, say=lambda text: None))


def test_build_log_is_that_of_the_run_and_not_of_a_later_one():
    aws = deployed({"first": minutes(1), "second": minutes(61)})
    first = aws.states.add("monday", "SUCCEEDED", stopDate=minutes(30))
    aws.states.executions[first]["startDate"] = minutes(0)
    second = aws.states.add("tuesday", "SUCCEEDED", stopDate=minutes(90))
    aws.states.executions[second]["startDate"] = minutes(60)
    third = aws.states.add("wednesday", "SUCCEEDED", stopDate=minutes(150))
    aws.states.executions[third]["startDate"] = minutes(120)
    assert (lines(aws, first), lines(aws, second)) == (["line of first"], ["line of second"])
    with pytest.raises(CommandError, match="has built no image") as error:
        lines(aws, third)
    assert error.value.code == Exit.NOT_FOUND


def test_stage_that_is_not_reached_is_waited_for_and_said_once():
    answers, said = [False, False, True], []

    def look() -> str:
        if not answers.pop(0):
            raise CommandError("no job yet", Exit.NOT_FOUND)
        return "job"

    assert logs._reached(look, lambda: False, lambda: said.append("waiting"), 0.0) == "job" and said == ["waiting"]
    with pytest.raises(CommandError, match="no job yet"):  # the run has ended without it
        logs._reached(lambda: (_ for _ in ()).throw(CommandError("no job yet")), lambda: True, lambda: None, 0.0)


def test_metrics_lines_are_shown_as_pairs_and_raw_as_written():
    line = json.dumps({"step": 5, "time": 1.0, "loss": 2.71828182, "mfu": None})
    assert logs.shown(line, raw=False) == "step=5 loss=2.71828" and logs.shown(line, raw=True) == line
    assert logs.shown("{not json", raw=False) == "{not json"
