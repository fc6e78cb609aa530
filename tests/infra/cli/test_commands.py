"""Whole commands against a deployment in memory: output, requests, exit codes."""

from __future__ import annotations

import dataclasses
import json
from io import BytesIO
from types import SimpleNamespace

import pytest
import typer.main
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from cli_aws import ATTEMPT, BEGAN, Denied, Deployed, entered, put_run
from report_runs import event, metrics_lines, result_json, run_json, stored
from small_s3 import SmallS3
from typer.testing import CliRunner

from contracts.config import parse
from infra.cli import commands, storage_commands, watch, where
from infra.cli.commands import EXAMPLES
from infra.cli.exits import CommandError
from infra.cli.find_run import find_run
from infra.cli.main import app
from infra.cli.observe import Observer, _prepare_words
from infra.cli.preflight import preflight
from infra.cli.target import PROJECT, aws_target
from infra.report.handler import write_report
from infra.report.read import read_run
from infra.run.run_spec import as_input, resolve
from training.leg_identity import leg_identity
from training.spec import TrainingSpec

DONE = [entered("Admit", 1), entered("Image exists?", 2), entered("Data exists?", 2), entered("Train legs", 2), entered("Report", 80)]
OUTPUT = {
    "run_id": "evening",
    "headline": "150 steps trained, loss 8.400 to 2.710.",
    "legs": [{"name": "main", "steps": 150, "loss_first": 8.4, "loss_last": 2.71, "validation_loss": 2.81, "unigram_entropy": 6.25}],
}


def finished(aws: Deployed, name: str = "evening") -> str:
    put_run(aws, run_json(training={"steps": 150}), {"main": metrics_lines(150, 5)})
    events = [*DONE, {"type": "ExecutionSucceeded", "timestamp": BEGAN}]
    return aws.states.add(name, "SUCCEEDED", events, output=json.dumps(OUTPUT), input='{"run_id": "evening"}')


def test_start_sends_recipe_settings_and_run_id(aws, pretrain):
    result = pretrain(
        "start", "llama3_8b", "--set", "training.steps=2000", "--set", "training.optimizer.lr=1e-4", "--run", "evening", "--json"
    )
    assert result.code == 0
    started = json.loads(result.out)
    sent = json.loads(aws.states.executions[started["execution_arn"]]["input"])
    assert sent == {"recipe": "llama3_8b", "run_id": "evening", "training": {"steps": 2000, "optimizer": {"lr": 1e-4}}}
    assert started["run_id"] == "evening" and started["execution"].startswith("evening-")


def test_start_refuses_what_cannot_work_with_every_reason_and_starts_nothing(aws, pretrain):
    result = pretrain("start", "--set", "training.stepz=3", "--set", "compute.instance_count=many", "--set", "data.shard_tokens=1")
    assert result.code == 3
    for reason in ('did you mean "steps"', "compute.instance_count: must be a whole number", "data.shard_tokens", "3 problems"):
        assert reason in result.out
    assert aws.states.executions == {}


@pytest.mark.parametrize("setting", ["training.steps", "=3", "training..steps=3"])
def test_setting_without_path_or_value_is_a_wrong_command_line(aws, pretrain, setting):
    result = pretrain("start", "--set", setting)
    assert result.code == 2 and "PATH=VALUE" in result.out


def test_input_file_is_the_start_and_options_go_over_it(aws, pretrain, tmp_path):
    file = tmp_path / "input.json"
    file.write_text('{"recipe": "local", "training": {"steps": 10, "seed": 3}}')
    result = pretrain("start", "--input", str(file), "--set", "training.steps=20", "--json")
    assert result.code == 0
    (execution,) = aws.states.executions.values()
    assert json.loads(execution["input"]) == {"recipe": "local", "training": {"steps": 20, "seed": 3}}


def test_watch_in_a_pipe_prints_lines_and_ends_with_the_result(aws, pretrain):
    finished(aws)
    result = pretrain("watch", "evening")
    assert result.code == 0
    assert "Build image skipped: already there" in result.out
    assert "Train main: step 150/150" in result.out
    assert "3.440 nats below the text's unigram entropy of 6.250" in result.out
    assert "\x1b[" not in result.out


