"""The embedded AWS's jobs, builds and integrations, on a small pipeline."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest
from example_machine import ROLE, Example, deploy_example

from local_aws import embedded
from local_aws.injected_faults import Fault

pytestmark = pytest.mark.embedded


def processes_of(execution: str) -> list[str]:
    """Command lines of processes that belong to an execution's jobs."""
    name, found = execution.rpartition(":")[2], []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_text().replace("\0", " ")
            environment = (entry / "environ").read_text()
        except (OSError, UnicodeDecodeError):
            continue
        if f"_JOB_NAME={name}" in environment or name in command:
            found.append(command)
    return found


def test_whole_pipeline_runs_and_hands_its_results_on(example: Example) -> None:
    execution = example.start({"name": "main", "behaviour": "go"}, {"name": "two", "behaviour": "meet", "hosts": 2})
    ended = example.wait(execution)
    assert ended["status"] == "SUCCEEDED", ended
    output = json.loads(ended["output"])
    assert [leg["status"] for leg in output["legs"]] == ["Completed", "Completed"]
    assert isinstance(output["legs"][0]["started"], int)  # epoch milliseconds, as Step Functions shows times
    assert output["answer"] == "42"  # exported by the build
    assert output["admitted"]["p5"] is True  # the function found the quota by its exact name, over pages
    assert output["role"] == ROLE
    name = ended["name"]
    assert example.objects(f"tokens/{name}/") == {"a.txt": "TEXT A", "b.txt": "TEXT B"}  # two hosts, half the input each
    assert example.objects(f"runs/{name}/two/") == {"algo-1.txt": "from algo-1", "algo-2.txt": "from algo-2"}
    assert set(example.objects(f"jobs/{name}-main/")) == {"output/model.tar.gz"}
    seen = json.loads(example.lines(execution, "two", "algo-2")[0])
    assert seen["parameters"] == {"leg": "two"}
    assert seen["tokens"] == {"a.txt": "TEXT A", "b.txt": "TEXT B"}
    assert (seen["host"], seen["folder"]) == ("algo-2", "/opt/program")
    assert seen["addresses"] == ["127.0.0.1", "127.0.0.2"]
    assert seen["ambient"] == ["AWS_REGION"]  # a job with network isolation has no credentials
    assert "met algo-2" in example.lines(execution, "two")
    metrics = {item["MetricName"]: item["Value"] for item in example.job(execution, "two")["FinalMetricDataList"]}
    assert metrics == {"train:loss": 1.25}


def test_history_shows_states_inside_a_map(example: Example) -> None:
    execution = example.start({"name": "main", "behaviour": "go"}, start_at="train")
    example.wait(execution)
    events = example.aws.client("stepfunctions").get_execution_history(executionArn=execution)["events"]
    entered = [event["stateEnteredEventDetails"]["name"] for event in events if "stateEnteredEventDetails" in event]
    assert entered == ["Begin", "Train legs", "Train", "Done"]


def test_failure_file_becomes_the_reason_and_the_cause(example: Example) -> None:
    execution = example.start({"name": "main", "behaviour": "fail"}, start_at="train")
    ended = example.wait(execution)
    assert (ended["status"], ended["error"]) == ("FAILED", "States.TaskFailed")
    job = json.loads(ended["cause"])
    assert job["FailureReason"] == "AlgorithmError: BadShard (stop): shard 3 is short, exit code: 9"
    assert job["TrainingJobStatus"] == "Failed"
    transitions = [item["Status"] for item in example.job(execution, "main")["SecondaryStatusTransitions"]]
    assert transitions == ["Starting", "Downloading", "Training", "Uploading", "Failed"]


def test_processing_message_becomes_the_exit_message(example: Example) -> None:
    s3 = example.aws.client("s3")
    s3.put_object(Bucket="example", Key="source/c.txt", Body=b"poison")
    try:
        ended = example.wait(example.start({"name": "main", "behaviour": "go"}))
    finally:
        s3.delete_object(Bucket="example", Key="source/c.txt")
    job = json.loads(ended["cause"])
    assert job["ExitMessage"] == "CorruptText (stop): c.txt holds poison"
    assert job["FailureReason"].endswith("exit code: 2")


