"""Bad inputs and accounts without quota or token: Admit refuses each in one sentence, before anything is created."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from account import Account, Json, Unexpected, expect, expect_words
from small_run import DATA, REFERENCE, SOURCE, run_input
from table import Proof, Row

P5 = {"instance_type": "ml.p5.48xlarge"}
PLAN = "arn:aws:sagemaker:us-east-1:000000000000:training-plan/nobody-bought-it"
GATED = "hf://meta-llama/Llama-3.1-8B@d04e592bb4f6aa9cfee91e2e20afa771667e1d4b"
ENOUGH = 4.0


@dataclass(frozen=True, kw_only=True)
class BadInput:
    """One input that must be refused."""

    what: str
    changes: Json
    words: tuple[str, ...]
    """What the sentence must hold."""
    shortage: str = ""
    """A quota that is 0 while the input is tried."""


BAD_INPUTS = (
    BadInput(
        what="training quota 0",
        changes={"compute": P5},
        shortage="ml.p5.48xlarge for training job usage",
        words=("compute.instance_count", "needs quota 1", "this account has 0 (0 in use)", "L-82E1C851"),
    ),
    BadInput(
        what="spot quota 0",
        changes={"compute": {"capacity": [{"kind": "spot"}]}},
        shortage="ml.c7i.large for spot training job usage",
        words=('"ml.c7i.large for spot training job usage", this account has 0', "request an increase at https://"),
    ),
    BadInput(
        what="warm-pool quota 0",
        changes={"compute": {"keep_alive_seconds": 600}},
        shortage="ml.c7i.large for training warm pool usage",
        words=("compute.keep_alive_seconds", '"ml.c7i.large for training warm pool usage", this account has 0'),
    ),
    BadInput(
        what="processing quota 0, tokens not there yet",
        changes={"data": {"shard_tokens": 70_000}},
        shortage="ml.c7i.large for processing job usage",
        words=("data.instance_count", '"ml.c7i.large for processing job usage", this account has 0'),
    ),
    BadInput(
        what="more instances than the quota has",
        changes={"data": {"shard_tokens": 70_000, "instance_count": 5}},
        words=("data.instance_count", "5 x ml.c7i.large needs quota 5", "this account has 4"),
    ),
    BadInput(
        what="a training type for processing",
        changes={"data": {"instance_type": "ml.p5.48xlarge"}},
        words=('data.instance_type: "ml.p5.48xlarge" is no instance type for processing jobs; ml.c7i, ml.m7i and ml.r7i are',),
    ),
    BadInput(
        what="an unknown type",
        changes={"compute": {"instance_type": "ml.c7i.larg"}},
        words=('compute.instance_type: "ml.c7i.larg" is no instance type for training jobs, did you mean "ml.c7i.large"',),
    ),
    BadInput(
        what="a batch that does not fit the device",
        changes={"recipe": "llama3_8b", "training": {"local_batch_size": 64}, "budget": {"max_usd": 1e6}},
        words=("training.local_batch_size", "GiB on each NVIDIA H100", "which has 79 GiB; lower it"),
    ),
    BadInput(
        what="a budget below the estimate",
        changes={"compute": P5, "budget": {"max_usd": 5.0}},
        words=("budget.max_usd", "5 is less than the $31.", "that the run is estimated to cost (main 0.5 h $31.65"),
    ),
    BadInput(
        what="something gated, secret empty",
        changes={"data": {"tokenizer": {"uri": GATED}}},
        words=("meta-llama/Llama-3.1-8B@", "asks for a Hugging Face token", "is empty", "aws secretsmanager put-secret-value"),
    ),
    BadInput(
        what="gated weights to begin from, secret empty",
        changes={"training": {"initial": GATED}},
        words=("meta-llama/Llama-3.1-8B@", "asks for a Hugging Face token", "is empty"),
    ),
    BadInput(
        what="a source without text",
        changes={"data": {"source": "source/nothing/"}},
        words=("data: ", "source/nothing/ holds 0 objects"),
    ),
    BadInput(
        what="a bucket that is not there",
        changes={"data": {"source": "s3://no-such-bucket-anywhere/text/"}},
        words=("no-such-bucket-anywhere",),
    ),
    BadInput(
        what="a training plan that is not there",
        changes={"compute": {"capacity": [{"kind": "training_plan", "training_plan_arn": PLAN}]}},
        words=("compute.capacity[0].training_plan_arn", "nobody-bought-it"),
    ),
    BadInput(
        what="misspelt settings",
        changes={"trainig": {"steps": 1}, "compute": {"instance_cuont": 2}},
        words=('trainig: unknown key, did you mean "training"?', "compute.instance_cuont: unknown key"),
    ),
    BadInput(
        what="other text under the id of a trained run",
        changes={"run_id": REFERENCE, "data": {"shard_tokens": 90_000}},
        words=(f'run "{REFERENCE}" has checkpoints of leg main from tokens', "choose another run_id to start afresh"),
    ),
    BadInput(
        what="four mistakes at once",
        changes={
            "data": {"source": "source/nothing/", "instance_type": "ml.p5.48xlarge"},
            "compute": {"instance_type": "ml.c7i.larg", "capacity": [{"kind": "training_plan", "training_plan_arn": PLAN}, {}]},
        },
        words=("(1) ", "(4) ", "source/nothing/", "is no instance type for processing", '"ml.c7i.large"?', "nobody-bought-it"),
    ),
)


def _refused(account: Account, bad: BadInput, run: str) -> Row:
    if bad.shortage:
        account.aws.set_quota(bad.shortage, 0)
    try:
        before, told = _created(account), len(account.aws.messages())
        ended = account.run(_input(run, bad.changes))
    finally:
        if bad.shortage:
            account.aws.set_quota(bad.shortage, ENOUGH)
    expect(f"the end of a run with {bad.what}", (ended.status, ended.error), ("FAILED", "Refused"))
    expect("the states", ended.states, ["Admit", "Explain", "Report failure", "Notify", "Failed"])
    expect_words(ended.cause, *bad.words)
    expect("what was created", _created(account), before)
    messages = account.aws.messages()[told:]
    if not any(ended.cause[:200] in message["message"] for message in messages):
        raise Unexpected(f"nobody was told of {bad.what}: {messages}")
    return Row(
        injected=bad.what,
        happened=_short(account, ended.cause),
        attempts=0,
        lost="nothing was created",
        seconds=ended.seconds,
    )


def _input(run: str, changes: Json) -> Json:
    value: dict[str, Any] = run_input(run)
    for section, change in changes.items():
        value[section] = {**value.get(section, {}), **change} if isinstance(change, dict) else change
    if value.get("recipe") == "llama3_8b":  # that recipe's model on the small text
        value["training"] = changes["training"]
        value["data"] = {**DATA, "source": SOURCE, "instance_type": "ml.c7i.large", "include": []}
    return value


def _created(account: Account) -> list[str]:
    """Jobs, builds and data sets of the account."""
    sagemaker = account.client("sagemaker")
    jobs = [job["TrainingJobName"] for job in sagemaker.list_training_jobs(MaxResults=100)["TrainingJobSummaries"]]
    jobs += [job["ProcessingJobName"] for job in sagemaker.list_processing_jobs(MaxResults=100)["ProcessingJobSummaries"]]
    return sorted([*jobs, *account.client("codebuild").list_builds()["ids"], *account.keys("tokens/")])


def _short(account: Account, cause: str, characters: int = 200) -> str:
    text = cause.removeprefix("Refused (stop): ").replace(account.bucket, "BUCKET")
    return text if len(text) <= characters else text[: characters - 4].rstrip() + " ..."


def _proof(bad: BadInput, run: str) -> Proof:
    def proof(account: Account) -> Iterator[Row]:
        yield _refused(account, bad, run)

    proof.__doc__ = bad.what
    return proof


PROOFS = tuple(_proof(bad, f"bad-{number}") for number, bad in enumerate(BAD_INPUTS))
