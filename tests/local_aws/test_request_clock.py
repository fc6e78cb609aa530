"""A request whose clock is wrong is refused as the service that it is for refuses it."""

from __future__ import annotations

import datetime as dt

import pytest

from local_aws.services.request_clock import skew_error

NOW = dt.datetime(2026, 11, 25, 12, 0, 0, tzinfo=dt.UTC)


def headers(service: str, minutes: float, **more: str) -> dict[str, str]:
    when = NOW + dt.timedelta(minutes=minutes)
    credential = f"AWS4-HMAC-SHA256 Credential=000000000000/20261125/us-east-1/{service}/aws4_request, Signature=x"
    return {"authorization": credential, "x-amz-date": f"{when:%Y%m%dT%H%M%SZ}", **more}


@pytest.mark.parametrize(("service", "minutes"), [("states", 4.9), ("states", -4.9), ("s3", 14), ("s3", -14)])
def test_a_clock_within_the_limit_is_served(service, minutes):
    assert skew_error(headers(service, minutes), NOW) is None


@pytest.mark.parametrize(
    ("service", "minutes", "more", "code", "words"),
    [
        ("states", 6, {"x-amz-target": "x.DescribeExecution"}, "InvalidSignatureException", "Signature not yet current: 20261125T120600Z"),
        ("states", -6, {"x-amz-target": "x.DescribeExecution"}, "InvalidSignatureException", "Signature expired: 20261125T115400Z"),
        ("sts", -1440, {"content-type": "application/x-www-form-urlencoded"}, "SignatureDoesNotMatch", "Signature expired"),
        ("s3", 16, {}, "RequestTimeTooSkewed", "too large"),
    ],
)
def test_a_wrong_clock_is_refused(service, minutes, more, code, words):
    error = skew_error(headers(service, minutes, **more), NOW)
    assert error is not None and (error.code, error.status) == (code, 403) and words in error.message


def test_what_is_not_signed_is_not_judged_and_a_date_that_is_none_is_refused():
    assert skew_error({}, NOW) is None
    broken = skew_error(headers("states", 0) | {"x-amz-date": "today"}, NOW)
    assert broken is not None and broken.code == "IncompleteSignatureException"
