"""Trackers and Model Registry out of reach while the report is written; then there again, and the report written by hand."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deployments
from account import Account, Json, expect, expect_words
from capacity import succeeded
from service import set_schedule
from small_run import STEPS, run_input
from table import Row

sys.path.append(str(Path(__file__).resolve().parents[1] / "infra" / "report"))  # wandb_server
from wandb_server import KEY, serving

from infra.cli.find_run import find_run
from infra.cli.local import target_of
from infra.cli.report_again import write_again
from local_aws.injected_faults import Fault

RUN = "sent-on"
SERVER = "arn:aws:sagemaker:us-east-1:000000000000:mlflow-tracking-server/team"
GROUP = "pretrain-local"


def sinks_out_of_reach(account: Account) -> Iterator[Row]:
    """W&B refuses connections, MLflow is not there, Model Registry throttles; then two of them are back."""
    began = time.monotonic()
    with socket.socket() as held:  # bound and not listening: every connection is refused, and nobody else takes the port
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        secret = account.client("secretsmanager").create_secret(Name="wandb", SecretString=KEY)["ARN"]
        wandb = {"project": "models", "api_key_secret_arn": secret, "base_url": f"http://127.0.0.1:{port}"}
        _deploy(account, wandb=wandb, model_registry={}, mlflow_tracking_server_arn=SERVER)
        deployed = time.monotonic() - began
        yield _down(account, deployed)
    yield _again(account, port)
    _deploy(account)


def _deploy(account: Account, **settings: Any) -> None:
    deployments.deploy(account.aws, schedule_enabled=True, **settings)  # enabled in the template, as before
    set_schedule(account, "DISABLED")


def _down(account: Account, deployed: float) -> Row:
    account.aws.inject(Fault(id=RUN, on="CreateModelPackage", caller="function", error="throttled", times=-1))
    ended = account.run(run_input(RUN))
    succeeded(ended)
    account.aws.inject()
    report = json.loads(account.read(f"runs/{RUN}/report.json"))
    told = {each["sink"]: each for each in report["sinks"]}
    expect("what became of each", {name: each["complete"] for name, each in told.items()}, dict.fromkeys(SINKS, False))
    expect_words(told["Weights & Biases"]["sentence"], "RunResumeStatus: no answer", "are missing there")
    expect_words(told["MLflow"]["sentence"], "experiments/create: ", "are missing there")
    expect_words(told["Model Registry"]["sentence"], "CreateModelPackage: ThrottlingException", "0 of 1 exported models")
    expect_words(report["headline"], f"{STEPS} steps trained", *(each["sentence"] for each in told.values()))
    expect_words(account.read(f"runs/{RUN}/report.html").decode(), "Sent on", "RunResumeStatus: no answer")
    return Row(
        injected=f"W&B refuses connections, MLflow is not there, Model Registry throttles (deployed within {deployed:.0f} s)",
        happened=f"the run succeeds; the report says so of each: {told['Weights & Biases']['sentence']}",
        attempts=len(account.training_jobs(RUN)),
        lost="nothing: what is missing there is counted, and lies in S3",
        seconds=ended.seconds,
    )


SINKS = ("Model Registry", "MLflow", "Weights & Biases")


def _again(account: Account, port: int) -> Row:
    began = time.monotonic()
    with serving(port) as server:
        missing = json.loads(account.read(f"runs/{RUN}/report.json"))["sinks"][-1]["left"]
        answers = [_report(account) for _ in range(2)]
        (run,) = [one for one in server.runs.values() if one.variables["groupName"] == RUN]  # a schedule's run may have been sent, too
    sent = [{each["sink"]: (each["sent"], each["complete"]) for each in answer["sinks"]} for answer in answers]
    expect("what the first report sent", {name: sent[0][name] for name in SINKS[::2]}, {SINKS[0]: (1, True), SINKS[2]: (missing, True)})
    expect("what the second one sent", {name: sent[1][name] for name in SINKS[::2]}, {SINKS[0]: (0, True), SINKS[2]: (0, True)})
    expect("steps in W&B", [row["_step"] for row in run.history], list(range(1, STEPS + 1)))
    expect("losses in W&B", [row["loss"] for row in run.history], [row["loss"] for row in account.metrics(RUN)])
    expect("the end in W&B", (run.complete, run.exit_code), (True, 0))
    sagemaker = account.client("sagemaker")
    versions = sagemaker.list_model_packages(ModelPackageGroupName=GROUP, MaxResults=100)["ModelPackageSummaryList"]  # of every run
    (arn,) = [one["ModelPackageArn"] for one in versions if one["ModelPackageDescription"].startswith(f"Run {RUN}, leg main: ")]
    made = sagemaker.describe_model_package(ModelPackageName=arn)
    expect("its approval", made["ModelApprovalStatus"], "PendingManualApproval")
    bucket, _, export = made["SourceUri"].removeprefix("s3://").partition("/")
    weights = [key for key in account.keys(export) if key.endswith(".safetensors")]
    expect("whether its weights are there", (bucket, bool(weights)), (account.bucket, True))
    found = subprocess.run(["grep", "-rlF", KEY, str(account.aws.state_dir)], capture_output=True, text=True, check=False)
    expect("files with the API key", [path for path in found.stdout.splitlines() if Path(path).name != "secretsmanager.json"], [])
    return Row(
        injected="`pretrain report --again` twice, W&B and Model Registry being back",
        happened=f"W&B holds each of {STEPS} steps once, the group one version; the API key is in no file but Secrets Manager's own",
        attempts=0,
        lost="nothing",
        seconds=time.monotonic() - began,
    )


def _report(account: Account) -> Json:
    """The execution's own call of the function Report once more, as `pretrain report --again` makes it."""
    target = target_of(account.aws)
    sentences = write_again(target, find_run(target, RUN))
    report: Json = json.loads(account.read(f"runs/{RUN}/report.json"))
    expect("what the command says", sentences, [each["sentence"] for each in report["sinks"]])
    return report


PROOFS = (sinks_out_of_reach,)