def test_failed_build_names_its_phase_and_still_runs_post_build(example: Example) -> None:
    ended = example.wait(example.start(fail="yes"))
    assert (ended["status"], ended["error"]) == ("FAILED", "States.TaskFailed")
    build = json.loads(ended["cause"])["Build"]
    phases = {phase["PhaseType"]: phase.get("PhaseStatus") for phase in build["Phases"]}
    assert phases["BUILD"] == "FAILED"
    assert phases["POST_BUILD"] == "SUCCEEDED"
    assert build["BuildStatus"] == "FAILED"
    log = build["Logs"]
    events = example.aws.client("logs").get_log_events(logGroupName=log["GroupName"], logStreamName=log["StreamName"], startFromHead=True)
    messages = [event["message"] for event in events["events"]]
    assert "compile error" in messages
    assert "succeeding: 0" in messages


def test_stopping_the_execution_stops_the_job_and_all_its_processes(example: Example) -> None:
    execution = example.start({"name": "main", "behaviour": "wait"}, start_at="train")
    example.wait_for_line(execution, "main", "waiting")
    assert any("sleep 1234" in command for command in processes_of(execution))
    example.aws.client("stepfunctions").stop_execution(executionArn=execution, error="Asked", cause="by the test")
    job = wait_until_ended(example, execution)
    assert job["TrainingJobStatus"] == "Stopped"
    assert [item["Status"] for item in job["SecondaryStatusTransitions"]][-3:] == ["Stopping", "Uploading", "Stopped"]
    assert example.wait(execution)["status"] == "ABORTED"
    assert processes_of(execution) == []
    # What the job wrote after SIGTERM reached S3.
    assert "last.txt" in example.objects(f"runs/{execution.rpartition(':')[2]}/main/")


def test_job_over_its_time_limit_ends_stopped(example: Example) -> None:
    execution = example.start({"name": "main", "behaviour": "wait", "limit": 1}, start_at="train")
    ended = example.wait(execution)
    job = json.loads(ended["cause"])
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert ended["error"] == "States.TaskFailed"
    assert processes_of(execution) == []


def test_stopped_job_can_be_reported_as_a_normal_return(example: Example) -> None:
    example.aws.inject(stopped_as="return")
    ended = example.wait(example.start({"name": "main", "behaviour": "wait", "limit": 1}, start_at="train"))
    assert ended["status"] == "SUCCEEDED"
    assert json.loads(ended["output"])["legs"][0]["status"] == "Stopped"


def test_map_fails_fast_and_stops_the_other_legs(example: Example) -> None:
    execution = example.start({"name": "slow", "behaviour": "wait"}, {"name": "bad", "behaviour": "fail"}, start_at="train")
    ended = example.wait(execution)
    assert "BadShard" in ended["cause"]
    assert wait_until_ended(example, execution, "slow")["TrainingJobStatus"] == "Stopped"
    assert processes_of(execution) == []


def test_task_timeout_reaches_the_job(example: Example) -> None:
    execution = example.start({"name": "main", "behaviour": "wait", "timeout": 2}, start_at="train")
    assert example.wait(execution)["error"] == "States.Timeout"
    assert wait_until_ended(example, execution)["TrainingJobStatus"] == "Stopped"


def test_one_failing_host_fails_the_job_and_ends_the_others(example: Example) -> None:
    execution = example.start({"name": "main", "behaviour": "half", "hosts": 2}, start_at="train")
    job = json.loads(example.wait(execution)["cause"])
    assert job["FailureReason"].endswith("exit code: 7")
    assert processes_of(execution) == []


def test_checkpoints_of_an_earlier_attempt_are_there(example: Example) -> None:
    execution = example.start({"name": "main", "behaviour": "go"}, start_at="train")
    example.wait(execution)
    first = example.job(execution, "main")
    request = {key: first[key] for key in ("AlgorithmSpecification", "RoleArn", "OutputDataConfig", "ResourceConfig", "CheckpointConfig")}
    request |= {"StoppingCondition": first["StoppingCondition"], "InputDataConfig": first["InputDataConfig"]}
    again = f"{first['TrainingJobName']}-2"
    example.aws.client("sagemaker").create_training_job(TrainingJobName=again, **request)
    wait_for_job(example, again)
    seen = json.loads(example.lines(execution, "main-2")[0])
    assert seen["before"] == ["algo-1.txt"]
    assert "AWS_ENDPOINT_URL" in seen["ambient"]  # without network isolation the job can reach AWS


@pytest.mark.parametrize("outcome", ["CapacityError", "InternalServerError"])
def test_injected_failure_ends_the_job_before_it_starts(example: Example, outcome: Any) -> None:
    example.aws.inject(Fault(id=outcome, on="TrainingJob", outcome=outcome))
    execution = example.start({"name": "main", "behaviour": "go"}, start_at="train")
    job = json.loads(example.wait(execution)["cause"])
    assert job["FailureReason"].startswith(f"{outcome}: ")
    assert "TrainingStartTime" not in job
    assert example.lines(execution, "main") == []
    assert example.wait(example.start({"name": "main", "behaviour": "go"}, start_at="train"))["status"] == "SUCCEEDED"  # once only


