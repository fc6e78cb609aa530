"""Monitor: active jobs every five minutes, quotas and old checkpoints once a day.

Event: EventBridge's own, or {"check": "daily"}.
"""

from __future__ import annotations

import datetime
import json
import os
from typing import Any

from infra.monitor.active_jobs import Beat, Clients, check_quotas, look_at_active_jobs
from infra.monitor.prune_checkpoints import prune_checkpoints


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Lambda entry; what it returns is also its log line."""
    beat = Beat(bucket=os.environ["BUCKET"], deployment=os.environ["DEPLOYMENT_NAME"], now=datetime.datetime.now(datetime.UTC))
    clients = Clients.from_boto3()
    if event.get("check") == "daily":
        found = check_quotas(json.loads(os.environ["SCHEDULES"]), os.environ["DEFAULT_RECIPE"], beat, clients, os.environ["AWS_REGION"])
        if "CHECKPOINT_DAYS" in os.environ:
            found["pruned"] = prune_checkpoints(clients.s3, beat.bucket, int(os.environ["CHECKPOINT_DAYS"]), beat.now)
    else:
        found = look_at_active_jobs(beat, clients)
    print(json.dumps(found))
    return found
