"""Starting and stopping executions: what `start`, `stop` and `local run` share."""

from __future__ import annotations

import datetime as dt
import json
import secrets
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from contracts.config import Json, SpecError, suggestion
from infra.cli.exits import CommandError, Exit
from infra.cli.target import Target
from infra.run.run_spec import MAX_STARTED_BY, RunSpec, resolve

MAX_EXECUTION_NAME = 80  # StartExecution


def read_input(
    recipe: str | None, settings: Sequence[str], run_id: str | None, file_text: str | bytes | None, before: Json | None = None
) -> Json:
    """An execution's input from the command line: ``before`` or the file first, then recipe, run id and every ``--set``.

    Raises:
        CommandError: the file is no JSON object, or two settings contradict each other.
    """
    value: Json = before or {}
    if file_text is not None:
        try:
            value = json.loads(file_text, object_pairs_hook=_unique)
        except RecursionError:
            raise CommandError("the input file is nested too deeply to be an input; docs/runs/ has examples", Exit.REFUSED) from None
        except ValueError as error:
            raise CommandError(f"the input file is no JSON: {error}", Exit.REFUSED) from error
        if not isinstance(value, dict):
            raise CommandError("the input file must hold one JSON object", Exit.REFUSED)
    given = [("recipe", recipe, {"recipe": recipe})] if recipe is not None else []
    given += [("--run", run_id, {"run_id": run_id})] if run_id is not None else []
    given += [(f"--set {setting}", setting, _setting(setting)) for setting in settings]
    said: dict[tuple[str, ...], tuple[str, Any]] = {}
    for option, _, changes in given:
        for path, leaf in _leaves(changes):
            for other, (earlier, old) in said.items():
                shorter = min(len(path), len(other))
                if path[:shorter] == other[:shorter] and (path != other or leaf != old):
                    raise CommandError(f"{earlier} and {option} contradict each other; give {'.'.join(path[:shorter])} once", Exit.USAGE)
            said[path] = (option, leaf)
        value = _laid_over(value, changes, option)
    return value


def _laid_over(value: Json, changes: Json, option: str) -> Json:
    """``changes`` laid over ``value``; entries of a list that have names (legs, sources) are reached by them: ``data.sources.web.weight``.

    Raises:
        CommandError: the list has no entry of that name.
    """
    result = dict(value)
    for key, change in changes.items():
        old = result.get(key)
        if isinstance(change, dict) and isinstance(old, dict):
            result[key] = _laid_over(old, change, option)
        elif isinstance(change, dict) and isinstance(old, list):
            named = {str(item["name"]): item for item in old if isinstance(item, dict) and "name" in item}
            unknown = next((name for name in change if name not in named), None)
            if unknown is not None:
                raise CommandError(f'{option}: "{key}" has no entry "{unknown}"{suggestion(unknown, named)}', Exit.USAGE)
            changed = {name: _laid_over(named[name], inner, option) if isinstance(inner, dict) else inner for name, inner in change.items()}
            result[key] = [changed.get(str(item.get("name")), item) if isinstance(item, dict) else item for item in old]
        else:
            result[key] = change
    return result


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    """An object of JSON whose keys are different; Python's parser would keep the last of two."""
    found: Json = {}
    for key, item in pairs:
        if key in found:
            raise CommandError(f'the key "{key}" is given twice in one object; keep one', Exit.REFUSED)
        found[key] = item
    return found


def _leaves(value: Json, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Paths and values of the settings in ``value``; an empty object is one."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for key, item in value.items():
        found += _leaves(item, (*path, key)) if isinstance(item, dict) and item else [((*path, key), item)]
    return found


def resolve_input(value: Json, target: Target) -> RunSpec:
    """The run that the input means in this deployment.

    Raises:
        CommandError: every problem of the input, one a line.
    """
    try:
        return resolve(value, default_recipe=target.settings.default_recipe)
    except RecursionError:
        raise CommandError("this input is nested too deeply; docs/runs/ has examples", Exit.REFUSED) from None
    except SpecError as error:
        lines = "\n".join(f"  {problem}" for problem in error.problems)
        count = len(error.problems)
        raise CommandError(f"this input cannot work, {count} problem{'s' if count > 1 else ''}:\n{lines}", Exit.REFUSED) from error


def start_execution(target: Target, value: Json) -> str:
    """Start the state machine; returns the execution's ARN.

    The execution is named after the run (or its recipe), so that the console's list reads like `pretrain list`, with the second
    and four random digits, since an execution's name is taken for 90 days. What has to be cut is the run's part.
    """
    what = str(value.get("run_id") or value.get("recipe") or target.settings.default_recipe).replace("_", "-")
    suffix = f"-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    name = what[: MAX_EXECUTION_NAME - len(suffix)].rstrip("-") + suffix
    client = target.client("stepfunctions")
    who = caller(target)
    value = value if who is None else {"started_by": who, **value}
    try:
        started: str = client.start_execution(stateMachineArn=target.state_machine, name=name, input=json.dumps(value))["executionArn"]
    except ClientError as error:
        raise CommandError(
            f"Step Functions refused to start the run: {error.response['Error'].get('Message')}", Exit.UNREACHABLE
        ) from error
    return started


def caller(target: Target) -> str | None:
    """Who asks, as AWS knows them: ``user/alice``, ``assumed-role/Engineers/alice``; None when that is not said."""
    try:
        arn = str(target.client("sts").get_caller_identity()["Arn"])
    except (ClientError, BotoCoreError):
        return None
    return arn.split(":", 5)[-1][:MAX_STARTED_BY]


def stop_execution(target: Target, execution_arn: str, cause: str) -> None:
    """Stop it; a training job under way gets SIGTERM and writes a checkpoint first."""
    target.client("stepfunctions").stop_execution(executionArn=execution_arn, error="Stopped", cause=cause)


def _setting(text: str) -> Json:
    """``training.steps=2000`` as {"training": {"steps": 2000}}; a value that is not JSON is a string."""
    path, equals, raw = text.partition("=")
    if not equals or not all(path.split(".")):
        raise CommandError(f'--set {text}: must be PATH=VALUE, for example "training.steps=2000"', Exit.USAGE)
    try:
        value: Any = json.loads(raw, object_pairs_hook=_unique)
    except RecursionError:
        raise CommandError(f"--set {path}: its value is nested too deeply", Exit.REFUSED) from None
    except ValueError:
        value = raw
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)
