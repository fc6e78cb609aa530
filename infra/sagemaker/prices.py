"""What an instance costs for an hour: the Pricing API, else a dated table.

The price list has one product for each use of a type (training, processing); both are asked for by the
``usagetype`` that SageMaker bills, such as ``USW2-Train:ml.p5.48xlarge``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from contracts.config import Json

AS_OF = "2026-11-22"
USAGE = {"training": "Train:", "processing": "Processing:"}

PriceOf = Callable[[str, str], float | None]
"""(use, instance type) -> US dollars of one instance for an hour, None when no price is known."""

# US dollars per instance and hour, on demand, in the cheapest regions of the United States, rounded up. ml.p5.48xlarge:
# us-west-2, 2026. The others are EC2's list prices with SageMaker's usual surcharge, from memory of the public price
# pages, so they are good for refusing a run that is far above its budget and no more; the Pricing API comes first.
USD_PER_HOUR: dict[str, float] = {
    "ml.c7i.large": 0.11, "ml.c7i.xlarge": 0.22, "ml.c7i.2xlarge": 0.43, "ml.c7i.4xlarge": 0.86, "ml.c7i.8xlarge": 1.72,
    "ml.c7i.16xlarge": 3.43, "ml.c7i.24xlarge": 5.15, "ml.c7i.48xlarge": 10.29,
    "ml.m7i.large": 0.13, "ml.m7i.xlarge": 0.25, "ml.m7i.2xlarge": 0.49, "ml.m7i.4xlarge": 0.97, "ml.m7i.8xlarge": 1.94,
    "ml.m7i.16xlarge": 3.88, "ml.m7i.24xlarge": 5.81, "ml.m7i.48xlarge": 11.62,
    "ml.r7i.4xlarge": 1.28, "ml.r7i.8xlarge": 2.55, "ml.r7i.16xlarge": 5.09,
    "ml.g5.xlarge": 1.41, "ml.g5.2xlarge": 1.52, "ml.g5.12xlarge": 7.10, "ml.g5.48xlarge": 20.36,
    "ml.g6.12xlarge": 5.76, "ml.g6.48xlarge": 16.69, "ml.g6e.12xlarge": 13.12, "ml.g6e.48xlarge": 37.67,
    "ml.p4d.24xlarge": 37.69, "ml.p4de.24xlarge": 47.11,
    "ml.p5.48xlarge": 63.296,
}  # fmt: skip


def on_demand_usd_per_hour(instance_type: str, region: str) -> float | None:
    """Price of one instance for an hour from the dated table (one for all regions), or None for a type that is not in it."""
    return USD_PER_HOUR.get(instance_type)


def price_reader(pricing: Any, region: str) -> PriceOf:
    """Prices in ``region``, asked for once each; whatever goes wrong with the API, the table answers."""

    @functools.cache
    def price(use: str, instance_type: str) -> float | None:
        try:
            listed = listed_usd_per_hour(pricing, region, use, instance_type)
        except Exception as error:  # no network, no permission, a changed format: an estimate must not stop a run
            print(json.dumps({"message": "the Pricing API could not be read; the dated table answers", "error": str(error)[:300]}))
            listed = None
        return listed if listed is not None else on_demand_usd_per_hour(instance_type, region)

    return price


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
