"""JSON Schema and field documentation of a settings class, for editors and docs.

The docstring under each field is the field's documentation: ``field_docs`` reads it, and the JSON
Schema and docs/configuration.md repeat it.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import typing

from contracts.config import Json, to_json
from contracts.config_shape import Bounds, Shape, shapes

_NAMES = {int: "integer", float: "number", bool: "boolean", str: "string"}


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass and of those it extends, on one line."""
    docs: dict[str, str] = {}
    for part in reversed(cls.__mro__):
        docs |= _own_docs(part) if dataclasses.is_dataclass(part) else {}
    return docs


def _own_docs(cls: type) -> dict[str, str]:
    body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]).body
    docs: dict[str, str] = {}
    for node, following in itertools.pairwise(body):
        is_field = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        if is_field and is_text and isinstance(following.value.value, str):  # type: ignore[attr-defined]
            docs[node.target.id] = " ".join(following.value.value.split())  # type: ignore[attr-defined]
    return docs


def json_schema(cls: type) -> Json:
    """JSON Schema (draft 2020-12) of the input that ``parse(cls, ...)`` accepts, cross-field checks aside."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": cls.__name__, **_object(cls)}


def _schema(shape: Shape) -> Json:
    if shape.nullable:
        return {"anyOf": [_schema(dataclasses.replace(shape, nullable=False)), {"type": "null"}]}
    if shape.kind == "object":
        return _object(shape.type)
    if shape.kind == "literal":
        return {"enum": list(shape.choices)}
    if shape.kind == "list" and shape.item is not None:
        return {"type": "array", "items": _schema(shape.item), **_limits(shape)}
    if shape.kind == "map":
        return {"type": "object"}
    return {} if shape.kind == "any" else {"type": _NAMES[shape.type], **_limits(shape)}


def _limits(shape: Shape) -> Json:
    suffix = "Items" if shape.kind == "list" else "Length" if shape.type is str else "imum"
    schema: Json = {}
    for limit in shape.limits:
        if isinstance(limit, Bounds):
            schema |= {f"min{suffix}": limit.low} if limit.low is not None else {}
            schema |= {f"max{suffix}": limit.high} if limit.high is not None else {}
        else:
            schema["pattern"] = f"^(?:{limit.regex})$"
    return schema


def _object(cls: type) -> Json:
    docs, properties, required = field_docs(cls), {}, []
    for field in dataclasses.fields(cls):
        schema = _schema(shapes(cls)[field.name])
        if field.name in docs:
            schema["description"] = docs[field.name]
        if field.default is not dataclasses.MISSING:
            schema["default"] = to_json(field.default)
        elif field.default_factory is dataclasses.MISSING:
            required.append(field.name)
        properties[field.name] = schema
    extra = {"required": required} if required else {}
    return {"type": "object", "additionalProperties": False, "properties": properties, **extra}
