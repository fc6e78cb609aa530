"""The embedded Pricing API: SageMaker's products in the real price list's shape, at the project's dated prices."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from infra.sagemaker.instance_types import INSTANCE_TYPES, PRICES_AS_OF
from infra.sagemaker.prices import USAGE
from local_aws.services.json_service import Json, JsonService, ServiceError

FILE = "prices.json"
"""In the embedded AWS's folder: ``{"ml.p5.48xlarge": 70.5, "ml.trn2.48xlarge": null, ...}`` over the dated table; tests write it."""
PAGE = 100
_PREFIXES = {"us-east-1": "USE1", "us-east-2": "USE2", "us-west-2": "USW2", "eu-west-1": "EU", "eu-central-1": "EUC1"}


class Pricing(JsonService):
    """GetProducts for AmazonSageMaker; every other service has no products."""

    scope = "pricing"
    target_prefix = "AWSPriceListService"

    def __init__(self, home: Path) -> None:
        self._path = home / FILE

    def get_products(self, request: Json) -> Json:
        """Products whose attributes match every filter, each as a JSON text, in pages."""
        if request.get("FormatVersion", "aws_v1") != "aws_v1":
            raise ServiceError("InvalidParameterException", f"FormatVersion {request['FormatVersion']} is not supported")
        products = self._products() if request["ServiceCode"] == "AmazonSageMaker" else []
        wanted = {item["Field"]: item["Value"] for item in request.get("Filters", [])}
        matching = [item for item in products if all(item["product"]["attributes"].get(key) == value for key, value in wanted.items())]
        start = int(base64.b64decode(request["NextToken"])) if request.get("NextToken") else 0
        end = start + min(request.get("MaxResults", PAGE), PAGE)
        page: Json = {"FormatVersion": "aws_v1", "PriceList": [json.dumps(item) for item in matching[start:end]]}
        if end < len(matching):
            page["NextToken"] = base64.b64encode(str(end).encode()).decode()
        return page

    def _products(self) -> list[Json]:
        given = json.loads(self._path.read_text()) if self._path.exists() else {}
        table = {kind: row.usd_per_hour for kind, row in INSTANCE_TYPES.items()}
        prices = {kind: usd for kind, usd in (table | given).items() if usd is not None}
        return [
            _product(kind, component, usd, region)
            for kind, usd in sorted(prices.items())
            for component in USAGE.values()
            for region in _PREFIXES
        ]


def _product(kind: str, component: str, usd: float, region: str) -> Json:
    """One entry of a price list, as AWS publishes it."""
    usage = f"{_PREFIXES[region]}-{component}{kind}"
    sku = hashlib.sha256(usage.encode()).hexdigest()[:16].upper()
    dimension = {
        "unit": "Hrs",
        "endRange": "Inf",
        "beginRange": "0",
        "description": f"${usd} per {component.rstrip(':')} {kind} hour in {region}",
        "appliesTo": [],
        "rateCode": f"{sku}.JRTCKXETXF.6YS6EN2CT7",
        "pricePerUnit": {"USD": f"{usd:.10f}"},
    }
    term = {
        "priceDimensions": {dimension["rateCode"]: dimension},
        "sku": sku,
        "effectiveDate": f"{PRICES_AS_OF}T00:00:00Z",
        "offerTermCode": "JRTCKXETXF",
        "termAttributes": {},
    }
    attributes = {
        "servicecode": "AmazonSageMaker",
        "servicename": "Amazon SageMaker",
        "regionCode": region,
        "locationType": "AWS Region",
        "instanceName": kind,
        "component": component.rstrip(":"),
        "usagetype": usage,
        "operation": "RunInstance",
    }
    return {
        "product": {"productFamily": "ML Instance", "attributes": attributes, "sku": sku},
        "serviceCode": "AmazonSageMaker",
        "terms": {"OnDemand": {f"{sku}.JRTCKXETXF": term}},
        "publicationDate": f"{PRICES_AS_OF}T00:00:00Z",
    }
