"""Which execution a name means: the run's own, whatever Step Functions calls it."""

from __future__ import annotations

import json

import pytest
from cli_aws import MACHINE, Deployed

from infra.cli.exits import CommandError
from infra.cli.find_run import find_run
from infra.cli.start import read_input, start_execution
from infra.run.layout import RunLayout
from infra.run.run_record import ExecutionRecord, write_record

INPUT = json.dumps({"run_id": "evening"})


def owns(aws: Deployed, execution_arn: str, run_id: str = "evening") -> None:
    aws.s3.objects[RunLayout(run_id).lock] = json.dumps({"execution_arn": execution_arn}).encode()


def recorded(aws: Deployed, execution_arn: str, started: str, outcome: str = "admitted") -> None:
    record = ExecutionRecord(execution_arn=execution_arn, run_id="evening", started=started, outcome=outcome)
    write_record(aws.s3, "bucket", record)


def test_the_active_execution_is_meant_while_a_later_one_is_refused(aws, pretrain):
    first = aws.states.add("evening-20260921-140000-aaaa", input=INPUT)
    owns(aws, first)
    recorded(aws, first, "2026-09-21T14:00:00Z")
    second = aws.states.add("evening-20260921-140100-bbbb", "FAILED", input=INPUT)
    recorded(aws, second, "2026-09-21T14:01:00Z", "refused")
    assert find_run(aws, "evening").execution == first
    assert pretrain("stop", "evening", "--yes").code == 0
    assert aws.states.stopped == [first]
    assert find_run(aws, "evening").execution == second  # both have ended: the newest
    assert find_run(aws, "evening-20260921-140000-aaaa").execution == first  # by its own name it is still found


def test_an_execution_that_admit_has_not_answered_yet_is_found_by_its_input(aws):
    ended = aws.states.add("evening-1", "SUCCEEDED", input=INPUT)
    owns(aws, ended)
    recorded(aws, ended, "2026-09-21T14:00:00Z")
    waiting = aws.states.add("whatever", input=INPUT)
    assert find_run(aws, "evening").execution == waiting


def test_console_and_schedule_choose_names_of_their_own(aws):
    console = aws.states.add("0f3a-console", "FAILED", input=json.dumps({"run_id": "conrun"}))
    fired = aws.states.add("8d-weekly", "SUCCEEDED", input=json.dumps({"schedule": {"name": "weekly", "time": "2026-09-21T06:00:00Z"}}))
    assert find_run(aws, "conrun").execution == console
    assert find_run(aws, "weekly-20260921T0600").execution == fired
    assert find_run(aws, None).run_id == "weekly-20260921T0600"
    assert find_run(aws, fired).run_id == "weekly-20260921T0600"


def test_a_run_whose_name_begins_like_another_is_not_taken_for_it(aws):
    aws.states.add("evening-2-20260921-140000-aaaa", input=json.dumps({"run_id": "evening-2"}))
    mine = aws.states.add("evening-20260921-130000-aaaa", input=INPUT)
    assert find_run(aws, "evening").execution == mine


@pytest.mark.parametrize("letters", [1, 58, 59, 60, 70, 79, 80])
def test_run_ids_of_every_length_start_again_and_again_and_are_found(aws, letters):
    run_id = "r" * letters
    arns = [start_execution(aws, {"run_id": run_id}) for _ in range(5)]
    names = [arn.rsplit(":", 1)[-1] for arn in arns]
    assert len(set(names)) == 5 and max(map(len, names)) <= 80
    assert all(name[-21:-5].replace("-", "").isdigit() for name in names)  # the whole time stamp
    assert find_run(aws, run_id).run_id == run_id
    owns(aws, arns[2], run_id)
    assert find_run(aws, run_id).execution == arns[2]


def test_a_run_that_step_functions_has_forgotten_still_has_its_report(aws, pretrain, tmp_path):
    aws.s3.objects |= {"runs/old/report.json": b'{"links": {}}', "runs/old/report.html": b"<html>", "runs/old/run.json": b"{}"}
    assert pretrain("report", "old", "--to", str(tmp_path)).code == 0
    watched = pretrain("watch", "old")
    assert watched.code == 4 and "pretrain report old" in watched.out


def test_a_damaged_lock_does_not_hide_the_run(aws):
    running = aws.states.add("x", input=INPUT)
    aws.s3.objects[RunLayout("evening").lock] = b'{"execution'
    assert find_run(aws, "evening").execution == running


def test_nothing_is_found_in_an_empty_deployment(aws, pretrain):
    for words in (("watch",), ("watch", "nosuch"), ("watch", f"{MACHINE.replace('stateMachine', 'execution')}:nosuch")):
        assert pretrain(*words).code == 4


@pytest.mark.parametrize(
    ("settings", "run_id", "words"),
    [
        (["training.steps=10", "training.steps=20"], None, "--set training.steps=10 and --set training.steps=20 contradict"),
        (["training.steps=10", 'training={"steps": 20}'], None, "contradict"),
        (["training.optimizer=3", "training.optimizer.lr=1e-4"], None, "contradict"),
        (["run_id=a"], "b", "--run and --set run_id=a contradict"),
    ],
)
def test_contradicting_settings_are_refused(pretrain, aws, settings, run_id, words):
    flags = [word for setting in settings for word in ("--set", setting)] + (["--run", run_id] if run_id else [])
    result = pretrain("start", *flags)
    assert result.code == 2 and words in result.out


def test_the_same_setting_twice_is_no_contradiction():
    assert read_input(None, ["training.steps=10", "training.steps=10", "training.seed=1"], None, None) == {
        "training": {"steps": 10, "seed": 1}
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"training": {"steps": 1, "steps": 2}}', 'the key "steps" is given twice'),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested too deeply"),
        ('{"data": ' + "[" * 200_000 + "]" * 200_000 + "}", "nested too deeply"),
        ('{"run_id": 1' + "0" * 5000 + "}", "no JSON"),
        ("[1]", "must hold one JSON object"),
        ("\x00", "no JSON"),
    ],
)
def test_odd_input_files_end_in_one_sentence(aws, pretrain, tmp_path, text, words):
    file = tmp_path / "input.json"
    file.write_text(text)
    result = pretrain("start", "--input", str(file))
    assert result.code == 3 and words in result.out
    assert aws.states.executions == {}


@pytest.mark.parametrize("depth", [100, 300, 900])
def test_nesting_that_json_still_reads_is_refused_in_a_sentence(aws, pretrain, tmp_path, depth):
    file = tmp_path / "input.json"
    file.write_text('{"training": {"model": ' + '{"a":' * depth + "1" + "}" * depth + "}}")
    result = pretrain("start", "--input", str(file))
    assert result.code == 3 and "Traceback" not in result.out


def test_a_setting_of_a_named_entry_is_reached_by_its_name() -> None:
    file = json.dumps({"data": {"sources": [{"name": "web", "weight": 3}, {"name": "code", "weight": 1}]}, "legs": [{"name": "a"}]})
    value = read_input(None, ["data.sources.code.weight=2", "legs.a.training.steps=5"], None, file)
    assert value["data"]["sources"] == [{"name": "web", "weight": 3}, {"name": "code", "weight": 2}]
    assert value["legs"] == [{"name": "a", "training": {"steps": 5}}]
    with pytest.raises(CommandError, match='"sources" has no entry "cod", did you mean "code"'):
        read_input(None, ["data.sources.cod.weight=2"], None, file)
    with pytest.raises(CommandError, match='"sources" has no entry "0"; known: code, web'):
        read_input(None, ["data.sources.0.weight=2"], None, file)