def test_watch_of_a_failed_run_exits_with_one_and_shows_the_jobs_sentence(aws, pretrain):
    put_run(aws, run_json(), {})
    events = [*DONE[:4], entered("Explain", 30), {"type": "ExecutionFailed", "timestamp": BEGAN}]
    aws.states.add("evening", "FAILED", events, error="LossDiverged", cause="LossDiverged (stop): the loss is NaN at step 7")
    result = pretrain("watch")
    assert result.code == 1
    assert "Train failed" in result.out and "LossDiverged (stop): the loss is NaN at step 7" in result.out


def test_watch_of_a_stopped_run_says_so_and_how_to_go_on(aws, pretrain):
    put_run(aws, run_json(), {})
    aws.states.add("evening", "ABORTED", [*DONE[:4], {"type": "ExecutionAborted", "timestamp": BEGAN}], cause="pretrain stop by user/bob")
    result = pretrain("watch", columns=200)
    assert result.code == 1 and "Train stopped" in result.out and "failed" not in result.out
    assert "The run was stopped. Stopped: pretrain stop by user/bob." in result.out and "pretrain start --again evening" in result.out


def test_watch_outlives_a_lost_connection_and_says_so_once(aws, capsys):
    arn = finished(aws)
    observer, real = Observer(aws, arn), Observer.look
    failures = iter([True, True, False])

    def look(self):
        if next(failures):
            raise EndpointConnectionError(endpoint_url="https://states.example")
        return real(self)

    said: list[str] = []
    pauses: list[float] = []
    Observer.look, kept = look, Observer.look
    try:
        view = watch._follow(observer, 5.0, pauses.append, lambda view: None, said.append)
    finally:
        Observer.look = kept
    assert view.status == "SUCCEEDED"
    assert len(said) == 2 and "connection lost" in said[0] and said[1] == "connected again"
    assert pauses == [watch.LOST_SECONDS] * 2


@pytest.mark.parametrize(
    "error",
    [
        NoCredentialsError(),
        ClientError({"Error": {"Code": "ExpiredTokenException", "Message": "The security token included in the request is expired"}}, "X"),
    ],
)
def test_watch_ends_with_the_command_that_goes_on_when_credentials_expire(aws, pretrain, monkeypatch, error):
    finished(aws)
    real, looks = Observer.look, iter([True, False])

    def look(self):
        if next(looks):
            return dataclasses.replace(real(self), status="RUNNING")
        raise error

    monkeypatch.setattr(Observer, "look", look)
    monkeypatch.setattr(commands, "AWS_SECONDS", 0.0)
    result = pretrain("watch", "evening")
    assert result.code == 5 and result.out.endswith("the run goes on. Renew them (aws sso login), then: pretrain watch evening")


def test_watch_waits_for_fresh_credentials_and_goes_on_with_them(aws, monkeypatch):
    """Three looks are refused as expired; the chain is read again before each, and the third reading finds a new login."""
    arn = finished(aws)
    observer = Observer(aws, arn)
    logins: list[int] = []

    def refused(*, executionArn: str) -> None:
        raise ClientError({"Error": {"Code": "ExpiredTokenException", "Message": "The security token is expired"}}, "DescribeExecution")

    old = Deployed()
    old.clients["stepfunctions"] = SimpleNamespace(describe_execution=refused)

    def renewed() -> Deployed:
        logins.append(len(logins))
        return aws if len(logins) == 3 else old

    for target in (aws, old):
        monkeypatch.setattr(target, "renewed", renewed, raising=False)
    observer.target = old
    said: list[str] = []
    pauses: list[float] = []
    view = watch._follow(observer, 5.0, pauses.append, lambda view: None, said.append)
    assert view.status == "SUCCEEDED" and observer.target is aws and pauses == [watch.LOST_SECONDS] * 3
    assert len(said) == 2 and "the run goes on. Renew them (aws sso login)" in said[0] and said[1] == "connected again"


def test_watch_does_not_wait_for_credentials_for_ever(aws):
    observer = Observer(aws, finished(aws))
    aws.clients["stepfunctions"], aws.renewed, pauses = Denied("ExpiredTokenException"), lambda: aws, []
    with pytest.raises(CommandError, match="then: pretrain watch evening"):
        watch._follow(observer, 5.0, pauses.append, lambda view: None, lambda text: None)
    assert sum(pauses) == watch.RENEW_SECONDS


