"""Requests to SageMaker, as values."""

from __future__ import annotations

import dataclasses
import re

from admission_values import DEPLOYMENT, spec
from hypothesis import given
from hypothesis import strategies as st

from contracts.config import Json
from contracts.mixture import SourceTokens
from infra.run.deployment import Deployment
from infra.run.job_requests import (
    ATTEMPT_DIGITS,
    MAX_JOB_NAME,
    Tokens,
    job_name,
    preparation_request,
    preparations,
    training_leg,
    training_request,
    training_source,
)
from infra.run.layout import RunLayout
from infra.run.run_images import targets
from infra.run.run_spec import RunSpec


def preparing_request(chosen: RunSpec, layout: RunLayout, deployment: Deployment, *, token: bool) -> Json:
    """CreateProcessingJob of Prepare data."""
    (job,) = preparations(chosen)
    return preparation_request(job, chosen, layout, deployment, token=token)


@given(
    run=st.from_regex(r"[a-zA-Z0-9](-?[a-zA-Z0-9]){0,79}", fullmatch=True),
    leg=st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,22}[a-z0-9])?", fullmatch=True),
)
def test_job_names_fit_sagemaker_with_every_attempt(run: str, leg: str) -> None:
    name = f"{job_name(leg, run, 'arn:1')}-{'9' * (ATTEMPT_DIGITS - 1)}"
    assert len(name) <= MAX_JOB_NAME
    assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*", name)


SHARDS = (SourceTokens(name="", fingerprint="f", uri="s3://data/tokens/f/"),)
LUSTRE = dataclasses.replace(
    DEPLOYMENT, subnets=("subnet-a", "subnet-b"), security_groups=("sg-1",), file_system_id="fs-1", file_system_mount="mnt",
    file_system_subnet="subnet-b",
)  # fmt: skip


def test_job_names_differ_by_execution_and_leg() -> None:
    assert len({job_name(leg, "r" * 80, arn) for leg in ("a", "b") for arn in ("arn:1", "arn:2")}) == 4


def test_p5_takes_no_volume_key_and_default_requests_hold_long_known_fields_only() -> None:
    chosen = spec()
    request = training_request(chosen, RunLayout("r"), DEPLOYMENT, Tokens(sources=SHARDS, bytes=10))
    source = training_source(chosen, chosen.compute.capacity[0], DEPLOYMENT)
    assert "VolumeKmsKeyId" not in source["ResourceConfig"]
    assert set(source["StoppingCondition"]) == {"MaxRuntimeInSeconds"}
    assert set(source["ResourceConfig"]) == {"InstanceType", "InstanceCount", "VolumeSizeInGB"}
    assert request["EnableNetworkIsolation"] is True
    local = spec(recipe="local")
    assert training_source(local, local.compute.capacity[0], DEPLOYMENT)["ResourceConfig"]["VolumeKmsKeyId"] == DEPLOYMENT.key_arn


def test_large_token_sets_are_streamed_and_a_file_system_replaces_s3() -> None:
    chosen, layout = spec(), RunLayout("r")
    tokens = Tokens(sources=SHARDS, bytes=1 << 40, imported=True)
    channel = training_request(chosen, layout, DEPLOYMENT, tokens)["InputDataConfig"][1]
    assert channel["InputMode"] == "FastFile"
    request = training_request(chosen, layout, LUSTRE, tokens)
    assert request["InputDataConfig"][1]["DataSource"]["FileSystemDataSource"]["DirectoryPath"] == "/mnt/tokens/f"
    assert request["VpcConfig"] == {"Subnets": ["subnet-b"], "SecurityGroupIds": ["sg-1"]}  # the file system's zone only
    assert preparing_request(chosen, layout, LUSTRE, token=False)["NetworkConfig"]["VpcConfig"]["Subnets"] == ["subnet-a", "subnet-b"]


def test_each_source_of_a_mixture_has_its_channel_on_a_file_system_too() -> None:
    named = tuple(SourceTokens(name=name, fingerprint=name, uri=f"s3://data/tokens/{name}/") for name in ("web", "code"))
    channels = training_request(spec(), RunLayout("r"), LUSTRE, Tokens(sources=named, bytes=10, imported=True))["InputDataConfig"]
    folders = {channel["ChannelName"]: channel["DataSource"]["FileSystemDataSource"]["DirectoryPath"] for channel in channels[1:]}
    assert folders == {"tokens-web": "/mnt/tokens/web", "tokens-code": "/mnt/tokens/code"}


