"""`doctor` and Admit say the same about money: the Pricing API first, then the table, then that no price is known."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from cli_aws import Denied, Deployed

from infra.admit.checks import budget_problems
from infra.admit.estimate import estimate
from infra.cli.preflight import Check, preflight
from infra.run.run_spec import resolve
from infra.sagemaker.prices import PriceReader

SPEC = resolve({"compute": {"instance_type": "ml.p5en.48xlarge"}, "budget": {"max_usd": 500}}, default_recipe="llama3_8b")


def pricing(usd: str | None) -> Any:
    """A Pricing client that lists ml.p5en.48xlarge at ``usd``, or nothing at all."""
    product = {
        "product": {"attributes": {"usagetype": "USW2-Train:ml.p5en.48xlarge"}},
        "terms": {"OnDemand": {"t": {"priceDimensions": {"d": {"unit": "Hrs", "pricePerUnit": {"USD": usd}}}}}},
    }
    pages = [{"PriceList": [] if usd is None else [json.dumps(product)]}]
    return SimpleNamespace(get_paginator=lambda name: SimpleNamespace(paginate=lambda **_: pages))


def budget_line(**clients: Any) -> Check:
    sts = SimpleNamespace(get_caller_identity=lambda: {"Account": "111122223333", "Arn": "arn:aws:iam::111122223333:user/me"})
    found = preflight(Deployed(sts=sts, s3=Denied(), **clients), SPEC)  # type: ignore[arg-type]
    return next(check for check in found.checks if check.name == "Budget")


@pytest.mark.parametrize(("usd", "state"), [("72.5", "good"), ("2000", "bad"), (None, "bad")])
def test_doctor_is_red_exactly_where_admit_refuses(usd: str | None, state: str) -> None:
    admits = list(budget_problems(SPEC, estimate(SPEC, PriceReader(pricing(usd), "us-west-2"), prepared=False)))
    line = budget_line(pricing=pricing(usd))
    assert (line.state, bool(admits)) == (state, state == "bad")
    assert line.found == admits[0].message if admits else "prices of the Pricing API" in line.found


def test_a_role_that_may_not_read_prices_is_warned_and_not_refused() -> None:
    line = budget_line()  # every service without a client denies
    assert line.state == "warning"
    assert line.found.startswith("no price is known for ml.p5en.48xlarge, so the budget cannot be kept")
    assert "AccessDenied" in line.found and "Admit reads the Pricing API with a role of its own" in line.fix