def test_injected_throttling_fails_the_call(example: Example) -> None:
    example.aws.inject(Fault(id="throttle", on="CreateTrainingJob", error="ThrottlingException"))
    ended = example.wait(example.start({"name": "main", "behaviour": "go"}, start_at="train"))
    assert ended["error"] == "SageMaker.AmazonSageMakerException"
    assert "Error Code: ThrottlingException" in ended["cause"]


@pytest.mark.parametrize(
    ("outcome", "ending"),
    [
        ("TimeLimit", ("Stopped", "MaxRuntimeExceeded")),
        ("Spot", ("Stopped", "MaxWaitTimeExceeded")),
        ("InternalServerError", ("Failed", "Failed")),
    ],
)
def test_injected_fault_strikes_at_a_line_of_the_running_job(example: Example, outcome: Any, ending: tuple[str, str]) -> None:
    example.aws.inject(Fault(id=f"{outcome} in step 2", on="TrainingJob", outcome=outcome, after='"step": 2'))
    execution = example.start({"name": "main", "behaviour": "wait"}, start_at="train")
    job = json.loads(example.wait(execution)["cause"])
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ending
    assert job["TrainingStartTime"]
    assert processes_of(execution) == []


def test_stalled_checkpoint_sync_brings_nothing_to_s3_and_ends_the_job_after_its_uploading(example: Example) -> None:
    example.aws.inject(Fault(id="stall", on="TrainingJob", outcome="SyncStall", after='"step": 1', seconds=1.0))
    execution = example.start({"name": "main", "behaviour": "go"}, start_at="train")
    job = json.loads(example.wait(execution)["cause"])
    assert job["FailureReason"].startswith("InternalServerError: ")
    (uploading,) = [item for item in job["SecondaryStatusTransitions"] if item["Status"] == "Uploading"]
    assert uploading["EndTime"] - uploading["StartTime"] >= 1000  # milliseconds
    assert example.objects(f"runs/{execution.rpartition(':')[2]}/main/") == {}
    again = example.start({"name": "main", "behaviour": "go"}, start_at="train")  # the fault happens once
    assert example.wait(again)["status"] == "SUCCEEDED"
    assert set(example.objects(f"runs/{again.rpartition(':')[2]}/main/")) == {"algo-1.txt"}


def test_job_that_runs_nothing_completes(example: Example) -> None:
    example.aws.inject(Fault(id="nothing", on="TrainingJob", outcome="Completed", seconds=0.2))
    execution = example.start({"name": "main", "behaviour": "fail"}, start_at="train")
    assert example.wait(execution)["status"] == "SUCCEEDED"
    assert example.lines(execution, "main") == []


def test_pending_time_passes_faster_and_shows_whole_in_the_record(example: Example) -> None:
    example.aws.inject(Fault(id="long", on="TrainingJob", outcome="Pending", seconds=3600, times_faster=10_000))
    example.aws.client("sagemaker").create_training_job(
        **minimal_job("waits-long") | {"StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxPendingTimeInSeconds": 1800}}
    )
    job = wait_for_job(example, "waits-long")
    assert (job["TrainingJobStatus"], "TrainingStartTime" in job) == ("Stopped", False)
    assert 1800 <= (job["LastModifiedTime"] - job["CreationTime"]).total_seconds() < 1900


def test_pending_job_shows_it_and_goes_on(example: Example) -> None:
    example.aws.inject(Fault(id="pending", on="TrainingJob", outcome="Pending", seconds=1.0))
    execution = example.start({"name": "main", "behaviour": "go"}, start_at="train")
    assert example.wait(execution)["status"] == "SUCCEEDED"
    transitions = [item["Status"] for item in example.job(execution, "main")["SecondaryStatusTransitions"]]
    assert transitions[:3] == ["Starting", "Pending", "Downloading"]


def test_missing_image_is_a_client_error(example: Example) -> None:
    request = minimal_job("no-image") | {"AlgorithmSpecification": {"TrainingImage": "nowhere:1", "TrainingInputMode": "File"}}
    sagemaker = example.aws.client("sagemaker")
    sagemaker.create_training_job(**request)
    job = wait_for_job(example, "no-image")
    assert job["FailureReason"].startswith("ClientError: Cannot pull image nowhere:1")


