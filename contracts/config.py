"""Strict parser of typed settings: reports all problems at once, each with its dotted path and its fix.

The three ``spec.py`` modules and the CDK settings are frozen dataclasses; this module turns a JSON
value into one, or raises a :class:`SpecError` that lists every problem. It uses the standard
library only, because the same code runs in a Lambda zip without compiled wheels, in both images, and
in the CDK app. (cattrs reports paths too, but neither suggestions nor a JSON Schema, and would have to
be packed into all four places.)

The docstring under each field is the field's documentation: ``field_docs`` reads it, and the JSON
Schema and docs/configuration.md repeat it.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import json
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

T = TypeVar("T")
Json = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an input: where (dotted path) and what to do about it."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class SpecError(ValueError):
    """The input cannot be used; ``problems`` lists every reason."""

    def __init__(self, problems: typing.Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


@dataclass(frozen=True)
class Bounds:
    """Limits of a number (inclusive), or of the length of a string or list."""

    low: float | None = None
    high: float | None = None

    def broken_by(self, number: float) -> str | None:
        """The limit that ``number`` breaks, in words, or None."""
        if self.low is not None and number < self.low:
            return f"must be at least {self.low:g}"
        if self.high is not None and number > self.high:
            return f"must be at most {self.high:g}"
        return None


@dataclass(frozen=True)
class Pattern:
    """A regular expression that a string must match whole, and what it means in words."""

    regex: str
    meaning: str


def one_or_more(high: float | None = None) -> Bounds:
    """Bounds of a count that cannot be zero."""
    return Bounds(1, high)


def parse(cls: type[T], value: object, path: str = "") -> T:
    """Build ``cls`` (a frozen dataclass) from a JSON value.

    Raises:
        SpecError: unknown or missing keys, wrong types, broken limits and cross-field checks, all at once.
    """
    problems: list[Problem] = []
    result = _read(cls, value, path, problems)
    if problems:
        raise SpecError(problems)
    return typing.cast(T, result)


def to_json(value: object) -> Any:
    """The JSON value that ``parse`` reads back to an equal object; tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    return value


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> Json:
    """``base`` with ``override`` laid over it: objects merge key by key, everything else is replaced."""
    result = dict(base)
    for key, value in override.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def at(path: str, key: str) -> str:
    """The dotted path of ``key`` below ``path``."""
    return f"{path}.{key}" if path else key


