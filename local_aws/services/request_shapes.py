"""Checks requests against the service's model, as AWS does: unknown members, types, limits, enums, patterns.

Requests of the SDK are checked by the SDK; those that a state machine makes reach SageMaker unchecked, and there a
typing error costs a failed run.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import botocore.loaders
import botocore.model


@functools.cache
def service_model(service: str) -> Any:
    """botocore's model of a service by its boto3 name."""
    return botocore.model.ServiceModel(botocore.loaders.Loader().load_service_model(service, "service-2"), service)


def preload(service: str) -> None:
    """Load the model before the first request; it takes a large part of a second."""
    service_model(service)


@functools.cache
def members(service: str, shape: str) -> frozenset[str]:
    """Names of a structure's members."""
    return frozenset(service_model(service).shape_for(shape).members)


@functools.cache
def enum(service: str, shape: str) -> frozenset[str]:
    """Values of an enumeration."""
    return frozenset(service_model(service).shape_for(shape).enum)


def problems(service: str, operation: str, request: Any) -> list[str]:
    """Everything in ``request`` that the operation's input shape does not allow."""
    return list(_check(service_model(service).operation_model(operation).input_shape, request, ""))


def _check(shape: Any, value: Any, path: str) -> Iterator[str]:
    if shape.type_name == "structure":
        yield from _check_structure(shape, value, path)
    elif shape.type_name == "list":
        if not isinstance(value, list):
            yield f"{path} must be a list"
            return
        yield from _limits(shape, len(value), path)
        for number, item in enumerate(value):
            yield from _check(shape.member, item, f"{path}[{number}]")
    elif shape.type_name == "map":
        if not isinstance(value, dict):
            yield f"{path} must be an object"
            return
        yield from _limits(shape, len(value), path)
        for key, item in value.items():
            yield from _check(shape.key, key, f"{path} (key {key})")
            yield from _check(shape.value, item, f"{path}.{key}")
    else:
        yield from _check_scalar(shape, value, path)


def _check_structure(shape: Any, value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path} must be an object"
        return
    for name in shape.required_members:
        if name not in value:
            yield f"{_at(path, name)} is missing"
    for name, item in value.items():
        if name not in shape.members:
            yield f"{_at(path, name)} is no member of {shape.name}"
        else:
            yield from _check(shape.members[name], item, _at(path, name))


def _check_scalar(shape: Any, value: Any, path: str) -> Iterator[str]:
    kinds: dict[str, tuple[type, ...]] = {
        "string": (str,),
        "integer": (int,),
        "long": (int,),
        "boolean": (bool,),
        "float": (int, float),
        "double": (int, float),
    }
    expected = kinds.get(shape.type_name)
    if expected is None:
        return
    if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
        yield f"{path} must be a {shape.type_name}, and is {value!r}"
        return
    if isinstance(value, str):
        yield from _limits(shape, len(value), path)
        pattern = shape.metadata.get("pattern")
        if pattern and not _matches(pattern, value):
            yield f"{path}={value!r} does not match {pattern}"
        if shape.enum and value not in shape.enum:
            yield f"{path}={value!r} is not one of the {shape.name} values"
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _limits(shape, value, path)


def _limits(shape: Any, number: float, path: str) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and number < low:
        yield f"{path} is below its minimum {low}"
    if high is not None and number > high:
        yield f"{path} is above its maximum {high}"


def _matches(pattern: str, value: str) -> bool:
    try:
        return re.fullmatch(pattern, value, re.DOTALL) is not None
    except re.error:  # a few patterns use classes that only Java knows
        return True


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
