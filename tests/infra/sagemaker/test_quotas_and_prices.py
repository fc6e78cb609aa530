"""Quotas by name minus what is in use; prices from the list or the dated table."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from admission_values import Jobs, Quotas

from infra.sagemaker.prices import price_reader
from infra.sagemaker.quotas import QuotaRequest, QuotaStatus, quota_statuses


def test_a_quota_is_its_limit_minus_what_runs() -> None:
    request = QuotaRequest(path="compute.instance_count", use="training job", instance_type="ml.p5.48xlarge", count=2)
    (quota,) = quota_statuses([request], Quotas({request.quota: 3}, {}), Jobs())
    assert (quota.limit, quota.used, quota.enough) == (3, 2, False)
    assert 'quota 2 for "ml.p5.48xlarge for training job usage", this account has 3 (2 in use)' in quota.message("us-west-2")
    assert "https://us-west-2.console.aws.amazon.com/servicequotas/" in quota.message("us-west-2")


def test_a_quota_that_was_never_raised_has_its_default() -> None:
    request = QuotaRequest(path="x", use="training job", instance_type="ml.p5.48xlarge", count=1)
    (quota,) = quota_statuses([request], Quotas({}, {request.quota: 0}), Jobs())
    assert (quota.limit, quota.default) == (0, True)


def test_a_quota_that_does_not_exist_says_so() -> None:
    quota = QuotaStatus(request=QuotaRequest(path="x", use="training job", instance_type="ml.x", count=1), limit=None, used=0)
    assert not quota.enough
    assert "is not offered there" in quota.message("eu-west-1")


def test_prices_come_from_the_list_and_fall_back_to_the_table() -> None:
    product = {
        "product": {"attributes": {"usagetype": "USW2-Train:ml.p5.48xlarge"}},
        "terms": {"OnDemand": {"t": {"priceDimensions": {"d": {"unit": "Hrs", "pricePerUnit": {"USD": "55.5"}}}}}},
    }
    listed = SimpleNamespace(get_paginator=lambda name: SimpleNamespace(paginate=lambda **_: [{"PriceList": [json.dumps(product)]}]))
    assert price_reader(listed, "us-west-2")("training", "ml.p5.48xlarge") == 55.5

    def broken(name: str) -> Any:
        raise OSError("no network")

    assert price_reader(SimpleNamespace(get_paginator=broken), "us-west-2")("training", "ml.p5.48xlarge") == 63.296
