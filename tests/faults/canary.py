"""A canary in place of the Hugging Face token: a job reads it and uses it, and nothing that is kept or shown holds it."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from account import Account, Unexpected, expect, expect_words
from small_run import run_input
from table import Row

HUB = "hf://datasets/canary/corpus@" + "0" * 40
"""A data set of the Hub, which no machine that runs this can reach: the job fails with the token in its hands."""


def secret_canary(account: Account) -> Iterator[Row]:
    """A canary secret is searched for in every log, image, template, object, event and process."""
    run, canary = "canary", f"hf_{uuid.uuid4().hex}"
    secrets = account.client("secretsmanager")
    (secret,) = [item["ARN"] for item in secrets.list_secrets()["SecretList"] if "HuggingFace" in item["Name"]]
    secrets.put_secret_value(SecretId=secret, SecretString=json.dumps({"token": canary}))
    execution = account.start(run_input(run, data={"source": HUB}, compute={"max_attempts": 1}))
    account.until(
        lambda: secrets.describe_secret(SecretId=secret).get("LastAccessedDate") or account.describe(execution)["status"] != "RUNNING",
        "the job's look at the secret",
        every=0.2,
    )
    shown = _in_processes(canary)
    ended = account.ended(execution)
    expect("the end", (ended.status, ended.error), ("FAILED", "StoreUnavailable"))
    expect("whether the job has read the secret", "LastAccessedDate" in secrets.describe_secret(SecretId=secret), True)
    expect_words(ended.cause, "StoreUnavailable (retry)", "canary/corpus")
    answers = _answers(account, execution)
    shown += [name for name, text in answers.items() if canary in text]
    found = subprocess.run(
        ["grep", "-rlF", "--binary-files=text", canary, str(account.aws.state_dir)], capture_output=True, text=True, check=False
    )
    shown += [path for path in found.stdout.splitlines() if Path(path).name != "secretsmanager.json"]  # the service's own store
    expect("where the canary shows", shown, [])
    expect("whether logs, events and objects were there to be searched", all(len(text) > 100 for text in answers.values()), True)
    yield Row(
        injected="a canary as Hugging Face token, used by a job whose Hub cannot be reached",
        happened=f"not in processes, {', '.join(answers)}, nor in any file of the embedded AWS but Secrets Manager's own",
        attempts=len(account.processing_jobs(run)),
        lost="nothing",
        seconds=ended.seconds,
    )


def _in_processes(canary: str) -> list[str]:
    """Processes with the canary in their command line or environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                if canary.encode() in (entry / name).read_bytes():
                    found.append(f"{entry / name}")
            except OSError:
                continue
    return found


def _answers(account: Account, execution: str) -> dict[str, str]:
    """Everything that the APIs show of the run, as text, by what it is."""
    logs, clouds, steps = account.client("logs"), account.client("cloudformation"), account.client("stepfunctions")
    groups = [group["logGroupName"] for group in logs.describe_log_groups()["logGroups"]]
    lines = [_pages(logs, "filter_log_events", logGroupName=group) for group in groups]
    stacks = [stack["StackName"] for stack in clouds.describe_stacks()["Stacks"]]
    messages = [message for message in account.aws.messages() if execution in json.dumps(message)]
    if not messages:
        raise Unexpected("nobody was told of the failure")
    return {
        "logs": _text(lines),
        "execution events": _text(_pages(steps, "get_execution_history", executionArn=execution)),
        "state machine": _text(steps.describe_state_machine(stateMachineArn=account.machine)),
        "functions": _text(account.client("lambda").list_functions()),
        "templates": _text([clouds.get_template(StackName=stack) for stack in stacks]),
        "jobs": _text([account.processing_jobs("canary"), account.training_jobs("undisturbed")]),
        "builds": _text(account.client("codebuild").batch_get_builds(ids=account.client("codebuild").list_builds()["ids"])),
        "report and run.json": "".join(account.read(f"runs/canary/{key}").decode() for key in account.keys("runs/canary/")),
        "messages": _text(messages),
    }


def _pages(client: Any, operation: str, **arguments: Any) -> list[Any]:
    return list(client.get_paginator(operation).paginate(**arguments))


def _text(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


PROOFS = (secret_canary,)