def test_credentials_are_read_anew_from_the_file_and_not_from_the_environment(monkeypatch, tmp_path):
    file = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    write = "[default]\naws_access_key_id={0}\naws_secret_access_key=s\naws_session_token={0}\n".format
    file.write_text(write("old"))
    target = aws_target(environment="default", profile=None, region="us-west-2", root=PROJECT)
    assert target.session.get_credentials().access_key == "old"
    file.write_text(write("new"))
    renewed = target.renewed()
    assert renewed is not None and renewed.session.get_credentials().access_key == "new"
    assert renewed.client("sts") is not target.client("sts")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "fixed")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    assert aws_target(environment="default", profile=None, region="us-west-2", root=PROJECT).renewed() is None


def test_watch_ends_with_one_sentence_when_the_embedded_aws_has_ended(aws, pretrain, monkeypatch):
    finished(aws)

    def refused(self):
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:4566")

    monkeypatch.setattr(Observer, "look", refused)
    aws.gone = lambda: "the embedded AWS is not running any more; its log is .local/launcher.log"
    result = pretrain("watch", "evening")
    assert result.code == 5 and result.out == aws.gone()


def test_any_command_that_gets_no_answer_says_where_it_asked(aws, pretrain, monkeypatch):
    def refused(**arguments):
        raise EndpointConnectionError(endpoint_url="https://states.example")

    monkeypatch.setattr(aws.states, "describe_execution", refused)
    result = pretrain("logs", "arn:aws:states:us-west-2:111122223333:execution:pretrain:evening", "--stage", "admit")
    assert result.code == 5 and result.out.startswith("us-west-2 does not answer: Could not connect")


def test_finished_preparation_shows_what_its_index_says(aws):
    run = run_json()
    put_run(aws, run, {})
    index = {"splits": {"train": {"documents": 61_000, "tokens": 2_100_000}, "validation": {"documents": 600, "tokens": 20_000}}}
    aws.s3.objects[f"tokens/{run['tokens']['fingerprint']}/index.json"] = json.dumps(index).encode()
    events = [*DONE[:3], entered("Prepare data", 3), entered("Train legs", 12)]
    arn = aws.states.add("evening", events=events, input='{"run_id": "evening"}')
    stage = Observer(aws, arn).look().stages[2]
    assert (stage.state, stage.note) == ("done", "61,600 documents, 2,120,000 tokens")


def test_preparation_of_a_mixture_counts_every_source_and_names_the_one_in_work(aws):
    run = run_json()
    run["tokens"]["sources"] = [{"name": name, "fingerprint": name, "uri": ""} for name in ("web", "code")]
    put_run(aws, run, {})
    for name in ("web", "code"):
        aws.s3.objects[f"tokens/{name}/index.json"] = b'{"splits": {"train": {"documents": 5, "tokens": 100}}}'
    arn = aws.states.add(
        "evening", events=[*DONE[:3], entered("Prepare data", 3), entered("Train legs", 12)], input='{"run_id": "evening"}'
    )
    assert Observer(aws, arn).look().stages[2].note == "10 documents, 200 tokens"
    line = {"stage": "prepare", "source": "web", "done_bytes": 1, "total_bytes": 4, "documents": 2, "tokens": 30}
    assert _prepare_words(line) == "25% of source web, 2 documents, 30 tokens"


def test_metrics_are_read_on_from_where_the_last_look_ended(aws):
    run = run_json()
    put_run(aws, run, {"main": metrics_lines(50, 5)})
    arn = aws.states.add("evening", events=DONE[:4], input='{"run_id": "evening"}')
    observer = Observer(aws, arn)
    assert observer.look().legs[0].step == 50
    key = f"runs/evening/main/{ATTEMPT}metrics/metrics.jsonl"
    aws.s3.objects[key] += ("\n".join(metrics_lines(60, 5, start=51)) + '\n{"step": 65, "lo').encode()
    assert observer.look().legs[0].step == 60
    aws.s3.objects[key] += b'ss": 1.5, "time": 1.0}\n'
    assert (observer.look().legs[0].step, observer.look().legs[0].loss) == (65, 1.5)
    assert len(aws.s3.ranges) == 3


