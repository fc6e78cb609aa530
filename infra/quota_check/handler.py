"""A deployment's quota check, called by CloudFormation as a custom resource. Only in deployments whose settings ask for it.

Event: CloudFormation's custom resource request. It waits for the answer at ResponseURL, whatever this function returns.
"""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any

from infra.quota_check.answer import Clients, answer, reason

SEND_SECONDS = 30


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Lambda entry. An answer that cannot be sent raises: Lambda then calls again, twice."""
    said = answer(event, reason(event, Clients.from_boto3(), os.environ["AWS_REGION"]))
    print(json.dumps(said))
    # The URL is signed for an empty content type.
    request = urllib.request.Request(event["ResponseURL"], data=json.dumps(said).encode(), method="PUT", headers={"Content-Type": ""})
    urllib.request.urlopen(request, timeout=SEND_SECONDS).close()
    return said
