"""Quotas by name minus what is in use; prices from the list or the dated table."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from admission_values import Jobs, Quotas

from infra.run.quota_requests import quota_requests
from infra.run.run_spec import resolve
from infra.sagemaker.prices import PriceReader, admitted_usd_per_hour, table_usd_per_hour
from infra.sagemaker.quotas import QuotaRequest, QuotaStatus, Scope, quota_statuses


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


def test_account_wide_limits_are_asked_for_by_their_exact_names() -> None:
    spec = resolve({"compute": {"capacity": [{"kind": "spot"}, {"kind": "on_demand"}]}}, default_recipe="llama3_8b")
    assert {request.quota for request in quota_requests(spec, prepared=False) if request.scope != "type"} == {
        "Longest run time for a training job",
        "Longest run time for a processing job",
        "Maximum number of instances per training job",
        "Maximum number of instances per spot training job",
        "Maximum number of instances per processing job",
        "Number of instances across all training jobs",
        "Number of instances across all spot training jobs",
        "Number of instances across all processing jobs",
    }


def test_instances_across_all_jobs_count_every_type() -> None:
    request = QuotaRequest(path="compute.instance_count", use="training job", instance_type="ml.g5.xlarge", count=2, scope="all")
    (quota,) = quota_statuses([request], Quotas({request.quota: 3}, {}), Jobs())
    assert (quota.used, quota.enough, quota.possible) == (2, False, True)


def test_a_longer_run_time_than_the_account_allows_is_refused_with_both_numbers() -> None:
    request = QuotaRequest(
        path="compute.max_runtime_seconds", use="spot training job", instance_type="ml.p5.48xlarge", count=2_419_200, scope="run_time"
    )
    (quota,) = quota_statuses([request], Quotas({"Longest run time for a training job": 432_000}, {}), Jobs())
    assert not quota.enough
    assert '2419200 s needs quota 2419200 for "Longest run time for a training job", this account has 432000' in quota.message("us-west-2")


@pytest.mark.parametrize("scope", ["job", "all", "run_time"])
def test_an_account_wide_limit_that_is_not_listed_refuses_nothing(scope: Scope) -> None:
    request = QuotaRequest(path="x", use="training job", instance_type="ml.p5.48xlarge", count=9, scope=scope)
    (quota,) = quota_statuses([request], Quotas({}, {}), Jobs())
    assert quota.enough and quota.possible and quota.row("us-west-2")["limit"] is None


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
