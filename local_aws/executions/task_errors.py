"""Errors of service integrations: the name that Retry and Catch match, and the cause, for a refusal of the service's API."""

from __future__ import annotations

import functools

from local_aws.executions import current
from local_aws.services import request_shapes

_PRODUCTS = {
    "sagemaker": ("SageMaker", "AmazonSageMaker"),
    "codebuild": ("CodeBuild", "AWSCodeBuild"),
    "lambda": ("Lambda", "AWSLambda"),
    "sns": ("SNS", "AmazonSNS"),
}
_SDK_SERVICES = {"sfn": "stepfunctions", "servicequotas": "service-quotas"}
"""Names of aws-sdk integrations that are not boto3's."""


def called(resource: str) -> tuple[str, str, bool]:
    """boto3's service, the operation, and whether the integration is an optimised one, of a task's Resource."""
    parts = resource.split(":")
    if parts[2] != "states" or len(parts) < 7:
        return "lambda", "Invoke", True
    optimised = parts[5] != "aws-sdk"
    service, action = parts[5:7] if optimised else parts[6:8]
    operation = action.partition(".")[0]
    return _SDK_SERVICES.get(service, service), operation[:1].upper() + operation[1:], optimised


def api_error(service: str, code: str, message: str, status: int = 400) -> Exception:
    """What an optimised integration raises: errors that the service's model lists by their names, others as the service's general one."""
    prefix, product = _PRODUCTS.get(service, (service.title(), service.title()))
    name = code.removesuffix("Exception") + "Exception" if code in _modelled(service) else f"{product}Exception"
    return current.error(f"{prefix}.{name}", f"{message} (Service: {product}; Status Code: {status}; Error Code: {code})")


@functools.cache
def _modelled(service: str) -> frozenset[str]:
    shapes = request_shapes.service_model(service).error_shapes
    return frozenset(str((shape.metadata.get("error") or {}).get("code") or shape.name) for shape in shapes)
