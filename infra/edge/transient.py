"""TransientFault: AWS throttled a call, failed, or could not be reached. Every function raises it, and every Lambda Retry lists it.

Step Functions matches a Python function's errors by the name of their class, and boto3 raises a ClientError for a throttled
call and for a refused one alike; so the edge (infra/edge/function.py) raises this class for what another try can heal.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError, ResponseStreamingError
from botocore.retries.standard import RetryContext, ThrottledRetryableChecker, TransientRetryableChecker

from contracts.failure import JobFailure

CUT_SHORT = (IncompleteReadError, ResponseStreamingError)
"""A response's body that ended early. It is read after botocore's retries, so no checker of theirs sees it."""


class TransientFault(JobFailure):
    """AWS throttled a call, failed, or could not be reached, after botocore's own retries."""

    retry = "retry"


def transient_cause(error: BaseException) -> ClientError | BotoCoreError | None:
    """The AWS error behind ``error`` (itself, or what it was raised from) that another try can heal; None when there is none."""
    for each in _chain(error):
        if isinstance(each, (ClientError, BotoCoreError)) and is_transient(each):
            return each
    return None


def is_transient(error: ClientError | BotoCoreError) -> bool:
    """botocore's own classification (standard retry mode): throttling codes, HTTP 500 to 504, connections and timeouts."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        context = RetryContext(attempt_number=1, parsed_response=error.response, http_response=SimpleNamespace(status_code=status))
        return bool(ThrottledRetryableChecker().is_retryable(context) or TransientRetryableChecker().is_retryable(context))
    return isinstance(error, CUT_SHORT) or bool(
        TransientRetryableChecker().is_retryable(RetryContext(attempt_number=1, caught_exception=error))
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
