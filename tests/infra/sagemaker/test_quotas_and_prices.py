"""Quotas by name minus what is in use; prices from the list or the dated table."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from admission_values import Jobs, Quotas

from infra.sagemaker.prices import PriceReader, admitted_usd_per_hour, table_usd_per_hour
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


def listed(usage: str, usd: str) -> Any:
    """A Pricing client whose list has one product."""
    product = {
        "product": {"attributes": {"usagetype": usage}},
        "terms": {"OnDemand": {"t": {"priceDimensions": {"d": {"unit": "Hrs", "pricePerUnit": {"USD": usd}}}}}},
    }
    return SimpleNamespace(get_paginator=lambda name: SimpleNamespace(paginate=lambda **_: [{"PriceList": [json.dumps(product)]}]))


class Unreachable:
    """A Pricing client without a network; counts its calls."""

    calls = 0

    def get_paginator(self, name: str) -> Any:
        self.calls += 1
        raise OSError("no network")


def test_prices_come_from_the_list_and_fall_back_to_the_table() -> None:
    assert PriceReader(listed("USW2-Train:ml.p5.48xlarge", "55.5"), "us-west-2")("training", "ml.p5.48xlarge") == 55.5
    assert PriceReader(Unreachable(), "us-west-2")("training", "ml.p5.48xlarge") == 63.296


def test_a_type_that_only_the_api_prices_has_the_apis_price_or_none() -> None:
    assert table_usd_per_hour("ml.p5en.48xlarge") is None
    assert PriceReader(listed("USW2-Train:ml.p5en.48xlarge", "72.5"), "us-west-2")("training", "ml.p5en.48xlarge") == 72.5
    assert PriceReader(Unreachable(), "us-west-2")("training", "ml.p5en.48xlarge") is None


def test_a_pricing_api_that_fails_is_asked_once_and_told_once() -> None:
    pricing = Unreachable()
    told: list[str] = []
    price = PriceReader(pricing, "us-west-2", told.append)
    assert (price("training", "ml.p5.48xlarge"), price("training", "ml.g5.xlarge")) == (63.296, 1.41)
    assert (pricing.calls, told, price.failure) == (1, ["no network"], "no network")


def test_a_run_keeps_the_prices_it_was_admitted_with() -> None:
    run = {"admitted": {"estimate": {"usd_per_hour": {"ml.p5en.48xlarge": 72.5}}}}
    assert admitted_usd_per_hour(run, "ml.p5en.48xlarge") == 72.5
    assert (admitted_usd_per_hour(run, "ml.p5.48xlarge"), admitted_usd_per_hour({}, "ml.p5e.48xlarge")) == (63.296, None)
