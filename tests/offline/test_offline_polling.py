"""The machine with polling in place of `.sync`: the same paths, all of its states, branches and error entries, and what it is allowed."""

import pytest
from aws_models import definition, findings
from aws_models.coverage import measure
from aws_models.needs import Names, of_api_calls, of_tasks
from aws_models.pipeline import Pipeline
from aws_models.scenarios import LOCAL, LOST, Path, Scenario, failed, paths
from aws_models.simulator import decide
from aws_models.synthesis import settings_of, synthesise
from aws_models.unreported import deliveries

# With `.sync` alone a task can fail although its job has completed.
ONLY_SYNC = ("the training task fails although its job completed",)


@pytest.fixture(scope="module")
def polled(tmp_path_factory):
    return synthesise(tmp_path_factory.mktemp("polled"), settings_of(training_task="polling"))


@pytest.fixture(scope="module")
def polled_runs(polled):
    every = {name: path for name, path in paths(polled.definition).items() if name not in ONLY_SYNC}
    lost = Scenario(input=LOCAL, tokens=True, tasks={"Job status": [LOST], "Triage": [LOST]})
    every["the job's status cannot be read"] = failed(lost, "Unexpected", "Train", visits=("Job status", "Triage"))
    unread = Scenario(input=LOCAL, tokens=True, tasks={"Job status": [LOST]})
    every["the job's status cannot be read, and the job has completed"] = Path(scenario=unread, visits=("Triage", "Leg trained"))
    pipeline = Pipeline(polled)
    return {name: (path, pipeline.run(path.scenario)) for name, path in every.items()}


def test_its_text_is_valid(polled):
    assert findings.asl_validator(polled.definition) == [] and definition.problems(polled.definition) == []


def test_every_state_branch_and_error_entry_is_used(polled, polled_runs):
    coverage = measure(polled.definition, [run.execution for _, run in polled_runs.values()])
    assert coverage.missing == [] and set(coverage.figures.values()) == {1.0}


def test_every_path_ends_as_with_sync(polled_runs):
    wrong = {}
    for name, (path, run) in polled_runs.items():
        done = run.execution
        if run.problems or (done.status, done.error) != (path.status, path.error) or any(word not in done.cause for word in path.says):
            wrong[name] = (done.status, done.error, done.cause[:200], run.problems[:2])
    assert wrong == {}


def test_its_calls_are_allowed(polled, polled_runs):
    names = Names(polled.templates)
    machine = names.role("Machine")
    calls = [need for _, run in polled_runs.values() for need in of_tasks(names, machine, run.execution.calls)]
    stopped = deliveries(polled)
    calls += of_api_calls(names, stopped.world.calls, stopped.world.missing)
    wanted = list({str(need.request): need for need in calls}.values())
    decisions = decide([(polled.policies, need.request) for need in wanted])
    assert [f"{need.request}" for need, decision in zip(wanted, decisions, strict=True) if not decision.allowed] == []


def test_a_stopped_execution_stops_its_job(polled, ended):
    for found in (deliveries(polled), ended):  # with `.sync` Step Functions does it, unless the task had failed before
        stops = [call.parameters for call in found.world.calls if call.operation.startswith("Stop")]
        assert stops == [{"TrainingJobName": "r-1"}] * 2 + [{"ProcessingJobName": "p-1"}]
