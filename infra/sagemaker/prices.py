"""What an instance costs for an hour: the Pricing API, else the dated prices in the table of instance types.

The price list has one product for each use of a type (training, processing); both are asked for by the
``usagetype`` that SageMaker bills, such as ``USW2-Train:ml.p5.48xlarge``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from botocore.config import Config

from contracts.config import Json
from infra.sagemaker.instance_types import INSTANCE_TYPES, PRICES_AS_OF

USAGE = {"training": "Train:", "processing": "Processing:"}

# An estimate is not worth a long wait: the dated table answers when the price list does not.
PRICE_CALLS = Config(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2})

PriceOf = Callable[[str, str], float | None]
"""(use, instance type) -> US dollars of one instance for an hour, None when no price is known."""


def table_usd_per_hour(instance_type: str) -> float | None:
    """The dated table's price of one instance for an hour (one for all regions); None for a type without a price there."""
    row = INSTANCE_TYPES.get(instance_type)
    return None if row is None else row.usd_per_hour


def admitted_usd_per_hour(run: Mapping[str, Any], instance_type: str) -> float | None:
    """The price that Admit estimated the run with (run.json), so that estimate and cost can be compared; else the dated table's."""
    estimate = (run.get("admitted") or {}).get("estimate") or {}
    price: float | None = (estimate.get("usd_per_hour") or {}).get(instance_type)
    return table_usd_per_hour(instance_type) if price is None else price


def no_price(instance_types: Iterable[str]) -> str:
    """The sentence for types whose price is nowhere to be found."""
    return (
        f"no price is known for {', '.join(sorted(instance_types))}, so the budget cannot be kept: the Pricing API gave none for this "
        f"region, and the table of {PRICES_AS_OF} has none; choose another type or region, or add the price to "
        "infra/sagemaker/instance_types.py"
    )


def pricing_region(region: str) -> str:
    """Where the price list of ``region`` is served; few regions have an endpoint of the Pricing API."""
    return "cn-northwest-1" if region.startswith("cn-") else "us-east-1"


class PriceReader:
    """Prices in one region: each asked for once of the Pricing API; once that fails, the table answers alone.

    ``pricing``: a Pricing client; None asks the table only. ``on_failure`` is told once why the API cannot be read.
    """

    def __init__(self, pricing: Any | None, region: str, on_failure: Callable[[str], None] = lambda why: None) -> None:
        self._pricing, self._region, self._on_failure = pricing, region, on_failure
        self._listed = functools.cache(self._ask)
        self.failure: str | None = None if pricing is not None else "the Pricing API was not asked"
        """Why the Pricing API cannot be read; None while it can."""

    def __call__(self, use: str, instance_type: str) -> float | None:
        """A ``PriceOf``."""
        listed = self._listed(use, instance_type)
        return table_usd_per_hour(instance_type) if listed is None else listed

    def _ask(self, use: str, instance_type: str) -> float | None:
        if self.failure is not None:
            return None
        try:
            return listed_usd_per_hour(self._pricing, self._region, use, instance_type)
        except Exception as error:  # no network, no permission, a changed format: an estimate must not stop a run
            self.failure = str(error)[:300]
            self._on_failure(self.failure)
            return None


def listed_usd_per_hour(pricing: Any, region: str, use: str, instance_type: str) -> float | None:
    """The Pricing API's on-demand price, or None when it lists no such product."""
    filters = [
        {"Type": "TERM_MATCH", "Field": "regionCode", "Value": region},
        {"Type": "TERM_MATCH", "Field": "instanceName", "Value": instance_type},
    ]
    for page in pricing.get_paginator("get_products").paginate(ServiceCode="AmazonSageMaker", Filters=filters):
        for text in page["PriceList"]:
            product = json.loads(text) if isinstance(text, str) else text
            usage_type = str(product["product"]["attributes"].get("usagetype", ""))
            if usage_type.endswith(f"{USAGE[use]}{instance_type}") and "Spot" not in usage_type:
                return _hourly(product)
    return None


def _hourly(product: Json) -> float | None:
    for term in product.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term.get("priceDimensions", {}).values():
            usd = dimension.get("pricePerUnit", {}).get("USD")
            if usd is not None and float(usd) > 0 and str(dimension.get("unit", "")).lower().startswith(("hr", "hour")):
                return float(usd)
    return None