def test_a_later_attempts_metrics_follow_the_earlier_ones(aws):
    put_run(aws, run_json(), {"main": metrics_lines(50, 5)})
    arn = aws.states.add("evening", events=DONE[:4], input='{"run_id": "evening"}')
    observer = Observer(aws, arn)
    assert observer.look().legs[0].step == 50
    aws.s3.objects[f"runs/evening/main/{ATTEMPT[:-2]}2/metrics/metrics.jsonl"] = ("\n".join(metrics_lines(45, 5, start=41)) + "\n").encode()
    leg = observer.look().legs[0]
    assert leg.step == 45  # it went on from step 40
    assert leg.loss_first > leg.loss


def test_list_shows_newest_first_and_json_for_scripts(aws, pretrain):
    aws.states.add("monday", "SUCCEEDED")
    aws.states.add("tuesday", "FAILED")
    assert [run["run"] for run in json.loads(pretrain("list", "--json").out)] == ["tuesday", "monday"]
    assert "tuesday" in pretrain("list").out


def test_list_of_nothing_says_how_to_start(aws, pretrain):
    assert "pretrain start" in pretrain("list").out


def test_stop_asks_and_stops_only_what_runs(aws, pretrain):
    running = aws.states.add("evening")
    assert pretrain("stop", "evening", "--yes").code == 0
    assert aws.states.stopped == [running]
    again = pretrain("stop", "evening", "--yes")
    assert again.code == 4 and "is not running" in again.out


def test_report_again_makes_the_executions_own_call_once_more(aws, pretrain, tmp_path):
    put_report(aws, "evening", 9000.0, 0.003)
    payload = {"run_id": "evening", "execution_arn": "arn", "outcome": "succeeded", "legs": [{"name": "main"}]}
    others = [{"FunctionName": "triage", "Payload": {"run_id": "evening", "execution_arn": "arn", "stage": "Train"}}, {"TopicArn": "t"}]
    calls = [{"FunctionName": "report", "Payload": payload}, *others]
    scheduled = [{"type": "TaskScheduled", "taskScheduledEventDetails": {"parameters": json.dumps(call)}} for call in calls]
    aws.states.add("evening", "SUCCEEDED", [*reversed(scheduled), entered("Report", 1)])
    made, answer = [], {"sinks": [{"sentence": "MLflow: 12 values of 1 leg were sent."}]}

    def invoke(**arguments):
        made.append((arguments["FunctionName"], json.loads(arguments["Payload"])))
        return {"Payload": BytesIO(json.dumps(answer).encode())} | ({"FunctionError": "Unhandled"} if "errorType" in answer else {})

    aws.session = SimpleNamespace(client=lambda service, **rest: SimpleNamespace(invoke=invoke))
    result = pretrain("report", "evening", "--to", str(tmp_path), "--again")
    assert result.code == 0 and "MLflow: 12 values of 1 leg were sent." in result.out
    assert made == [("report", payload)]
    answer.update(errorType="TransientFault", errorMessage="Report: throttled")
    result = pretrain("report", "evening", "--to", str(tmp_path), "--again")
    assert result.code == 1 and "the report could not be written: TransientFault: Report: throttled; pretrain logs evening" in result.out


@pytest.mark.parametrize(("status", "code", "words"), [("RUNNING", 1, "is active"), ("ABORTED", 4, "pretrain start --again evening")])
def test_report_again_needs_an_execution_that_came_to_its_report(aws, pretrain, status, code, words):
    put_report(aws, "evening", 9000.0, 0.003)
    aws.states.add("evening", status, [entered("Train", 1)])
    result = pretrain("report", "evening", "--again")
    assert result.code == code and words in result.out


def test_unknown_run_is_not_found(aws, pretrain):
    result = pretrain("watch", "nosuch")
    assert result.code == 4 and "pretrain list" in result.out


def put_report(aws: Deployed, run_id: str, speed: float, lr: float) -> None:
    run = run_json(run_id, training={"optimizer": {"lr": lr}})
    s3 = stored(run, {"main": (metrics_lines(150, 5), result_json(tokens_per_second_per_device=speed))})
    facts = read_run(event(run_id), bucket="bucket", region="us-east-1", dashboard="pretrain-us-east-1", s3=s3, now=1_790_000_400.0)
    write_report(facts, s3=s3, usd_per_hour=lambda instance_type: 1.0)
    aws.s3.objects.update(s3.objects)


