"""Every path through the state machine, with the functions' own code; two implementations of JSONata agree on every expression."""

from collections import Counter

import pytest
from aws_models import node, patterns
from aws_models.coverage import measure
from aws_models.pipeline import Scenario
from aws_models.queries import VOLATILE
from aws_models.scenarios import LOCAL
from ledger import LEDGER


def test_every_state_branch_and_error_entry_is_used(synthesised, runs):
    coverage = measure(synthesised.definition, [run.execution for _, run in runs.values()])
    kinds = Counter(part.what for part in coverage.parts)
    LEDGER.tables["state machine coverage"] = [
        f"{len(runs)} executions",
        *(f"{what:8} {sum(part.what == what for part in coverage.used):4} of {count}" for what, count in sorted(kinds.items())),
    ]
    LEDGER.figures |= coverage.figures
    assert coverage.missing == []


def test_every_path_ends_as_it_should(runs):
    wrong = {}
    for name, (path, run) in runs.items():
        done = run.execution
        found = [f"ended {done.status} {done.error}: {done.cause[:200]}"] if (done.status, done.error) != (path.status, path.error) else []
        found += [f"does not say {word!r}: {done.cause[:300]}" for word in path.says if word not in done.cause]
        found += [f"misses {state}" for state in path.visits if state not in done.path]
        found += [f"visits {state}" for state in path.avoids if state in done.path]
        if found:
            wrong[name] = found
    assert wrong == {}


def test_every_failure_is_told_once_and_with_its_runbook_section(runs):
    for name, (path, run) in runs.items():
        if path.status == "FAILED" and name != "the failure cannot be sent":
            told = [call for call in run.execution.calls if call.state == "Notify" and call.ended == "succeeded"]
            assert len(told) == 1, name
            assert "#" + run.execution.error.lower() in told[0].arguments["Message"], name


def test_every_call_on_every_path_fits_the_service_models(runs):
    """Task arguments, scripted results, and the direct calls of the functions' code."""
    calls = sum(len(run.execution.calls) + len(run.world.calls) for _, run in runs.values())
    LEDGER.figures["calls"] = calls
    LEDGER.tables["patterns that Python cannot compile, of the services called"] = [*map(str, patterns.uncompiled.items())] or ["none"]
    assert {name: run.problems for name, (_, run) in runs.items() if run.problems} == {}
    assert calls > 500


def test_expressions_mean_the_same_in_the_reference_implementation(runs):
    """jsonata-python against npm jsonata, on every evaluation of every run."""
    unique = {
        (e.where, e.expression, str(e.states), str(e.variables)): e
        for _, run in runs.values()
        for e in run.queries.evaluations
        if not any(volatile in e.expression for volatile in VOLATILE)
    }
    ours = list(unique.values())
    theirs = node.call("jsonata", [{"expression": e.expression, "bindings": {"states": e.states, **e.variables}} for e in ours])
    assert [(e.where, e.result, other) for e, other in zip(ours, theirs, strict=True) if other != {"value": e.result}] == []
    LEDGER.tables["JSONata"] = [
        f"{len(ours)} evaluations of {len({e.expression for e in ours})} expressions agree in jsonata-python and npm jsonata"
    ]


def test_attempts_have_names_and_folders_of_their_own_and_go_on_from_the_one_before(runs):
    resumed, begun = 0, {}
    for name, (_, run) in runs.items():
        folders, jobs = {}, set()
        for call in run.execution.calls:
            if call.state != "Train":
                continue
            leg, folder = call.arguments["HyperParameters"]["leg"], call.arguments["CheckpointConfig"]["S3Uri"]
            earlier, job = folders.setdefault(leg, []), call.arguments["TrainingJobName"]
            if job in jobs and (call.retry or job in run.world.under_way):
                continue  # the same request again, not another attempt
            assert folder not in earlier and folder.endswith("/") and job not in jobs, name
            assert folder.rstrip("/").rsplit("-", 2)[1:] == job.rsplit("-", 2)[1:], name  # one can be told from the other
            channels = {channel["ChannelName"]: channel for channel in call.arguments["InputDataConfig"]}
            if "checkpoint" in channels:
                source = channels["checkpoint"]["DataSource"]["S3DataSource"]["S3Uri"]
                assert source.endswith("/checkpoints/step-1/") and not source.startswith(folder), name
                assert not earlier or any(source.startswith(before) for before in earlier) or "/runs/trunk/" in source, name
                assert channels["checkpoint"]["InputMode"] == "FastFile", name
                resumed += bool(earlier)
            begun.setdefault(name, []).append(channels.keys() & {"checkpoint", "initial"})
            earlier.append(folder)
            jobs.add(job)
    assert resumed > 5
    assert begun["weights of a finished leg, twice"] == [{"initial"}, {"initial"}]
    assert begun["weights of the Hub, copied before"] == [{"initial"}]
    assert begun["a cool-down, twice from its trunk and then from its own"] == [{"checkpoint"}] * 3


def test_a_job_whose_creator_got_no_answer_is_not_created_again(runs):
    """Each job's name is asked for until it has ended, and no other job is made beside it."""
    made = {
        name: [job for job in run.world.jobs if "TrainingJobStatus" in run.world.jobs[job]]
        for name, (_, run) in runs.items()
        if "answer is lost" in name
    }
    assert {name: len(jobs) for name, jobs in made.items()} == {
        "the answer is lost for every job": 2,  # one of them the evaluation
        "the answer is lost, and the job fails": 2,
        "the answer is lost, and the job fails for good": 1,
    }
    for name in made:
        run = runs[name][1]
        assert run.world.under_way and all(run.execution.seconds >= until for until in run.world.under_way.values())


def test_the_warm_pool_of_a_faulty_host_is_given_up_before_the_next_attempt(runs):
    ended = {}
    for name, (_, run) in runs.items():
        names = [call.arguments["TrainingJobName"] for call in run.execution.calls if call.state == "Train"]
        given_up = [call.parameters for call in run.world.calls if call.operation == "UpdateTrainingJob"]
        if given_up:
            ended[name] = (given_up, names)
    ((given_up, names),) = ended.values()
    assert given_up == [{"TrainingJobName": names[0], "ResourceConfig": {"KeepAlivePeriodInSeconds": 0}}]
    assert len(names) == 2


def test_nothing_is_created_before_the_last_check_has_passed(runs):
    """A refused input leaves its record and its report, and starts no job."""
    for name, (_path, run) in runs.items():
        if run.execution.error == "Refused":
            written = [call.parameters["Key"] for call in run.world.calls if call.operation == "PutObject"]
            created = [call.state for call in run.execution.calls if call.state in ("Build image", "Prepare data", "Train")]
            assert created == [], name
            assert all("/executions/" in key or key.endswith("lock.json") for key in written), name


@pytest.mark.parametrize(("legs", "sources"), [(16, 1), (1, 8), (16, 8)])
def test_the_largest_inputs_are_run_or_refused_but_never_cut_off_by_a_size_limit(pipeline, legs, sources):
    """States.DataLimitExceeded passes every catcher: a plan that is too large must be refused in Admit's words."""
    capacity = [{"kind": "on_demand"}] * sources
    input = {
        **LOCAL,
        "legs": [{"name": f"leg{index}"} for index in range(legs)],
        "compute": {"capacity": capacity},
        "budget": {"max_usd": 1e6},
    }
    done = pipeline.run(Scenario(input=input, tokens=True)).execution
    assert done.status == "SUCCEEDED" or done.error == "Refused", (done.error, done.cause)
