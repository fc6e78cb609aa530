"""A deployment's quota check, called by CloudFormation as a custom resource. Only in deployments whose settings ask for it.

Event: CloudFormation's custom resource request. It waits for the answer at ResponseURL, whatever this function returns.
"""

from __future__ import annotations

import json
import urllib.request

from contracts.config import Json
from infra.edge import log
from infra.edge.function import Container, lambda_function
from infra.quota_check.answer import Clients, answer, reason
from infra.run.deployment import QuotaCheckDeployment

SEND_SECONDS = 30


@lambda_function("QuotaCheck", QuotaCheckDeployment)
def handler(event: Json, container: Container[QuotaCheckDeployment]) -> Json:
    """Answer CloudFormation. An answer that cannot be sent raises: Lambda then calls again, twice."""
    clients = Clients(
        quotas=container.client("service-quotas"),
        sagemaker=container.client("sagemaker"),
        cloudformation=container.client("cloudformation"),
    )
    said = answer(event, reason(event, clients, container.region))
    # The URL is signed for an empty content type.
    request = urllib.request.Request(event["ResponseURL"], data=json.dumps(said).encode(), method="PUT", headers={"Content-Type": ""})
    urllib.request.urlopen(request, timeout=SEND_SECONDS).close()
    log.info("the deployment is answered", request=event["RequestType"], **said)
    return said