def test_job_names_are_unique_and_tags_are_kept(example: Example) -> None:
    sagemaker = example.aws.client("sagemaker")
    arn = sagemaker.create_training_job(**minimal_job("unique"), Tags=[{"Key": "run", "Value": "7"}])["TrainingJobArn"]
    with pytest.raises(botocore.exceptions.ClientError, match="ResourceInUse"):
        sagemaker.create_training_job(**minimal_job("unique"))
    sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "leg", "Value": "main"}])
    assert sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "run", "Value": "7"}, {"Key": "leg", "Value": "main"}]
    wait_for_job(example, "unique")
    assert [job["TrainingJobName"] for job in sagemaker.list_training_jobs(NameContains="UNIQ")["TrainingJobSummaries"]] == ["unique"]
    with pytest.raises(botocore.exceptions.ClientError, match="job is in status"):
        sagemaker.stop_training_job(TrainingJobName="unique")


def test_request_that_the_service_would_refuse_is_refused(example: Example) -> None:
    steps = example.aws.client("stepfunctions")
    request = minimal_job("bad_name") | {"Typo": 1}
    state = {"Type": "Task", "Resource": "arn:aws:states:::sagemaker:createTrainingJob.sync", "Arguments": request, "End": True}
    definition = {"QueryLanguage": "JSONata", "StartAt": "Train", "States": {"Train": state}}
    machine = steps.create_state_machine(name="refused", definition=json.dumps(definition), roleArn=ROLE)["stateMachineArn"]
    ended = example.wait(steps.start_execution(stateMachineArn=machine)["executionArn"])
    assert ended["error"] == "SageMaker.AmazonSageMakerException"
    assert "TrainingJobName='bad_name' does not match" in ended["cause"]
    assert "Typo is no member of CreateTrainingJobRequest" in ended["cause"]


def test_data_beyond_the_limit_of_a_state_ends_the_execution(example: Example) -> None:
    steps = example.aws.client("stepfunctions")
    state = {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Arguments": {"FunctionName": "example", "Payload": {"padding": "{% $pad('', 262100, 'x') %}"}},
        "End": True,
    }
    definition = {"QueryLanguage": "JSONata", "StartAt": "Large", "States": {"Large": state}}
    machine = steps.create_state_machine(name="large", definition=json.dumps(definition), roleArn=ROLE)["stateMachineArn"]
    assert example.wait(steps.start_execution(stateMachineArn=machine)["executionArn"])["error"] == "States.DataLimitExceeded"


def test_jobs_run_where_the_kernel_forbids_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_AWS_ISOLATION", "folders")
    try:
        example = deploy_example(embedded.up(tmp_path))
        execution = example.start({"name": "main", "behaviour": "go"})
        assert example.wait(execution)["status"] == "SUCCEEDED"
        seen = json.loads(example.lines(execution, "main")[0])
        assert (seen["parameters"], seen["tokens"]) == ({"leg": "main"}, {"a.txt": "TEXT A", "b.txt": "TEXT B"})
        assert example.objects(f"runs/{execution.rpartition(':')[2]}/main/") == {"algo-1.txt": "from algo-1"}
    finally:
        embedded.clean(tmp_path)


