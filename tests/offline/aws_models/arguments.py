"""A call's arguments and results against botocore's service models: names, types, required, enums, patterns, bounds.

botocore's own validator looks at names, types and required members only; enums, patterns and upper bounds are
in the models too and are checked here. ``check_task`` is for the machine's Task states, ``check_api`` for direct calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import botocore.session
from botocore.exceptions import UnknownServiceError
from botocore.model import OperationModel, ServiceModel, Shape, StructureShape
from botocore.validate import ParamValidator

from aws_models.patterns import agrees

Json = Any

# Step Functions' names of services in a Resource ARN, where botocore's differ (aws-sdk names are those of the SDK for Java).
SERVICE = {
    "servicequotas": "service-quotas",
    "sfn": "stepfunctions",
    "states": "stepfunctions",
    "cloudwatchlogs": "logs",
    "eventbridge": "events",
}
# Actions of the optimised integrations with the patterns they offer.
# https://docs.aws.amazon.com/step-functions/latest/dg/integrate-optimized.html
OPTIMISED: dict[str, dict[str, set[str]]] = {
    "sagemaker": {
        **{
            f"create{kind}": {"", ".sync"}
            for kind in ("TrainingJob", "ProcessingJob", "TransformJob", "HyperParameterTuningJob", "LabelingJob")
        },
        **{action: {""} for action in ("createModel", "createEndpoint", "createEndpointConfig", "updateEndpoint")},
    },
    "codebuild": {"startBuild": {"", ".sync"}, "stopBuild": {""}, "startBuildBatch": {"", ".sync"}, "batchDeleteBuilds": {""}},
    "states": {"startExecution": {"", ".sync", ".sync:2", ".waitForTaskToken"}},
    "sns": {"publish": {"", ".waitForTaskToken"}},
    "sqs": {"sendMessage": {"", ".waitForTaskToken"}},
    "lambda": {"invoke": {"", ".waitForTaskToken"}},
    "events": {"putEvents": {"", ".waitForTaskToken"}},
}
# What a `.sync` task returns: the description of the finished job.
SYNC_RESULT: dict[tuple[str, str], tuple[str, str | None]] = {
    ("sagemaker", "createtrainingjob"): ("DescribeTrainingJob", None),
    ("sagemaker", "createprocessingjob"): ("DescribeProcessingJob", None),
    ("codebuild", "startbuild"): ("StartBuild", None),
}
SDK_EXTRAS = frozenset({"SdkHttpMetadata", "SdkResponseMetadata"})
_RESOURCE = re.compile(
    r"arn:aws[a-z-]*:states:::(?P<sdk>aws-sdk:)?(?P<service>[a-z0-9]+):(?P<action>[A-Za-z0-9]+)(?P<pattern>\.sync(:2)?|\.waitForTaskToken)?"
)


@cache
def service_model(service: str) -> ServiceModel:
    """botocore's model of a service."""
    return botocore.session.get_session().get_service_model(service)


def operation(resource: str) -> tuple[str, OperationModel]:
    """Service and operation of a Task's Resource.

    Raises:
        ValueError: a service, action or pattern that does not exist.
    """
    match = _RESOURCE.fullmatch(resource)
    if match is None:
        raise ValueError(f"{resource!r} is no service integration")
    service, action, pattern = match["service"], match["action"], match["pattern"] or ""
    if match["sdk"] and pattern.startswith(".sync"):
        raise ValueError(f"{resource}: SDK integrations have no {pattern}")
    if not match["sdk"] and pattern not in OPTIMISED.get(service, {}).get(action, ()):
        raise ValueError(f"{resource}: there is no optimised integration {service}:{action}{pattern}")
    try:
        model = service_model(SERVICE.get(service, service))
    except UnknownServiceError:
        raise ValueError(f"{resource}: there is no service {service!r}") from None
    if match["sdk"] and not action[:1].islower():
        raise ValueError(f"{resource}: an SDK action begins with a lower-case letter")
    names = {name.lower(): name for name in model.operation_names}
    if action.lower() not in names:
        raise ValueError(f"{resource}: {service} has no operation {action!r}")
    return SERVICE.get(service, service), model.operation_model(names[action.lower()])


def check_task(resource: str, arguments: Json, where: str) -> list[str]:
    """What the service would refuse in a Task's evaluated arguments; empty when nothing."""
    try:
        service, called = operation(resource)
    except ValueError as error:
        return [f"{where}: {error}"]
    problems = [f"{path}: Step Functions takes PascalCase names" for path in _camel_case(called.input_shape, arguments, where)]
    plain = _as_api(called.input_shape, arguments)
    if service == "lambda" and isinstance(plain, dict) and not isinstance(plain.get("Payload", ""), str | bytes):
        plain = {**plain, "Payload": b"{}"}  # Step Functions takes JSON here and serialises it
    return problems + check_shape(called.input_shape, plain, where)


