"""Admit's parts: the input, requests, quotas, lock, continued runs, prices, money."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_s3 import SmallS3

from data_prep.strict import SpecError
from infra import admission_checks as checks
from infra import run_lock
from infra.admission import Execution, run_id_of
from infra.assets import ROOT, lambda_files, stage
from infra.continued import continued
from infra.deployment import Deployment
from infra.estimate import estimate
from infra.job_requests import ATTEMPT_DIGITS, MAX_JOB_NAME, job_name, prepare_request, training_request, training_source
from infra.layout import RunLayout
from infra.prices import on_demand_usd_per_hour, price_reader
from infra.quotas import Line, Want, table
from infra.run_spec import RunSpec, input_schema, resolve
from infra.settings import load_settings

DEPLOYMENT = Deployment(
    name="pretrain",
    bucket="data",
    key_arn="arn:aws:kms:us-east-1:111122223333:key/k",
    repository="images",
    repository_uri="111122223333.dkr.ecr.us-east-1.amazonaws.com/images",
    image_tag="0123456789abcdef01234567",
    prepare_role_arn="arn:aws:iam::111122223333:role/prepare",
    training_role_arn="arn:aws:iam::111122223333:role/training",
    secret_arn="arn:aws:secretsmanager:us-east-1:111122223333:secret:s",
    default_recipe="llama3_8b",
)
EXECUTION = Execution(arn="arn:aws:states:us-east-1:111122223333:execution:machine:e1", name="e1", started="2026-11-22T00:00:00Z")
Json = Any


def spec(value: Json | None = None, recipe: str = "llama3_8b") -> RunSpec:
    return resolve(value or {}, default_recipe=recipe)


def price(use: str, kind: str) -> float | None:
    return on_demand_usd_per_hour(kind, "us-east-1")


# -- the input ---------------------------------------------------------------------------------------


def test_the_users_choice_among_exclusive_settings_wins_over_the_recipes() -> None:
    leg = spec({"training": {"tokens": 1_000_000}}).legs[0].training
    assert (leg.steps, leg.tokens) == (None, 1_000_000)
    assert spec({"data": {"tokenizer": {"train": {}}}}).data.tokenizer.uri is None
    two = spec({"training": {"tokens": 5_000}, "legs": [{"name": "a", "training": {"steps": 7}}]}).legs[0].training
    assert (two.steps, two.tokens) == (7, None)


def test_both_of_two_exclusive_settings_are_refused() -> None:
    with pytest.raises(SpecError, match='exactly one of "steps" and "tokens"'):
        spec({"training": {"tokens": 1, "steps": 1}})


def test_a_continued_schedule_needs_a_curve_that_does_not_move() -> None:
    schedule = {"name": "s", "time": "2026-11-22T06:00:00Z", "resume": "latest"}
    with pytest.raises(SpecError, match="total_steps"):
        spec({"schedule": schedule})
    assert spec({"schedule": schedule, "training": {"schedule": {"total_steps": 9000}}}).schedule is not None


def test_a_batch_of_a_source_needs_a_global_batch() -> None:
    capacity = {"compute": {"capacity": [{"instance_type": "ml.p4d.24xlarge", "local_batch_size": 1}]}}
    with pytest.raises(SpecError, match="global_batch_size"):
        spec(capacity)
    assert spec(capacity | {"training": {"global_batch_size": 16}})


def test_the_written_schema_is_current() -> None:
    written = json.loads((ROOT / "docs" / "run-input.schema.json").read_text())
    assert written == json.loads(json.dumps(input_schema())), "run: python -m infra.run_spec --schema > docs/run-input.schema.json"


@pytest.mark.parametrize(
    ("value", "name", "run_id"),
    [
        ({"run_id": "mine"}, "e", "mine"),
        ({}, "8c2f.. _x", "8c2f-x"),
        ({"schedule": {"name": "weekly", "time": "2026-11-23T06:00:00Z"}}, "e", "weekly-20261123T0600"),
    ],
)
def test_the_run_id_comes_from_input_schedule_or_execution(value: Json, name: str, run_id: str) -> None:
    assert run_id_of(spec(value), dataclasses.replace(EXECUTION, name=name)) == run_id


# -- settings ----------------------------------------------------------------------------------------


def test_a_schedules_input_is_checked_at_synth() -> None:
    block = {"schedules": [{"name": "a", "expression": "rate(1 day)", "timezone": "Mars/Base", "input": {"trainig": {}}}]}
    with pytest.raises(SpecError) as caught:
        load_settings({"e": block}, "e")
    assert 'environments.e.schedules[0].input.trainig: unknown key, did you mean "training"?' in str(caught.value)
    assert "no IANA time zone" in str(caught.value)


def test_an_unknown_environment_lists_the_known_ones() -> None:
    with pytest.raises(SpecError, match='did you mean "local"'):
        load_settings({"local": {}}, "locl")


# -- requests ----------------------------------------------------------------------------------------


@given(
    run=st.from_regex(r"[a-zA-Z0-9](-?[a-zA-Z0-9]){0,79}", fullmatch=True),
    leg=st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,22}[a-z0-9])?", fullmatch=True),
)
def test_job_names_fit_sagemaker_with_every_attempt(run: str, leg: str) -> None:
    name = f"{job_name(leg, run, 'arn:1')}-{'9' * (ATTEMPT_DIGITS - 1)}"
    assert len(name) <= MAX_JOB_NAME
    assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*", name)


def test_job_names_differ_by_execution_and_leg() -> None:
    assert len({job_name(leg, "r" * 80, arn) for leg in ("a", "b") for arn in ("arn:1", "arn:2")}) == 4


def test_p5_takes_no_volume_key_and_default_requests_hold_long_known_fields_only() -> None:
    chosen = spec()
    request = training_request(chosen, RunLayout("r"), DEPLOYMENT, "s3://data/tokens/f/", 10)
    source = training_source(chosen, chosen.compute.capacity[0], DEPLOYMENT)
    assert "VolumeKmsKeyId" not in source["ResourceConfig"]
    assert set(source["StoppingCondition"]) == {"MaxRuntimeInSeconds"}
    assert set(source["ResourceConfig"]) == {"InstanceType", "InstanceCount", "VolumeSizeInGB"}
    assert request["EnableNetworkIsolation"] is True
    local = spec(recipe="local")
    assert training_source(local, local.compute.capacity[0], DEPLOYMENT)["ResourceConfig"]["VolumeKmsKeyId"] == DEPLOYMENT.key_arn


def test_large_token_sets_are_streamed_and_a_file_system_replaces_s3() -> None:
    chosen, layout = spec(), RunLayout("r")
    channel = training_request(chosen, layout, DEPLOYMENT, "s3://data/tokens/f/", 1 << 40)["InputDataConfig"][1]
    assert channel["InputMode"] == "FastFile"
    lustre = dataclasses.replace(DEPLOYMENT, file_system_id="fs-1", file_system_mount="mnt")
    channel = training_request(chosen, layout, lustre, "s3://data/tokens/f/", 1 << 40)["InputDataConfig"][1]
    assert channel["DataSource"]["FileSystemDataSource"]["DirectoryPath"] == "/mnt/tokens/f"


def test_the_token_reaches_the_job_as_an_arn_and_only_when_it_is_set() -> None:
    with_token = prepare_request(spec(), RunLayout("r"), DEPLOYMENT, token=True)
    assert with_token["Environment"]["HF_TOKEN_SECRET_ARN"] == DEPLOYMENT.secret_arn
    assert "HF_TOKEN_SECRET_ARN" not in prepare_request(spec(), RunLayout("r"), DEPLOYMENT, token=False)["Environment"]


def test_a_spot_source_waits_at_least_as_long_as_it_runs() -> None:
    chosen = spec({"compute": {"capacity": [{"kind": "spot"}], "max_pending_seconds": 3600}})
    stopping = training_source(chosen, chosen.compute.capacity[0], DEPLOYMENT)["StoppingCondition"]
    assert stopping["MaxWaitTimeInSeconds"] == stopping["MaxRuntimeInSeconds"] + 3600


# -- checks ------------------------------------------------------------------------------------------


def test_p5_is_no_processing_type() -> None:
    chosen = spec({"data": {"instance_type": "ml.p5.48xlarge"}})
    (problem,) = checks.type_problems(chosen, ["ml.p5.48xlarge"], ["ml.c7i.8xlarge"])
    assert str(problem).startswith('data.instance_type: "ml.p5.48xlarge" is no instance type for processing jobs')


def test_ranks_must_match_the_gpus() -> None:
    (problem,) = checks.device_problems(spec({"training": {"processes_per_host": 4}}))
    assert "4 ranks on ml.p5.48xlarge, which has 8 x NVIDIA H100" in problem.message


def test_a_gated_tokenizer_needs_a_token() -> None:
    (problem,) = checks.secret_problems(spec().data, DEPLOYMENT.secret_arn, has_value=False)
    assert "put-secret-value" in problem.message
    assert not list(checks.secret_problems(spec().data, DEPLOYMENT.secret_arn, has_value=True))
    assert not list(checks.secret_problems(spec(recipe="local").data, DEPLOYMENT.secret_arn, has_value=False))


@pytest.mark.parametrize(
    ("described", "has_value"),
    [
        ({}, False),
        ({"VersionIdsToStages": {"v": ["AWSCURRENT"]}, "CreatedDate": 1, "LastChangedDate": 1}, False),
        ({"VersionIdsToStages": {"v": ["AWSCURRENT"]}, "CreatedDate": 1, "LastChangedDate": 2}, True),
        ({"VersionIdsToStages": {"v": ["AWSPREVIOUS"]}, "CreatedDate": 1, "LastChangedDate": 2}, False),
    ],
)
def test_whether_a_token_is_set_is_known_without_reading_it(described: Json, has_value: bool) -> None:
    assert checks.secret_has_value(SimpleNamespace(describe_secret=lambda SecretId: described), "arn") is has_value


def test_a_run_above_its_budget_is_refused_with_its_price() -> None:
    chosen = spec({"budget": {"max_usd": 20}})
    (problem,) = checks.budget_problems(chosen, estimate(chosen, price, prepared=True))
    assert problem.path == "budget.max_usd"
    assert "20 is less than" in problem.message


def test_a_budget_without_a_price_is_refused() -> None:
    chosen = spec({"compute": {"instance_type": "ml.p9.xlarge"}})
    (problem,) = checks.budget_problems(chosen, estimate(chosen, price, prepared=True))
    assert "no price is known for ml.p9.xlarge" in problem.message


def test_a_training_plan_is_described_and_never_bought() -> None:
    arn = "arn:aws:sagemaker:us-east-1:111122223333:training-plan/p"
    chosen = spec({"compute": {"capacity": [{"kind": "training_plan", "training_plan_arn": arn}]}})
    plan = {"Status": "Expired", "ReservedCapacitySummaries": [{"InstanceType": "ml.p4d.24xlarge"}]}
    sagemaker = SimpleNamespace(describe_training_plan=lambda TrainingPlanName: plan)
    messages = [problem.message for problem in checks.training_plan_problems(chosen, sagemaker)]
    assert any("is Expired" in message for message in messages)
    assert any("reserves ml.p4d.24xlarge, not ml.p5.48xlarge" in message for message in messages)
    assert checks.wants(chosen, prepared=True) == []


class Quotas:
    """ListServiceQuotas and ListAWSDefaultServiceQuotas."""

    def __init__(self, applied: dict[str, float], defaults: dict[str, float]) -> None:
        self.lists = {"list_service_quotas": applied, "list_aws_default_service_quotas": defaults}

    def get_paginator(self, name: str) -> Any:
        values = self.lists[name]
        page = {"Quotas": [{"QuotaName": k, "Value": v, "QuotaCode": "L-1"} for k, v in values.items()]}
        return SimpleNamespace(paginate=lambda **_: [page])


class Jobs:
    """One training job in progress on two instances."""

    def get_paginator(self, name: str) -> Any:
        found = [{"TrainingJobName": "other"}] if name == "list_training_jobs" else []
        return SimpleNamespace(paginate=lambda **_: [{"TrainingJobSummaries": found, "ProcessingJobSummaries": []}])

    def describe_training_job(self, TrainingJobName: str) -> Json:
        return {"ResourceConfig": {"InstanceType": "ml.p5.48xlarge", "InstanceCount": 2}}


def test_a_quota_is_its_limit_minus_what_runs() -> None:
    want = Want(path="compute.instance_count", use="training job", instance_type="ml.p5.48xlarge", count=2)
    (line,) = table([want], Quotas({want.quota: 3}, {}), Jobs())
    assert (line.limit, line.used, line.enough) == (3, 2, False)
    assert 'quota 2 for "ml.p5.48xlarge for training job usage", this account has 3 (2 in use)' in line.message("us-west-2")
    assert "https://us-west-2.console.aws.amazon.com/servicequotas/" in line.message("us-west-2")


def test_a_quota_that_was_never_raised_has_its_default() -> None:
    want = Want(path="x", use="training job", instance_type="ml.p5.48xlarge", count=1)
    (line,) = table([want], Quotas({}, {want.quota: 0}), Jobs())
    assert (line.limit, line.default) == (0, True)


def test_a_quota_that_does_not_exist_says_so() -> None:
    line = Line(want=Want(path="x", use="training job", instance_type="ml.x", count=1), limit=None, used=0)
    assert not line.enough
    assert "is not offered there" in line.message("eu-west-1")


def test_prices_come_from_the_list_and_fall_back_to_the_table() -> None:
    product = {
        "product": {"attributes": {"usagetype": "USW2-Train:ml.p5.48xlarge"}},
        "terms": {"OnDemand": {"t": {"priceDimensions": {"d": {"unit": "Hrs", "pricePerUnit": {"USD": "55.5"}}}}}},
    }
    listed = SimpleNamespace(get_paginator=lambda name: SimpleNamespace(paginate=lambda **_: [{"PriceList": [json.dumps(product)]}]))
    assert price_reader(listed, "us-west-2")("training", "ml.p5.48xlarge") == 55.5

    def broken(name: str) -> Any:
        raise OSError("no network")

    assert price_reader(SimpleNamespace(get_paginator=broken), "us-west-2")("training", "ml.p5.48xlarge") == 63.296


# -- lock and continued runs -------------------------------------------------------------------------


class Executions:
    """DescribeExecution."""

    class exceptions:
        class ExecutionDoesNotExist(Exception):
            pass

    def __init__(self, status: str | None) -> None:
        self.status = status

    def describe_execution(self, executionArn: str) -> Json:
        if self.status is None:
            raise self.exceptions.ExecutionDoesNotExist
        return {"status": self.status}


def test_a_run_has_one_active_execution() -> None:
    s3, layout = SmallS3(), RunLayout("r")
    run_lock.acquire(s3, Executions("RUNNING"), "data", layout, "arn:1")
    run_lock.acquire(s3, Executions("RUNNING"), "data", layout, "arn:1")  # Admit may be retried
    with pytest.raises(run_lock.RunIsActive, match="active in execution arn:1"):
        run_lock.acquire(s3, Executions("RUNNING"), "data", layout, "arn:2")


@pytest.mark.parametrize("status", ["FAILED", "SUCCEEDED", "ABORTED", None])
def test_the_lock_of_an_ended_execution_is_taken_over(status: str | None) -> None:
    s3, layout = SmallS3(), RunLayout("r")
    run_lock.acquire(s3, Executions(status), "data", layout, "arn:1")
    run_lock.acquire(s3, Executions(status), "data", layout, "arn:2")
    assert json.loads(s3.objects[layout.lock][0])["execution_arn"] == "arn:2"


def earlier(steps: int, done: int | None) -> tuple[SmallS3, RunSpec]:
    s3 = SmallS3()
    schedule = {"name": "daily", "time": "2026-11-22T06:00:00Z", "resume": "latest"}
    chosen = spec({"schedule": schedule, "training": {"steps": 100, "schedule": {"decay": "constant"}}})
    training = {"model": dataclasses.asdict(chosen.legs[0].training.model), "steps": steps}
    s3.put("runs/daily/run.json", json.dumps({"tokens": {"fingerprint": "f1"}, "legs": [{"name": "main", "training": training}]}))
    s3.put("runs/daily/main/checkpoints/step-50/.metadata", "x")
    if done is not None:
        s3.put("runs/daily/main/metrics/result.json", json.dumps({"steps": done}))
    return s3, chosen


@pytest.mark.parametrize(("steps", "done", "target"), [(100, 100, 200), (200, 100, 200), (100, None, 100)])
def test_each_firing_goes_on_for_more_steps_and_finishes_what_was_left(steps: int, done: int | None, target: int) -> None:
    s3, chosen = earlier(steps, done)
    assert continued(chosen, RunLayout("daily"), s3, "data").spec.legs[0].training.steps == target


def test_other_tokens_cannot_continue_a_run() -> None:
    s3, chosen = earlier(100, 100)
    before = continued(chosen, RunLayout("daily"), s3, "data")
    assert not list(before.problems("f1"))
    (problem,) = before.problems("f2")
    assert "choose another run_id" in problem.message


def test_a_run_without_checkpoints_starts_afresh() -> None:
    s3, chosen = earlier(100, 100)
    del s3.objects["runs/daily/main/checkpoints/step-50/.metadata"]
    before = continued(chosen, RunLayout("daily"), s3, "data")
    assert before.previous is None
    assert before.spec.legs[0].training.steps == 100


# -- the package -------------------------------------------------------------------------------------


def test_the_functions_package_imports_alone_and_holds_no_wheel(tmp_path: Path) -> None:
    stage(lambda_files(), tmp_path)
    assert not list(tmp_path.rglob("*.so"))
    handlers = ["admit", "triage", "report", "patrol"]
    code = "import sys; " + "; ".join(f"import infra.functions.{name}" for name in handlers)
    code += "; bad = {'torch', 'aws_cdk', 'numpy', 'yaml', 'sagemaker'} & set(sys.modules); assert not bad, bad; print(infra.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))


# -- memory ------------------------------------------------------------------------------------------


def test_recipes_fit_their_devices() -> None:
    assert [list(checks.device_problems(spec(recipe=name))) for name in ("llama3_8b", "llama3_70b")] == [[], []]


def test_a_batch_that_does_not_fit_is_refused_with_need_limit_and_fix() -> None:
    (found,) = checks.device_problems(spec({"training": {"local_batch_size": 8}}))
    assert found.path == "training.local_batch_size"
    assert re.search(
        r"8 samples of 8192 tokens need about \d+ GiB on each NVIDIA H100 of ml.p5.48xlarge, which has 79 GiB; lower", found.message
    )


def test_an_alternative_type_is_checked_with_its_own_batch() -> None:
    smaller = {"kind": "on_demand", "instance_type": "ml.p4d.24xlarge"}
    refused = list(checks.device_problems(spec({"compute": {"capacity": [{}, smaller]}})))
    assert ["ml.p4d.24xlarge" in problem.message for problem in refused] == [True]
    fitting = {"training": {"global_batch_size": 16}, "compute": {"capacity": [{}, smaller | {"local_batch_size": 1}]}}
    assert list(checks.device_problems(spec(fitting))) == []
