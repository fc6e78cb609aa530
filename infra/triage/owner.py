"""Before each job: whether the execution still owns its run.

A redriven execution goes on where it was stopped, without Admit, and another one may have taken its run over meanwhile.
"""

from __future__ import annotations

from typing import Any

from contracts.config import Json
from infra.edge import log
from infra.run import run_lock
from infra.run.deployment import TriageDeployment
from infra.run.layout import RunLayout
from infra.triage.explain import explanation


def confirm_owner(event: Json, s3: Any, deployment: TriageDeployment) -> Json:
    """``{"ours": True}``, or ``ours`` False with the ``explanation`` why this execution makes no further job."""
    stage, attempt = str(event["stage"]), int(event["attempt"])
    try:
        run_lock.confirm(s3, deployment.bucket, RunLayout(str(event["run_id"])), str(event["execution_arn"]))
    except (run_lock.RunTakenOver, run_lock.DamagedLock) as refused:
        name = type(refused).__name__
        log.warning(f"attempt {attempt} is not made: {refused}", verdict=name, action="stop")
        detail = explanation(deployment, stage=stage, name=name, sentence=str(refused), retry="stop", attempts=max(attempt - 1, 0))
        return {"ours": False, "explanation": detail}
    log.info(f"attempt {attempt}: the run is this execution's", action="confirm")
    return {"ours": True}
