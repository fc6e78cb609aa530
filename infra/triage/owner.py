"""Before each job: whether the execution still owns its run, and whether the weights that it begins from are what Admit saw.

A redriven execution goes on where it was stopped, without Admit, and another one may have taken its run over meanwhile. Capacity
may come days after Admit has looked at the weights.
"""

from __future__ import annotations

from typing import Any

from contracts.config import Json
from infra.edge import log
from infra.run import run_lock
from infra.run.deployment import TriageDeployment
from infra.run.layout import RunLayout, split_uri
from infra.run.weights_listing import ENDING, listing, listing_checksum
from infra.triage.explain import explanation


def confirm_owner(event: Json, s3: Any, deployment: TriageDeployment) -> Json:
    """``{"ours": True}``, or ``ours`` False with the ``explanation`` why this execution makes no further job."""
    stage, attempt = str(event["stage"]), int(event["attempt"])

    def refused(name: str, sentence: str) -> Json:
        log.warning(f"attempt {attempt} is not made: {sentence}", verdict=name, action="stop")
        detail = explanation(deployment, stage=stage, name=name, sentence=sentence, retry="stop", attempts=max(attempt - 1, 0))
        return {"ours": False, "explanation": detail}

    try:
        run_lock.confirm(s3, deployment.bucket, RunLayout(str(event["run_id"])), str(event["execution_arn"]))
    except (run_lock.RunTakenOver, run_lock.DamagedLock) as error:
        return refused(type(error).__name__, str(error))
    changed = _changed_weights(event.get("begins") or {}, s3, deployment.bucket)
    if changed is not None:
        return refused("WeightsUnusable", changed)
    log.info(f"attempt {attempt}: the run is this execution's", action="confirm")
    return {"ours": True}


def _changed_weights(begins: Json, s3: Any, own_bucket: str) -> str | None:
    """A sentence when the weights are no longer those that Admit saw. In another bucket this role cannot look; the job checks sizes."""
    if not begins:
        return None
    bucket, prefix = split_uri(str(begins["uri"]))
    if bucket != own_bucket:
        return None
    found = listing(s3, bucket, prefix)
    if listing_checksum(found) == begins["checksum"]:
        return None
    if not any(name.endswith(ENDING) for name in found):
        return f"the weights to begin from are gone from {begins['uri']}; bring them back (the bucket keeps versions), or name others"
    fix = "start the run again to begin from what lies there now, or bring them back (the bucket keeps versions)"
    return f"the weights in {begins['uri']} were changed after the run was admitted; {fix}"
