"""`pretrain logs`: lines of this run only, and waiting for a stage."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cli_aws import BEGAN, MACHINE, Deployed

from infra.cli import logs, saved_logs
from infra.cli.exits import CommandError, Exit
from infra.cli.find_run import FoundRun


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
    found = FoundRun(run_id=execution.rsplit(":", 1)[-1], execution_arn=execution)
    return [line.message for line in logs.stage_log(aws, found, "build", follow=follow, say=lambda text: None)]


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


@pytest.mark.parametrize(("status", "seconds"), [("ABORTED", 660), ("TIMED_OUT", 660), ("SUCCEEDED", 5), ("FAILED", 5)])
def test_the_report_of_a_stopped_run_is_in_its_log_although_it_is_written_after_the_end(status, seconds):
    began, until = logs.functions_span({"startDate": BEGAN, "stopDate": BEGAN, "status": status})
    assert until is not None and until - began == seconds


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


TRAINING, PROCESSING = "/aws/sagemaker/TrainingJobs", "/aws/sagemaker/ProcessingJobs"


class SageMaker:
    """Jobs of one run: (name, leg, status), the legs' oldest first."""

    def __init__(self, *jobs: tuple[str, str | None, str]) -> None:
        self.jobs = {name: self._job(name, leg, status, number) for number, (name, leg, status) in enumerate(jobs)}

    def _job(self, name: str, leg: str | None, status: str, number: int) -> Any:
        kind = "Training" if leg else "Processing"
        own: Any = {f"{kind}JobName": name, f"{kind}JobStatus": status, "CreationTime": minutes(number)}
        if leg:
            return own | {
                "HyperParameters": {"run_id": "evening", "leg": leg},
                "CheckpointConfig": {"S3Uri": "s3://bucket/runs/evening/"},
                "ResourceConfig": {"InstanceType": "ml.p5.48xlarge", "InstanceCount": 2},
            }
        return own | {"ProcessingInputs": [{"S3Input": {"S3Uri": "s3://bucket/runs/evening/run.json"}}], "ProcessingResources": {}}

    def get_paginator(self, operation: str) -> Any:
        kind = "Training" if operation == "list_training_jobs" else "Processing"
        found = [{f"{kind}JobName": name} for name, job in self.jobs.items() if f"{kind}JobName" in job]
        return SimpleNamespace(paginate=lambda **_: [{f"{kind}JobSummaries": found}])

    def describe_training_job(self, TrainingJobName: str) -> Any:
        return self.jobs[TrainingJobName]

    def describe_processing_job(self, ProcessingJobName: str) -> Any:
        return self.jobs[ProcessingJobName]


class Groups:
    """CloudWatch Logs: lines by group and stream; what is not there was deleted."""

    def __init__(self, groups: dict[str, dict[str, list[str]]]) -> None:
        self.groups = groups

    def describe_log_groups(self, logGroupNamePrefix: str) -> Any:
        return {"logGroups": [{"logGroupName": name, "retentionInDays": 30} for name in self.groups if name.startswith(logGroupNamePrefix)]}

    def describe_log_streams(self, logGroupName: str, logStreamNamePrefix: str, **_: Any) -> Any:
        if logGroupName not in self.groups:
            raise ClientError({"Error": {"Code": "ResourceNotFoundException", "Message": "gone"}}, "DescribeLogStreams")
        names = sorted(name for name in self.groups[logGroupName] if name.startswith(logStreamNamePrefix))
        return {"logStreams": [{"logStreamName": name} for name in names]}

    def get_log_events(self, logGroupName: str, logStreamName: str, nextToken: str = "", **_: Any) -> Any:
        lines = self.groups[logGroupName][logStreamName]
        return {"events": [] if nextToken else [{"message": line} for line in lines], "nextForwardToken": "end"}

    def get_paginator(self, name: str) -> Any:
        def paginate(*, logGroupName: str, **_: Any) -> Any:
            if logGroupName not in self.groups:
                raise ClientError({"Error": {"Code": "ResourceNotFoundException", "Message": "gone"}}, "FilterLogEvents")
            streams = self.groups[logGroupName].items()
            return [{"events": [{"logStreamName": s, "timestamp": 1, "message": line} for s, lines in streams for line in lines]}]

        return SimpleNamespace(paginate=paginate)


JOBS = (
    ("evening-p-1", None, "Completed"),
    ("evening-a-1", "a", "Failed"),
    ("evening-b-1", "b", "Completed"),
    ("evening-a-2", "a", "Completed"),
)


def with_jobs(groups: dict[str, dict[str, list[str]]], jobs: Any = JOBS) -> Deployed:
    functions = [
        {"ResourceType": "AWS::Lambda::Function", "LogicalResourceId": f"Functions{name}", "PhysicalResourceId": name}
        for name in ("Admit", "Triage", "Report")
    ]
    stack = SimpleNamespace(paginate=lambda **_: [{"StackResourceSummaries": functions}])
    aws = Deployed(
        sagemaker=SageMaker(*jobs),
        logs=Groups(groups),
        cloudformation=SimpleNamespace(get_paginator=lambda name: stack),
        codebuild=SimpleNamespace(list_builds_for_project=lambda **_: {"ids": []}),
    )
    aws.clients["lambda"] = SimpleNamespace(get_function_configuration=lambda FunctionName: {})
    aws.states.add("evening", "SUCCEEDED", stopDate=minutes(30), input='{"run_id": "evening"}')
    return aws


