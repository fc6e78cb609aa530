"""The quota check of a deployment: a custom resource whose response fails the stack when a quota is missing.

Event and response are CloudFormation's custom resource objects; the resource has no state,
so deleting it always succeeds and its physical id never changes. A rollback always succeeds too: CloudFormation rolls an
update back by another one with the old properties, and a refusal there would leave the stack stuck.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from contracts.config import Json
from infra.sagemaker.quotas import QuotaRequest, status_of_each

PHYSICAL_ID = "quota-check"
MAX_REASON = 1500  # characters: CloudFormation takes an answer of 4,096 bytes, ids and escapes included


@dataclass(frozen=True, kw_only=True)
class Clients:
    """AWS clients of the check."""

    quotas: Any
    sagemaker: Any
    cloudformation: Any


@dataclass(frozen=True, kw_only=True)
class Demand:
    """A quota request and what needs it."""

    who: str
    """The default recipe, or a schedule by its name."""
    request: QuotaRequest

    def as_value(self) -> Json:
        """For the resource's property."""
        return {"who": self.who, **dataclasses.asdict(self.request)}

    @classmethod
    def from_value(cls, value: Json) -> Demand:
        """A demand that ``as_value`` wrote."""
        given = dict(value)
        return cls(who=given.pop("who"), request=QuotaRequest(**given))


def missing(demands: list[Demand], clients: Clients, region: str) -> list[str]:
    """A sentence for each demand that the account's quotas can never meet; what is in use at this minute does not count."""
    statuses = status_of_each([demand.request for demand in demands], clients.quotas, clients.sagemaker)
    return [f"{demand.who}: {quota.message(region)}" for demand, quota in zip(demands, statuses, strict=True) if not quota.possible]


def rolls_back(stack_id: str, cloudformation: Any) -> bool:
    """Whether the stack is being rolled back."""
    return "ROLLBACK" in str(cloudformation.describe_stacks(StackName=stack_id)["Stacks"][0]["StackStatus"])


def reason(event: Json, clients: Clients, region: str) -> str | None:
    """Why the deployment must fail, or None. An error of the check is a reason too: without a response CloudFormation waits for an hour."""
    if event["RequestType"] == "Delete":
        return None
    try:
        if event["RequestType"] == "Update" and rolls_back(event["StackId"], clients.cloudformation):
            return None
        demands = [Demand.from_value(value) for value in json.loads(event["ResourceProperties"]["Demands"])]
        found = missing(demands, clients, region)
    except Exception as error:
        return f"the quotas could not be read: {type(error).__name__}: {error}"
    return f"{'; '.join(found)} (setting refuse_missing_quotas)" if found else None


def answer(event: Json, why: str | None) -> Json:
    """The response object."""
    return {
        "Status": "FAILED" if why else "SUCCESS",
        "Reason": (why or "every quota is large enough")[:MAX_REASON],
        "PhysicalResourceId": event.get("PhysicalResourceId", PHYSICAL_ID),
        **{key: event[key] for key in ("StackId", "RequestId", "LogicalResourceId")},
    }
