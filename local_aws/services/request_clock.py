"""Requests signed by a clock that is wrong are refused, as AWS refuses them: five minutes either way, 15 for S3.

Sources: "Troubleshoot Signature Version 4 signing" in the IAM user guide (Signature expired, Signature not yet current) and S3's
error responses (RequestTimeTooSkewed).
"""

from __future__ import annotations

import datetime
import re
from typing import Any

from local_aws.services.api_faults import ApiError, answer_error

MINUTES = 5
S3_MINUTES = 15
FORMAT = "%Y%m%dT%H%M%SZ"


def skew_error(headers: dict[str, str], now: datetime.datetime) -> ApiError | None:
    """The error of a request whose signature's time is too far from ``now``; None for one that is not signed."""
    signed = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/aws4_request", headers.get("authorization", ""))
    if signed is None or "x-amz-date" not in headers:
        return None
    try:
        given = datetime.datetime.strptime(headers["x-amz-date"], FORMAT).replace(tzinfo=datetime.UTC)
    except ValueError:
        return ApiError(code="IncompleteSignatureException", message="X-Amz-Date is no date", status=403)
    minutes = S3_MINUTES if signed[1] == "s3" else MINUTES
    if abs(now - given) <= datetime.timedelta(minutes=minutes):
        return None
    if signed[1] == "s3":
        message = "The difference between the request time and the current time is too large."
        return ApiError(code="RequestTimeTooSkewed", message=message, status=403)
    state, than = ("expired", "now earlier") if given < now else ("not yet current", "still later")
    limit = now + datetime.timedelta(minutes=minutes if given > now else -minutes)
    message = (
        f"Signature {state}: {given:{FORMAT}} is {than} than {limit:{FORMAT}} ({now:{FORMAT}} {'-' if given < now else '+'} {minutes} min.)"
    )
    json_protocol = "x-amz-target" in headers or headers.get("smithy-protocol") or "x-www-form" not in headers.get("content-type", "")
    return ApiError(code="InvalidSignatureException" if json_protocol else "SignatureDoesNotMatch", message=message, status=403)


def middleware(app: Any) -> Any:
    """The same ASGI application, refusing requests whose clock is wrong."""

    async def checked(scope: Any, receive: Any, send: Any) -> None:
        error = None
        if scope["type"] == "http":
            headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
            error = skew_error(headers, datetime.datetime.now(datetime.UTC))
        if error is None:
            await app(scope, receive, send)
        else:
            await answer_error(send, headers, error)

    return checked
