"""Starting, finding and stopping executions: what `start`, `watch`, `stop` and `local run` share."""

from __future__ import annotations

import datetime as dt
import json
import re
import secrets
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import ClientError

from contracts.config import Json, SpecError, merge
from infra.cli.exits import CommandError, Exit
from infra.cli.target import Target
from infra.run.run_spec import RunSpec, resolve


def read_input(recipe: str | None, settings: Sequence[str], run_id: str | None, file_text: str | bytes | None) -> Json:
    """An execution's input from the command line: the file first, then recipe, run id and every ``--set``."""
    value: Json = {}
    if file_text is not None:
        try:
            value = json.loads(file_text)
        except ValueError as error:
            raise CommandError(f"the input file is no JSON: {error}", Exit.REFUSED) from error
        if not isinstance(value, dict):
            raise CommandError("the input file must hold one JSON object", Exit.REFUSED)
    if recipe:
        value["recipe"] = recipe
    if run_id:
        value["run_id"] = run_id
    for setting in settings:
        value = merge(value, _setting(setting))
    return value


def resolve_input(value: Json, target: Target) -> RunSpec:
    """The run that the input means in this deployment.

    Raises:
        CommandError: every problem of the input, one a line.
    """
    try:
        return resolve(value, default_recipe=target.settings.default_recipe)
    except SpecError as error:
        lines = "\n".join(f"  {problem}" for problem in error.problems)
        count = len(error.problems)
        raise CommandError(f"this input cannot work, {count} problem{'s' if count > 1 else ''}:\n{lines}", Exit.REFUSED) from error


def start_execution(target: Target, value: Json) -> str:
    """Start the state machine; returns the execution's ARN.

    The execution is named after the run, so that the console's list reads like `pretrain list`; a run that is started
    again gets a suffix, since an execution's name is taken for 90 days.
    """
    recipe = str(value.get("recipe") or target.settings.default_recipe).replace("_", "-")
    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
    run_id = value.get("run_id")
    name = f"{run_id}-{stamp}" if run_id else f"{recipe}-{stamp}-{secrets.token_hex(2)}"
    client = target.client("stepfunctions")
    try:
        started: str = client.start_execution(stateMachineArn=target.state_machine, name=name[:80], input=json.dumps(value))["executionArn"]
    except ClientError as error:
        raise CommandError(
            f"Step Functions refused to start the run: {error.response['Error'].get('Message')}", Exit.UNREACHABLE
        ) from error
    return started


def find_execution(target: Target, run: str | None) -> str:
    """The ARN of the named run's newest execution, or of the newest one of all.

    ``run`` is a run id, an execution's name, or an execution's ARN.
    """
    if run and run.startswith("arn:"):
        return run
    newest: str | None = None
    for execution in executions(target):
        name = str(execution["name"])
        if run is None or name == run or re.fullmatch(rf"{re.escape(run)}-\d{{8}}-\d{{6}}", name):
            newest = str(execution["executionArn"])
            break
    if newest is None:
        what = f'no run "{run}"' if run else "no run yet"
        raise CommandError(
            f"there is {what} in {target.settings.name}; pretrain list shows them, pretrain start starts one", Exit.NOT_FOUND
        )
    return newest


def admitted_run_id(target: Target, execution_arn: str) -> str | None:
    """The run id that Admit gave an execution, from its output; None before that. A schedule's run is not named like its execution."""
    client = target.client("stepfunctions")
    events = client.get_execution_history(executionArn=execution_arn, maxResults=30, includeExecutionData=True)["events"]
    for event in events:
        left = event.get("stateExitedEventDetails") or {}
        if left.get("name") == "Admit":
            try:
                run_id = json.loads(left.get("output") or "{}").get("run_id")
            except ValueError:
                return None
            return str(run_id) if run_id else None
    return None


def executions(target: Target, limit: int = 1000) -> list[dict[str, Any]]:
    """Executions of the state machine, newest first."""
    pages = target.client("stepfunctions").get_paginator("list_executions")
    found: list[dict[str, Any]] = []
    for page in pages.paginate(stateMachineArn=target.state_machine, PaginationConfig={"MaxItems": limit}):
        found.extend(page["executions"])
    return sorted(found, key=lambda execution: execution["startDate"], reverse=True)


def stop_execution(target: Target, execution_arn: str, cause: str) -> None:
    """Stop it; a training job under way gets SIGTERM and writes a checkpoint first."""
    target.client("stepfunctions").stop_execution(executionArn=execution_arn, error="Stopped", cause=cause)


def _setting(text: str) -> Json:
    """``training.steps=2000`` as {"training": {"steps": 2000}}; a value that is not JSON is a string."""
    path, equals, raw = text.partition("=")
    if not equals or not all(path.split(".")):
        raise CommandError(f'--set {text}: must be PATH=VALUE, for example "training.steps=2000"', Exit.USAGE)
    try:
        value: Any = json.loads(raw)
    except ValueError:
        value = raw
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)