def test_compare_shows_ratios_and_the_settings_that_differ(aws, pretrain):
    put_report(aws, "evening", 9000.0, 0.003)
    put_report(aws, "morning", 13500.0, 0.001)
    value = json.loads(pretrain("compare", "evening", "morning", "--json").out)
    assert [leg["ratio"] for leg in value["legs"]] == [1.0, 1.5]
    assert value["settings"] == {"training.optimizer.lr": [0.003, 0.001]}
    shown = pretrain("compare", "evening", "morning").out
    assert "1.500" in shown and "optimizer.lr" in shown


def test_compare_with_a_run_without_report_says_which(aws, pretrain):
    put_report(aws, "evening", 9000.0, 0.003)
    put_run(aws, run_json("morning"), {})
    result = pretrain("compare", "evening", "morning")
    assert result.code == 4 and '"morning" has no report' in result.out
    result = pretrain("compare", "evening", "nosuch")
    assert result.code == 4 and 'no run "nosuch"' in result.out


def test_report_is_fetched_beside_its_data(aws, pretrain, tmp_path):
    put_report(aws, "evening", 9000.0, 0.003)
    result = pretrain("report", "evening", "--to", str(tmp_path / "out"))
    assert result.code == 0 and result.out.splitlines()[0] == str(tmp_path / "out" / "report.html")
    assert "dashboard  https://us-east-1.console.aws.amazon.com/cloudwatch/home?region=us-east-1#dashboards/" in result.out
    links = json.loads(pretrain("report", "evening", "--to", str(tmp_path / "out"), "--json").out)["links"]
    assert set(links) == {"report", "run", "execution", "logs", "dashboard"}
    assert json.loads((tmp_path / "out" / "report.json").read_text())["run_id"] == "evening"


def test_export_fetches_every_file_of_the_leg(aws, pretrain, tmp_path):
    put_run(aws, run_json(), {})
    attempt = f"runs/evening/main/{ATTEMPT}"
    aws.s3.objects |= {f"{attempt}export/{name}": name.encode() for name in ("config.json", "model.safetensors", "../../escape")}
    later = f"runs/evening/main/{ATTEMPT[:-2]}2/"
    aws.s3.objects[f"{later}export/model.safetensors"] = b"an attempt that was killed while it exported"
    assert pretrain("export", str(tmp_path / "model"), "--run", "evening").code != 0  # no attempt has reached the last step
    aws.s3.objects[f"{attempt}metrics/result.json"] = b'{"steps": 100}'
    result = pretrain("export", str(tmp_path / "model"), "--run", "evening")
    assert result.code == 0 and "2 files" in result.out
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == b"model.safetensors"
    assert not (tmp_path.parent / "escape").exists()


def test_export_of_several_legs_asks_which(aws, pretrain, tmp_path):
    put_run(aws, run_json(legs=[{"name": "a"}, {"name": "b"}]), {})
    result = pretrain("export", str(tmp_path), "--run", "evening")
    assert result.code == 2 and "--leg" in result.out
    result = pretrain("export", str(tmp_path), "--run", "evening", "--leg", "c")
    assert result.code == 2 and "has the legs a, b" in result.out


def test_every_command_has_an_example_that_parses(aws, monkeypatch, pretrain):
    monkeypatch.setattr(commands, "_follow", lambda target, execution, **options: None)
    reached: list[str] = []
    for name, (_, example) in EXAMPLES.items():
        shown = pretrain(name, "--help", columns=140)
        assert f"Example: {example}" in " ".join(shown.out.split()) and shown.code == 0
        words = example.split()[1:]
        assert words[0] == name
        result = pretrain(*[word for word in words if word not in ("--open", "--watch", "--follow")])
        assert result.code != 2, (example, result.out)
        reached.append(name)
    assert reached == list(EXAMPLES) and set(EXAMPLES) <= {command.name for command in _commands()}


def test_every_command_has_json():
    group = typer.main.get_command(app)
    commands = [*group.commands.items(), *(("local " + name, one) for name, one in group.commands["local"].commands.items())]
    without = [name for name, one in commands if name != "local" and "--json" not in [text for param in one.params for text in param.opts]]
    assert len(commands) > 15 and without == []


def test_nothing_to_empty_is_json_too(aws, pretrain, monkeypatch):
    monkeypatch.setattr(storage_commands, "buckets_to_empty", lambda target: [])
    assert json.loads(pretrain("empty", "--json").out) == {"deleted": {}}