def test_a_data_set_that_the_file_system_may_not_have_yet_is_read_from_s3() -> None:
    request = training_request(spec(), RunLayout("r"), LUSTRE, Tokens(sources=SHARDS, bytes=10))
    assert request["InputDataConfig"][1]["DataSource"]["S3DataSource"]["S3Uri"] == "s3://data/tokens/f/"
    assert request["VpcConfig"]["Subnets"] == ["subnet-a", "subnet-b"]


def test_tags_of_the_settings_are_the_jobs_too_and_never_replace_the_deployments_own() -> None:
    tagged = dataclasses.replace(DEPLOYMENT, tags={"cost-center": "42", "pretrain:deployment": "another"})
    wanted = {"cost-center": "42", "pretrain:deployment": "pretrain", "pretrain:run": "r"}
    requests = (
        training_request(spec(), RunLayout("r"), tagged, Tokens(sources=SHARDS, bytes=10)),
        preparing_request(spec(), RunLayout("r"), tagged, token=False),
    )
    for request in requests:
        assert {tag["Key"]: tag["Value"] for tag in request["Tags"]} == wanted


def test_the_check_of_the_hosts_is_asked_for_by_setting_only() -> None:
    tokens = Tokens(sources=SHARDS, bytes=10)
    checked = training_request(spec({"compute": {"infra_check": True}}), RunLayout("r"), DEPLOYMENT, tokens)
    assert checked["InfraCheckConfig"] == {"EnableInfraCheck": True}
    assert "InfraCheckConfig" not in training_request(spec(), RunLayout("r"), DEPLOYMENT, tokens)


def test_tensorboard_is_named_to_sagemaker_by_setting_only() -> None:
    (leg,) = spec().legs
    request = training_leg(leg, RunLayout("r"), DEPLOYMENT, attempt_stem="runs/r/main/attempts/x-", tensorboard=True)
    place = f"s3://{DEPLOYMENT.bucket}/runs/r/main/tensorboard/"
    assert request["TensorBoardOutputConfig"] == {"LocalPath": "/opt/ml/output/tensorboard", "S3OutputPath": place}
    assert "TensorBoardOutputConfig" not in training_leg(leg, RunLayout("r"), DEPLOYMENT, attempt_stem="runs/r/main/attempts/x-")


def test_the_token_reaches_the_job_as_an_arn_and_only_when_it_is_set() -> None:
    with_token = preparing_request(spec(), RunLayout("r"), DEPLOYMENT, token=True)
    assert with_token["Environment"]["HF_TOKEN_SECRET_ARN"] == DEPLOYMENT.secret_arn
    assert "HF_TOKEN_SECRET_ARN" not in preparing_request(spec(), RunLayout("r"), DEPLOYMENT, token=False)["Environment"]


def test_a_spot_source_waits_at_least_as_long_as_it_runs() -> None:
    chosen = spec({"compute": {"capacity": [{"kind": "spot"}], "max_pending_seconds": 3600}})
    stopping = training_source(chosen, chosen.compute.capacity[0], DEPLOYMENT)["StoppingCondition"]
    assert stopping["MaxWaitTimeInSeconds"] == stopping["MaxRuntimeInSeconds"] + 3600


def test_a_corpus_is_cleaned_on_one_instance_of_its_own_before_the_tokens() -> None:
    chosen = spec({"data": {"corpus": {"near_duplicates": {}, "instance_type": "ml.m7i.4xlarge"}, "instance_count": 4}})
    first, then = preparations(chosen)
    requests = [preparation_request(job, chosen, RunLayout("r"), DEPLOYMENT, token=False) for job in (first, then)]
    assert [request["AppSpecification"]["ContainerEntrypoint"][-1] for request in requests] == ["corpus.job", "data_prep.job"]
    clusters = [request["ProcessingResources"]["ClusterConfig"] for request in requests]
    assert [(cluster["InstanceType"], cluster["InstanceCount"]) for cluster in clusters] == [("ml.m7i.4xlarge", 1), ("ml.c7i.8xlarge", 4)]
    assert preparations(chosen, cleaned=True) == (then,) and preparations(chosen, prepared=True) == ()
    assert targets(chosen) == ("data_prep", "corpus", "training") and targets(spec()) == ("data_prep", "training")
