"""`pretrain start --again`: the input that goes on with a run, from the settings that its jobs used."""

from __future__ import annotations

from contracts.config import Json
from infra.cli.exits import CommandError, Exit
from infra.cli.target import Target
from infra.run.layout import RunLayout
from infra.run.run_spec import SINGLE_LEG
from infra.run.stored import Unreadable, read_json


def settings_of(target: Target, run_id: str) -> Json:
    """The input that starts a run again with the settings that its jobs used, from its run.json.

    Raises:
        CommandError: the run has none, or it cannot be read.
    """
    try:
        run = read_json(target.client("s3"), target.bucket, RunLayout(run_id).run_json)
        legs = {str(leg["name"]): {**leg["training"]} for leg in run.get("legs", ())}
    except (Unreadable, KeyError, TypeError) as error:
        raise CommandError(f"the settings of run {run_id} cannot be read: {error}") from None
    if not legs:
        raise CommandError(f"run {run_id} was never admitted, so it has no settings; start it by its input", Exit.NOT_FOUND)
    value = {
        "run_id": run_id,
        **{key: run[key] for key in ("recipe", "data", "compute", "budget", "evaluation") if run.get(key) is not None},
    }
    if list(legs) == [SINGLE_LEG]:
        return value | {"training": legs[SINGLE_LEG]}
    training = _shared(list(legs.values()))  # so that --set training.X still reaches every leg
    return value | {"training": training, "legs": [{"name": name, "training": _own(leg, training)} for name, leg in legs.items()]}


def _shared(values: list[Json]) -> Json:
    """Settings that all have alike."""
    found: Json = {}
    for key in values[0]:
        items = [value.get(key) for value in values]
        if all(isinstance(item, dict) for item in items):
            found[key] = _shared([dict(item or {}) for item in items])
        elif all(item == items[0] for item in items):
            found[key] = items[0]
    return found


def _own(value: Json, shared: Json) -> Json:
    """Settings of ``value`` that are not in ``shared``."""
    found: Json = {}
    for key, item in value.items():
        if isinstance(item, dict) and isinstance(shared.get(key), dict):
            inner = _own(item, shared[key])
            found |= {key: inner} if inner else {}
        elif key not in shared or shared[key] != item:
            found[key] = item
    return found