@pytest.mark.parametrize("name", ["run", "up", "status", "down", "clean"])
def test_every_local_command_has_an_example(pretrain, name):
    assert f"Example: pretrain local {name}" in pretrain("local", name, "--help").out


def test_local_may_stand_before_the_command_and_after_it(aws, pretrain, monkeypatch):
    asked: list[bool] = []
    monkeypatch.setattr(where, "choose_target", lambda **options: (asked.append(options["local"]), aws)[1])
    for words in (("list",), ("list", "--local"), ("--local", "list")):
        assert pretrain(*words).code == 0
    assert asked == [False, True, True]


def test_completion_knows_commands_and_recipes(monkeypatch):
    def completed(words: str, number: int) -> str:
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(number))
        monkeypatch.setenv("_PRETRAIN_COMPLETE", "complete_bash")
        return CliRunner().invoke(app, prog_name="pretrain").output

    assert completed("pretrain wa", 1).split() == ["watch"]
    assert completed("pretrain plan llama3", 2).split() == ["llama3_125m", "llama3_1b", "llama3_3b", "llama3_8b", "llama3_70b"]


def test_checkout_is_found_from_a_folder_in_it_and_never_a_strangers_local(monkeypatch, tmp_path):
    deep = tmp_path / "clone" / "docs"
    deep.mkdir(parents=True)
    (tmp_path / "clone" / "cdk.json").write_text("{}")
    (tmp_path / ".local").mkdir()
    monkeypatch.chdir(deep)
    assert where.checkout() == tmp_path / "clone"
    monkeypatch.chdir(tmp_path)
    assert where.checkout() == PROJECT


def _commands():
    from infra.cli.main import app

    return app.registered_commands


def test_wrong_option_is_exit_code_two(aws, pretrain):
    assert pretrain("watch", "--bogus").code == 2


def test_ctrl_c_while_watching_leaves_the_run_alone(aws, monkeypatch, capsys):
    arn = aws.states.add("evening")

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "watch_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        commands._follow(aws, arn, plain=True)
    assert aws.states.stopped == [] and "pretrain stop evening" in capsys.readouterr().out


def test_scheduled_run_is_found_under_the_id_that_admit_gave_it(aws):
    put_run(aws, run_json("weekly-20260921T0600"), {"main": metrics_lines(20, 5)})
    fired = json.dumps({"schedule": {"name": "weekly", "time": "2026-09-21T06:00:00Z"}})
    arn = aws.states.add("4f0c-scheduled", events=DONE[:4], input=fired)
    assert find_run(aws, "weekly-20260921T0600").execution == arn
    view = Observer(aws, arn).look()
    assert view.run_id == "weekly-20260921T0600" and view.legs[0].step == 20


def test_start_and_watch_as_json_print_json_lines_only(aws, pretrain, monkeypatch):
    put_run(aws, run_json(data={"source": "s3://bucket/source/botocore/"}), {"main": metrics_lines(150, 5)})
    events = [*DONE, {"type": "ExecutionSucceeded", "timestamp": BEGAN}]
    real = aws.states.add
    monkeypatch.setattr(aws.states, "add", lambda name, **fields: real(name, "SUCCEEDED", events, output=json.dumps(OUTPUT), **fields))
    result = pretrain("start", "--run", "evening", "--json", "--watch")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert result.code == 0
    assert [line["event"] for line in lines] == ["started", "ended"]
    assert lines[0]["run_id"] == "evening" and lines[1]["output"]["headline"] == OUTPUT["headline"]
    assert lines[1]["legs"][0]["step"] == 150


def test_watch_as_json_prints_a_failure_as_its_last_line_and_exits_with_one(aws, pretrain):
    put_run(aws, run_json(), {})
    events = [*DONE[:4], entered("Explain", 30), {"type": "ExecutionFailed", "timestamp": BEGAN}]
    aws.states.add("evening", "FAILED", events, error="LossDiverged", cause="LossDiverged (stop): NaN at step 7")
    result = pretrain("watch", "evening", "--json")
    assert result.code == 1
    assert json.loads(result.out.splitlines()[-1])["sentence"] == "LossDiverged (stop): NaN at step 7"