def check_api(service: str, name: str, arguments: Json) -> list[str]:
    """What the service would refuse in a direct call's arguments."""
    return check_shape(service_model(service).operation_model(name).input_shape, arguments, f"{service}.{name}")


def check_result(resource: str, value: Json, where: str) -> list[str]:
    """Members of a scripted task result that the real one does not have."""
    service, called = operation(resource)
    if ".sync" in resource:
        described = SYNC_RESULT[(service, called.name.lower())][0]
        shape = service_model(service).operation_model(described).output_shape
    else:
        shape = called.output_shape
    return [problem for problem in _unknown(shape, value, where) if problem.rsplit(".", 1)[-1].split(":")[0] not in SDK_EXTRAS]


def check_shape(shape: Shape, value: Json, where: str) -> list[str]:
    """Everything that is wrong with ``value`` as this shape."""
    report = ParamValidator().validate(value, shape)
    problems = [f"{where}: {line}" for line in report.generate_report().splitlines()] if report.has_errors() else []
    return problems + list(_constraints(shape, value, where))


def _constraints(shape: Shape, value: Json, path: str) -> Iterator[str]:
    """Enums, patterns and bounds, which botocore's validator leaves to the service."""
    rules = shape.metadata
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        for key in value.keys() & shape.members.keys():
            yield from _constraints(shape.members[key], value[key], f"{path}.{key}")
    elif shape.type_name == "list" and isinstance(value, list):
        yield from _bounds(rules, len(value), path, "entries")
        for index, item in enumerate(value):
            yield from _constraints(shape.member, item, f"{path}[{index}]")
    elif shape.type_name == "map" and isinstance(value, dict):
        yield from _bounds(rules, len(value), path, "entries")
        for key, item in value.items():
            yield from _constraints(shape.key, key, f"{path}.{key} (key)")
            yield from _constraints(shape.value, item, f"{path}.{key}")
    elif shape.type_name == "string" and isinstance(value, str):
        yield from _bounds(rules, len(value), path, "characters")
        if shape.enum and value not in shape.enum:
            yield f"{path}: {value!r} is not one of {shape.name}'s {len(shape.enum)} values"
        if "pattern" in rules and not agrees(rules["pattern"], value):
            yield f"{path}: {value!r} does not match {rules['pattern']}"
    elif shape.type_name in ("integer", "long", "float", "double") and isinstance(value, int | float):
        yield from _bounds(rules, value, path, "")


def _bounds(rules: Json, number: float, path: str, unit: str) -> Iterator[str]:
    if "min" in rules and number < rules["min"]:
        yield f"{path}: {number} {unit} is below {rules['min']}".replace("  ", " ")
    if "max" in rules and number > rules["max"]:
        yield f"{path}: {number} {unit} is above {rules['max']}".replace("  ", " ")


def _walk(shape: Shape | None, value: Json, path: str, member: Callable[[StructureShape, str], str | None], found: list[str]) -> Json:
    """Rebuild ``value`` with each structure's member names as ``member`` gives them; None notes the path in ``found``."""
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        out = {}
        for key, item in value.items():
            name = member(shape, key)
            if name is None:
                found.append(f"{path}.{key}")
                name = key
            out[name] = _walk(shape.members.get(name), item, f"{path}.{key}", member, found)
        return out
    if shape is not None and shape.type_name == "list" and isinstance(value, list):
        return [_walk(shape.member, item, f"{path}[{index}]", member, found) for index, item in enumerate(value)]
    if shape is not None and shape.type_name == "map" and isinstance(value, dict):
        return {key: _walk(shape.value, item, f"{path}.{key}", member, found) for key, item in value.items()}
    return value


def _api_name(shape: StructureShape, key: str) -> str:
    """The model's spelling: Step Functions says PascalCase where some services (CodeBuild) say camelCase."""
    return key if key in shape.members else key[:1].lower() + key[1:] if key[:1].lower() + key[1:] in shape.members else key


def _as_api(shape: Shape | None, value: Json) -> Json:
    return _walk(shape, value, "", _api_name, [])


def _camel_case(shape: Shape | None, value: Json, where: str) -> list[str]:
    found: list[str] = []
    _walk(shape, value, where, lambda inner, key: None if key[:1].islower() else _api_name(inner, key), found)
    return found


def _unknown(shape: Shape | None, value: Json, where: str) -> list[str]:
    found: list[str] = []

    def member(inner: StructureShape, key: str) -> str | None:
        name = _api_name(inner, key)
        return name if name in inner.members else None

    _walk(shape, value, where, member, found)
    return [f"{path}: the service returns no such member" for path in found]