def test_quotas_come_by_name_in_pages_with_defaults_to_fall_back_on(example: Example) -> None:
    quotas = example.aws.client("service-quotas")
    example.aws.set_quota("ml.p5.48xlarge for training job usage", 0)
    pages = list(quotas.get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker", PaginationConfig={"PageSize": 20}))
    assert len(pages) > 2
    named = {quota["QuotaName"]: quota for page in pages for quota in page["Quotas"]}
    p5 = named["ml.p5.48xlarge for training job usage"]
    assert (p5["Value"], p5["QuotaCode"]) == (0.0, "L-82E1C851")
    assert "ml.p5.48xlarge for processing job usage" not in named  # p5 is no processing type
    missing = "ml.r7i.4xlarge for processing job usage"
    assert missing not in named
    defaults = quotas.get_paginator("list_aws_default_service_quotas").paginate(ServiceCode="sagemaker")
    code = next(quota["QuotaCode"] for page in defaults for quota in page["Quotas"] if quota["QuotaName"] == missing)
    with pytest.raises(quotas.exceptions.NoSuchResourceException):
        quotas.get_service_quota(ServiceCode="sagemaker", QuotaCode=code)
    assert quotas.get_aws_default_service_quota(ServiceCode="sagemaker", QuotaCode=code)["Quota"]["Value"] == 4.0


def test_job_beyond_the_quota_is_refused_with_the_numbers(example: Example) -> None:
    example.aws.set_quota("ml.c7i.4xlarge for training job usage", 1)
    resources = {"InstanceType": "ml.c7i.4xlarge", "InstanceCount": 2, "VolumeSizeInGB": 1}
    with pytest.raises(
        botocore.exceptions.ClientError, match=r"'ml\.c7i\.4xlarge for training job usage' is 1 Instances, with current"
    ) as refused:
        example.aws.client("sagemaker").create_training_job(**minimal_job("too-many") | {"ResourceConfig": resources})
    assert refused.value.response["Error"]["Code"] == "ResourceLimitExceeded"


def test_warm_pool_waits_is_reused_and_ends(example: Example) -> None:
    sagemaker = example.aws.client("sagemaker")
    resources = {"InstanceType": "ml.c7i.large", "InstanceCount": 1, "VolumeSizeInGB": 1, "KeepAlivePeriodInSeconds": 2}

    def available() -> list[str]:
        return [job["TrainingJobName"] for job in sagemaker.list_training_jobs(WarmPoolStatusEquals="Available")["TrainingJobSummaries"]]

    sagemaker.create_training_job(**minimal_job("cold") | {"ResourceConfig": resources})
    assert "WarmPoolStatus" not in wait_for_job(example, "cold")  # the quota is 0 by default: silently not kept
    example.aws.set_quota("ml.c7i.large for training warm pool usage", 1)
    for name in ("warm-1", "warm-2"):
        sagemaker.create_training_job(**minimal_job(name) | {"ResourceConfig": resources})
        wait_for_job(example, name)
    first, second = (sagemaker.describe_training_job(TrainingJobName=name)["WarmPoolStatus"] for name in ("warm-1", "warm-2"))
    assert first == {"Status": "Reused", "ReusedByJob": "warm-2"}
    assert second["Status"] == "Available"
    assert available() == ["warm-2"]
    deadline = time.monotonic() + 20
    while available():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert sagemaker.describe_training_job(TrainingJobName="warm-2")["WarmPoolStatus"]["Status"] == "Terminated"


def test_a_warm_pool_that_is_given_up_is_not_reused(example: Example) -> None:
    sagemaker = example.aws.client("sagemaker")
    example.aws.set_quota("ml.c7i.xlarge for training warm pool usage", 1)
    resources = {"InstanceType": "ml.c7i.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 1}
    sagemaker.create_training_job(**minimal_job("faulty") | {"ResourceConfig": {**resources, "KeepAlivePeriodInSeconds": 600}})
    wait_for_job(example, "faulty")
    end = {"TrainingJobName": "faulty", "ResourceConfig": {"KeepAlivePeriodInSeconds": 0}}
    sagemaker.update_training_job(**end)
    sagemaker.create_training_job(**minimal_job("elsewhere") | {"ResourceConfig": resources})
    assert sagemaker.describe_training_job(TrainingJobName="faulty")["WarmPoolStatus"]["Status"] == "Terminated"
    with pytest.raises(botocore.exceptions.ClientError, match="no warm pool"):
        sagemaker.update_training_job(**end)


def test_training_plans_are_those_that_were_written(example: Example) -> None:
    sagemaker = example.aws.client("sagemaker")
    with pytest.raises(botocore.exceptions.ClientError, match="ResourceNotFound"):
        sagemaker.describe_training_plan(TrainingPlanName="march")
    arn = "arn:aws:sagemaker:us-east-1:000000000000:training-plan/march"
    plan = {"TrainingPlanName": "march", "TrainingPlanArn": arn, "Status": "Active", "TotalInstanceCount": 4}
    (example.aws.state_dir / "training_plans.json").write_text(json.dumps([plan]))
    assert sagemaker.describe_training_plan(TrainingPlanName="march")["Status"] == "Active"


def minimal_job(name: str) -> dict[str, Any]:
    return {
        "TrainingJobName": name,
        "RoleArn": ROLE,
        "AlgorithmSpecification": {"TrainingImage": "example:latest", "TrainingInputMode": "File", "ContainerEntrypoint": ["true"]},
        "OutputDataConfig": {"S3OutputPath": "s3://example/jobs/"},
        "ResourceConfig": {"InstanceType": "ml.c7i.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
    }


def wait_until_ended(example: Example, execution: str, leg: str = "main") -> dict[str, Any]:
    return wait_for_job(example, f"{execution.rpartition(':')[2]}-{leg}")


def wait_for_job(example: Example, name: str) -> dict[str, Any]:
    """The job's description once it has ended."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        job: dict[str, Any] = example.aws.client("sagemaker").describe_training_job(TrainingJobName=name)
        if job["TrainingJobStatus"] not in ("InProgress", "Stopping"):
            return job
        time.sleep(0.05)
    raise AssertionError(f"{name} did not end: {job['SecondaryStatus']}")
