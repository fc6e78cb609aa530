"""``training.initial``: weights damaged before Admit, damaged or gone between Admit and the job; a Hub that is out of reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from account import Account, expect, expect_words
from small_run import REFERENCE, run_input
from table import Row

from local_aws.injected_faults import Fault

HUB = "hf://nobody/llama@" + "0" * 40
"""A model of the Hub, which no machine that runs this can reach."""


def _export(account: Account) -> str:
    """Key prefix of the undisturbed run's export."""
    return f"{account.attempts(REFERENCE)[0]}export/"


def _copied(account: Account, name: str) -> str:
    """The undisturbed run's export as weights of one's own: their key prefix."""
    source, target = _export(account), f"weights/{name}/"
    for key in account.keys(source):
        account.client("s3").copy_object(
            Bucket=account.bucket, Key=target + key, CopySource={"Bucket": account.bucket, "Key": source + key}
        )
    return target


def _weights(account: Account, prefix: str) -> str:
    """Key of its file of weights."""
    (name,) = (key for key in account.keys(prefix) if key.endswith(".safetensors"))
    return prefix + name


def _cut(account: Account, prefix: str) -> None:
    key = _weights(account, prefix)
    account.client("s3").put_object(Bucket=account.bucket, Key=key, Body=account.read(key)[:-1000])


def _other_numbers(account: Account, prefix: str) -> None:
    """The same size, shapes and types: nothing that a job could see."""
    key = _weights(account, prefix)
    body = account.read(key)
    account.client("s3").put_object(Bucket=account.bucket, Key=key, Body=body[:-4000] + body[-4000:][::-1])


def _delete_weights(account: Account, prefix: str) -> None:
    account.client("s3").delete_object(Bucket=account.bucket, Key=_weights(account, prefix))


def _delete_all(account: Account, prefix: str) -> None:
    for key in account.keys(prefix):
        account.client("s3").delete_object(Bucket=account.bucket, Key=prefix + key)


def truncated_before_admit(account: Account) -> Iterator[Row]:
    """training.initial: weights whose file is truncated, config.json being right."""
    run = "begun-cut"
    prefix = _copied(account, run)
    _cut(account, prefix)
    ended = account.run(run_input(run, training={"initial": f"s3://{account.bucket}/{prefix}"}))
    expect("the end", (ended.status, ended.error), ("FAILED", "Refused"))
    expect_words(ended.cause, "training.initial", "is truncated: it has")
    expect("jobs", (account.processing_jobs(run), account.training_jobs(run)), ([], []))
    yield Row(
        injected="training.initial names weights whose config.json fits and whose file is truncated",
        happened=ended.cause.replace(account.bucket, "BUCKET"),
        attempts=0,
        lost="nothing was created",
        seconds=ended.seconds,
    )


def damaged_after_admit(account: Account) -> Iterator[Row]:
    """training.initial: weights are truncated, exchanged, lost in part or deleted between Admit and the job."""
    changed, gone = "were changed after the run was admitted", "are gone from"
    yield _after_admit(account, "begun-truncated", "truncated", _cut, changed)
    yield _after_admit(account, "begun-exchanged", "exchanged for others of the same size", _other_numbers, changed)
    yield _after_admit(account, "begun-lost", "deleted, config.json still there", _delete_weights, gone)
    yield _after_admit(account, "begun-deleted", "deleted with everything beside them", _delete_all, gone)


def _after_admit(account: Account, run: str, what: str, damage: Callable[[Account, str], None], words: str) -> Row:
    prefix = _copied(account, run)
    account.order(run, Fault(id="", on="TrainingJob", outcome="CapacityError"))  # so that the job comes half a minute after Admit
    execution = account.start(run_input(run, training={"initial": f"s3://{account.bucket}/{prefix}"}))
    account.until(lambda: "Wait" in account.states(execution), f"the pause of {run}", every=0.2)
    damage(account, prefix)
    ended = account.ended(execution)
    expect("the end", (ended.status, ended.error), ("FAILED", "WeightsUnusable"))
    expect_words(ended.cause, "WeightsUnusable (stop)", words, prefix)
    jobs = account.training_jobs(run)
    expect("jobs, the one without instances among them", [job["TrainingJobStatus"] for job in jobs], ["Failed"])
    return Row(
        injected=f"the weights of training.initial {what} between Admit and the job",
        happened=ended.cause.replace(account.bucket, "BUCKET"),
        attempts=len(jobs),
        lost="nothing was trained, nothing is billed",
        seconds=ended.seconds,
    )


def hub_out_of_reach(account: Account) -> Iterator[Row]:
    """training.initial: a model of the Hub, which is out of reach."""
    run = "begun-hub"
    ended = account.run(run_input(run, training={"initial": HUB}, compute={"max_attempts": 1}))
    expect("the end", (ended.status, ended.error), ("FAILED", "StoreUnavailable"))
    expect_words(ended.cause, "StoreUnavailable (retry)", "nobody/llama", "could not be read after")
    expect("training jobs", account.training_jobs(run), [])
    yield Row(
        injected="training.initial names a model of the Hub, which is out of reach",
        happened=ended.cause.partition(" (HTTPS")[0],
        attempts=len(account.processing_jobs(run)),
        lost="nothing was trained; the tokens that other runs made are there",
        seconds=ended.seconds,
    )


PROOFS = (truncated_before_admit, damaged_after_admit, hub_out_of_reach)