def suggestion(word: str, known: typing.Iterable[str]) -> str:
    """``, did you mean "x"?`` when something known is close, else the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f', did you mean "{close[0]}"?' if close else f"; known: {', '.join(names)}"


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _kind(value: object) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _read(annotation: Any, value: object, path: str, problems: list[Problem]) -> object:
    """Read ``value`` as ``annotation``; on failure append to ``problems`` and return None."""
    limits: tuple[object, ...] = ()
    if get_origin(annotation) is Annotated:
        annotation, *extra = get_args(annotation)
        limits = tuple(extra)
    origin = get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in get_args(annotation) if option is not type(None)]
        if value is None and len(options) < len(get_args(annotation)):
            return None
        inner = options[0]
        return _read(Annotated[(inner, *limits)] if limits else inner, value, path, problems)
    if annotation is Any:
        return value
    before = len(problems)
    result = _read_plain(annotation, origin, value, path, problems)
    if len(problems) == before:
        problems.extend(_broken_limits(limits, result, path))
    return result


def _read_plain(annotation: Any, origin: Any, value: object, path: str, problems: list[Problem]) -> object:
    if dataclasses.is_dataclass(annotation):
        return _read_object(typing.cast(type, annotation), value, path, problems)
    if origin is Literal:
        choices = get_args(annotation)
        if value in choices and type(value) in {type(choice) for choice in choices}:
            return value
        hint = suggestion(value, choices) if isinstance(value, str) else f"; known: {', '.join(map(str, choices))}"
        problems.append(Problem(path, f"{_shown(value)} is not one of its values{hint}"))
        return None
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            problems.append(Problem(path, f"must be a list, got {_kind(value)} {_shown(value)}"))
            return None
        item_type = get_args(annotation)[0]
        return tuple(_read(item_type, item, f"{path}[{i}]", problems) for i, item in enumerate(value))
    if origin is dict or annotation is dict:
        if not isinstance(value, Mapping):
            problems.append(Problem(path, f"must be an object, got {_kind(value)} {_shown(value)}"))
            return None
        inner = get_args(annotation)[1] if get_args(annotation) else Any
        return {str(key): _read(inner, item, at(path, str(key)), problems) for key, item in value.items()}
    return _read_scalar(annotation, value, path, problems)


def _read_scalar(annotation: Any, value: object, path: str, problems: list[Problem]) -> object:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
    if annotation is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if value != value or value in (float("inf"), float("-inf")):
            problems.append(Problem(path, f"must be a finite number, got {value}"))
            return None
        return float(value)
    if annotation is int and isinstance(value, float) and value.is_integer():
        return int(value)  # Step Functions and EventBridge may write 1000 as 1000.0
    if type(value) is annotation:
        return value
    problems.append(Problem(path, f"must be {names[annotation]}, got {_kind(value)} {_shown(value)}"))
    return None


def _broken_limits(limits: tuple[object, ...], value: object, path: str) -> Iterator[Problem]:
    for limit in limits:
        if isinstance(limit, Bounds) and value is not None:
            sized = isinstance(value, (str, tuple))
            number = len(typing.cast(str, value)) if sized else typing.cast(float, value)
            broken = limit.broken_by(number)
            if broken:
                yield Problem(path, f"{'length ' if sized else ''}{_shown(value)} {broken}")
        elif isinstance(limit, Pattern) and isinstance(value, str) and not re.fullmatch(limit.regex, value):
            yield Problem(path, f"{_shown(value)} is not {limit.meaning}")


def _read_object(cls: type, value: object, path: str, problems: list[Problem]) -> object:
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        problems.append(Problem(path, f"must be an object, got {_kind(value)} {_shown(value)}"))
        return None
    before = len(problems)
    hints = type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in value:
        if key not in fields:
            problems.append(Problem(at(path, str(key)), f"unknown key{suggestion(str(key), fields)}"))
    arguments: Json = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = _read(hints[name], value[name], at(path, name), problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(Problem(at(path, name), "is required"))
    if len(problems) > before:
        return None
    result = cls(**arguments)
    check = getattr(result, "check", None)
    if check is not None:
        problems.extend(Problem(at(path, p.path) if p.path else path, p.message) for p in check())
    return result


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """Resolved annotations of a dataclass, ``Annotated`` limits kept."""
    return typing.get_type_hints(cls, include_extras=True)


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, on one line."""
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
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": cls.__name__, **_schema(cls)}


def _schema(annotation: Any) -> Json:
    limits: tuple[object, ...] = ()
    if get_origin(annotation) is Annotated:
        annotation, *extra = get_args(annotation)
        limits = tuple(extra)
    origin = get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        inner = next(option for option in get_args(annotation) if option is not type(None))
        return {"anyOf": [_schema(Annotated[(inner, *limits)] if limits else inner), {"type": "null"}]}
    if dataclasses.is_dataclass(annotation):
        return _object_schema(typing.cast(type, annotation))
    if origin is Literal:
        return {"enum": list(get_args(annotation))}
    if origin is tuple:
        return {"type": "array", "items": _schema(get_args(annotation)[0]), **_limit_schema(limits, "Items")}
    if origin is dict or annotation is dict:
        return {"type": "object"}
    if annotation is Any:
        return {}
    name = {int: "integer", float: "number", bool: "boolean", str: "string"}[annotation]
    return {"type": name, **_limit_schema(limits, "Length" if annotation is str else "imum")}


def _limit_schema(limits: tuple[object, ...], suffix: str) -> Json:
    schema: Json = {}
    for limit in limits:
        if isinstance(limit, Bounds):
            schema |= {f"min{suffix}": limit.low} if limit.low is not None else {}
            schema |= {f"max{suffix}": limit.high} if limit.high is not None else {}
        elif isinstance(limit, Pattern):
            schema["pattern"] = f"^(?:{limit.regex})$"
    return schema


def _object_schema(cls: type) -> Json:
    docs, properties, required = field_docs(cls), {}, []
    for field in dataclasses.fields(cls):
        schema = _schema(type_hints(cls)[field.name])
        if field.name in docs:
            schema["description"] = docs[field.name]
        if field.default is not dataclasses.MISSING:
            schema["default"] = to_json(field.default)
        elif field.default_factory is dataclasses.MISSING:
            required.append(field.name)
        properties[field.name] = schema
    extra = {"required": required} if required else {}
    return {"type": "object", "additionalProperties": False, "properties": properties, **extra}