def test_the_region_of_the_environment_is_used(monkeypatch, tmp_path):
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    (tmp_path / "cdk.json").write_text('{"context": {"environments": {"default": {}, "fixed": {"region": "us-west-2"}}}}')
    chosen = {"environment": "default", "profile": None, "region": None, "root": tmp_path}
    with pytest.raises(CommandError, match="AWS_REGION"):
        aws_target(**chosen).client("sts")
    found = preflight(aws_target(**chosen), resolve({"recipe": "llama3_8b"}, default_recipe="local"))  # what needs no account
    assert (found.ready, (found.estimate.usd or 0) > 40) == (False, True)
    assert [line.found.split(":")[0] for line in found.checks if line.state == "bad"] == ["no region"]
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert aws_target(**chosen).region == "eu-west-1"
    assert aws_target(**chosen | {"region": "eu-west-3"}).region == "eu-west-3"
    assert aws_target(**chosen | {"environment": "fixed"}).region == "us-west-2"


def test_starting_a_run_again_says_what_changes_and_refuses_what_its_checkpoints_do_not_allow(aws, pretrain):
    put_run(aws, run_json(data={"source": "s3://bucket/source/botocore/"}), {})
    stored_run = json.loads(aws.s3.objects["runs/evening/run.json"])
    training = parse(TrainingSpec, stored_run["legs"][0]["training"])
    small = SmallS3()
    small.put_checkpoint(f"runs/evening/main/{ATTEMPT}", 8, of=leg_identity(training, stored_run["tokens"]["fingerprint"], 1))
    aws.s3.objects |= {key: body for key, (body, _) in small.objects.items()}
    changed = pretrain("start", "--run", "evening", "--set", "training.optimizer.lr=1e-4", columns=140)
    assert changed.code == 0 and "run evening exists; changed: training.optimizer.lr 0.003 -> 0.0001" in changed.out
    refused = pretrain("start", "--run", "evening", "--set", "training.seed=5", columns=140)
    assert refused.code == 3 and "training.seed" in refused.out and "go back to 1" in refused.out
    assert len(aws.states.executions) == 1


def test_a_run_that_was_always_refused_shows_its_executions_own_report(aws, pretrain, tmp_path):
    aws.states.add("evening-1", "FAILED", input='{"run_id": "evening"}')
    own = "runs/evening/executions/evening-1/report"
    aws.s3.objects |= {f"{own}.html": b"refused", f"{own}.json": b'{"links": {}}'}
    assert pretrain("report", "evening", "--to", str(tmp_path)).code == 0
    assert (tmp_path / "report.html").read_bytes() == b"refused"


@pytest.mark.parametrize(
    "given",
    [
        {"training": {"steps": 300}},
        {"recipe": "llama3_8b", "ablation": "reference"},
        {"training": {"tokens": 10**9}, "budget": {"max_usd": 9.0}},
        {"evaluation": {}},
        {"evaluation": {"tasks": ["arc_easy"], "datasets": [f"hf://datasets/allenai/ai2_arc@{'1' * 40}"]}},
    ],
)
def test_a_run_is_started_again_with_the_settings_of_its_run_json(aws, pretrain, given):
    before = run_json("evening", **given)
    put_run(aws, before, {})
    aws.states.add("evening", "ABORTED", input=json.dumps({"run_id": "evening", **given}))
    done = pretrain("start", "--again", "evening", "--set", "training.optimizer.lr=0.002", "--json")
    assert done.code == 0, done.out
    sent = json.loads(list(aws.states.executions.values())[-1]["input"])
    again = as_input(resolve(sent, default_recipe="local"))
    kept = ("run_id", "recipe", "data", "compute", "budget", "evaluation")
    assert {key: again[key] for key in kept} == {key: before[key] for key in kept}
    for leg in before["legs"]:
        leg["training"]["optimizer"]["lr"] = 0.002
    assert again["legs"] == before["legs"]


def test_starting_again_takes_no_other_input_and_needs_settings(aws, pretrain):
    aws.states.add("evening", "FAILED", input='{"run_id": "evening"}')
    assert "was never admitted, so it has no settings" in pretrain("start", "--again", "evening").out
    put_run(aws, run_json("evening"), {})
    assert pretrain("start", "llama3_8b", "--again", "evening", "--run", "other").out.endswith("leave out a recipe and --run")