def test_any_job_of_a_run_can_be_read_by_leg_and_attempt(monkeypatch, pretrain):
    aws = with_jobs(
        {
            TRAINING: {f"{name}/algo-1-17": [f"line of {name}"] for name in ("evening-a-1", "evening-a-2", "evening-b-1")},
            PROCESSING: {"evening-p-1/algo-1-17": ["p"]},
        }
    )
    monkeypatch.setattr("infra.cli.where.choose_target", lambda **options: aws)
    # The host algo-2 of these two-instance jobs has never written a line: what algo-1 wrote is there all the same.
    assert pretrain("logs", "evening", "--leg", "a", "--attempt", "1").out == "line of evening-a-1\n"
    assert pretrain("logs", "evening", "--leg", "a").out == "line of evening-a-2\n"
    assert pretrain("logs", "evening", "--stage", "prepare", "--attempt", "1", "--json").out == '{"host": null, "message": "p"}\n'
    assert pretrain("logs", "evening", "--attempt", "1").out.endswith("has the legs a, b: choose one with --leg")
    wrong = pretrain("logs", "evening", "--leg", "a", "--attempt", "3")
    assert wrong.code == 4 and wrong.out.endswith("has no train attempt 3; it has: 1 evening-a-1 (Failed); 2 evening-a-2 (Completed)")
    assert pretrain("logs", "evening", "--leg", "c").out.endswith("no training job of leg c; it has those of: a, b")
    assert pretrain("logs", "evening", "--stage", "admit", "--attempt", "1").code == 2
    assert pretrain("logs", "evening", "--to", "x", "--attempt", "1").code == 2


def test_a_log_that_is_gone_is_told(monkeypatch, pretrain):
    aws = with_jobs({TRAINING: {}})
    monkeypatch.setattr("infra.cli.where.choose_target", lambda **options: aws)
    assert (
        "training job evening-a-2 has no line in the log group /aws/sagemaker/TrainingJobs, which keeps lines for 30 days"
        in pretrain("logs", "evening", "--leg", "a").out
    )
    assert "has no log: the log group /aws/sagemaker/ProcessingJobs does not exist" in pretrain("logs", "evening", "--stage", "prepare").out


def test_all_logs_of_a_run_become_files_of_their_own(monkeypatch, pretrain, tmp_path):
    arn, other = (f"{MACHINE.replace('stateMachine', 'execution')}:{name}" for name in ("evening", "morning"))
    own, foreign = (json.dumps({"message": name, "execution": name}) for name in (arn, other))
    streams = {
        "evening-a-1/algo-1-17": ["one"],
        "evening-a-1/algo-2-17": ["two"],
        "evening-a-1/algo-2-18": ["restarted"],
        "evening-a-2/algo-1-19": ["{}"],
    }
    aws = with_jobs({TRAINING: streams, "/aws/lambda/Admit": {"x": [own, foreign]}})
    monkeypatch.setattr("infra.cli.where.choose_target", lambda **options: aws)
    folder = tmp_path / "logs"
    aws.s3.objects["runs/evening/a/attempts/x-1/diagnostics/trace.json.gz"] = b"trace"
    aws.s3.objects["runs/evening/a/attempts/x-1/metrics/metrics.jsonl"] = b"{}"
    first = pretrain("logs", "evening", "--to", str(folder))
    assert first.code == 0, first.out
    assert pretrain("logs", "evening", "--to", str(folder)).out == first.out  # again: the same
    files = {
        str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file() and path.name != saved_logs.INDEX
    }
    assert files == {
        "evening/admit.log": own + "\n",
        "a/attempt-1/algo-1.log": "one\n",
        "a/attempt-1/algo-2.log": "two\nrestarted\n",
        "a/attempt-2/algo-1.log": "{}\n",
        "a/diagnostics/x-1/trace.json.gz": "trace",
    }
    index = (folder / saved_logs.INDEX).read_text()
    assert "a/attempt-1/algo-2.log  2 lines, training job evening-a-1 (Failed), host algo-2" in index
    assert "a/diagnostics/x-1/trace.json.gz  5 bytes, profiler of leg a, attempt x-1" in index
    assert "-  training job evening-b-1 (Completed) has no line in the log group" in index  # deleted by retention
    assert "-  processing job evening-p-1 (Completed) has no log: the log group /aws/sagemaker/ProcessingJobs does not exist" in index
    listed = json.loads(pretrain("logs", "evening", "--to", str(folder), "--json").out)["logs"]
    assert sum(one["lines"] for one in listed) == 5 and {one["file"] for one in listed if one["file"]} == set(files)


def test_a_log_file_that_cannot_be_written_leaves_the_one_before(tmp_path: Path):
    (tmp_path / "a.log").write_text("before")
    with pytest.raises(OSError), saved_logs._whole(tmp_path / "a.log") as file:
        file.write("half")
        raise OSError(28, "No space left on device")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.log", "before")]
