"""The run id of an execution: what people name. Pure; Admit, the command line and the report all ask here."""

from __future__ import annotations

import re
from collections.abc import Mapping

MAX_RUN_ID = 80
RUN_ID_REGEX = r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,79}"


def run_id_of(value: object, execution_name: str) -> str:
    """The input's ``run_id``, else its schedule's name and minute, else the execution's name, in the letters that a run id may have.

    Args:
        value: the execution's input, also one that cannot run: a refused execution belongs to the run that it asked for.
        execution_name: what Step Functions calls the execution.
    """
    given = value if isinstance(value, Mapping) else {}
    run_id, schedule = given.get("run_id"), given.get("schedule")
    if isinstance(run_id, str) and re.fullmatch(RUN_ID_REGEX, run_id):
        return run_id
    name = execution_name
    if isinstance(schedule, Mapping) and isinstance(schedule.get("name"), str) and isinstance(schedule.get("time"), str):
        minute = "" if schedule.get("resume") == "latest" else re.sub(r"[^0-9T]", "", schedule["time"][:16])
        name = f"{schedule['name']}-{minute}"
    return re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-")[:MAX_RUN_ID].rstrip("-")
