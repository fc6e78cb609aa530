"""Strict parser of typed settings: reports all problems at once, each with its dotted path and its fix.

The three ``spec.py`` modules and the CDK settings are frozen dataclasses; this module turns a JSON
value into one, or raises a :class:`SpecError` that lists every problem; whatever the value is, no other exception
comes out. It uses the standard library only, because the same code runs in a Lambda zip without compiled wheels, in
both images, and in the CDK app. (cattrs reports paths too, but neither suggestions nor a JSON Schema, and would have
to be packed into all four places.)

contracts/config_shape.py says which annotations are read; contracts/config_schema.py makes the JSON Schema.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from contracts.config_shape import Bounds, Pattern, Shape, one_or_more, shapes

__all__ = ["Bounds", "Json", "Pattern", "Problem", "SpecError", "at", "kind_of", "merge", "one_or_more", "parse", "suggestion", "to_json"]

T = TypeVar("T")
Json = dict[str, Any]

MAX_WHOLE_NUMBER = 2**53 - 1
"""Beyond it JSON's numbers are not exact everywhere (RFC 8259, section 6), and arithmetic with floats may overflow."""
MAX_SHOWN = 80
"""Characters of a value that a message repeats."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an input: where (dotted path) and what to do about it."""

    path: str
    message: str

    def __post_init__(self) -> None:
        """Both can be encoded as UTF-8, whatever the input held: half a surrogate pair is shown as its escape."""
        object.__setattr__(self, "path", _encodable(self.path))
        object.__setattr__(self, "message", _encodable(self.message))

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class SpecError(ValueError):
    """The input cannot be used; ``problems`` lists every reason."""

    def __init__(self, problems: typing.Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


def parse(cls: type[T], value: object, path: str = "") -> T:
    """Build ``cls`` (a frozen dataclass) from a JSON value.

    Raises:
        SpecError: unknown or missing keys, wrong types, broken limits and cross-field checks, all at once.
        TypeError: ``cls`` has an annotation that contracts/config_shape.py does not read.
    """
    problems: list[Problem] = []
    result = _read_object(cls, value, path, problems)
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


def deeper_than(value: object, levels: int) -> bool:
    """Whether objects and lists lie in each other more than ``levels`` deep. Counts without recursion, so any depth is safe."""
    layer = [value]
    for _ in range(levels + 1):
        layer = [
            item
            for each in layer
            if isinstance(each, (Mapping, list, tuple))
            for item in (each.values() if isinstance(each, Mapping) else each)
        ]
    return bool(layer)


def at(path: str, key: str) -> str:
    """The dotted path of ``key`` below ``path``."""
    return f"{path}.{key}" if path else key


def suggestion(word: str, known: typing.Iterable[str]) -> str:
    """``, did you mean "x"?`` when something known is close, else the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(word[:MAX_SHOWN], names, n=1, cutoff=0.6)
    return f', did you mean "{close[0]}"?' if close else f"; known: {', '.join(names)}"


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _shown(value: object) -> str:
    """The value as JSON, shortened; "" for what has no short JSON: numbers of thousands of digits, endless nesting, no JSON at all."""
    try:
        text = json.dumps(value)
    except (ValueError, TypeError, RecursionError):
        return ""
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def _key(key: object) -> str:
    return key if isinstance(key, str) else _shown(key) or "?"


def kind_of(value: object) -> str:
    """What a value is, in JSON's words."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", tuple: "a list"}
    return "an object" if isinstance(value, Mapping) else names.get(type(value), "something that is not JSON")


def _got(value: object) -> str:
    """What was given instead."""
    return "got null" if value is None else f"got {kind_of(value)} {_shown(value)}".rstrip()


def _read(shape: Shape, value: object, path: str, problems: list[Problem]) -> object:
    """Read ``value``; on failure append to ``problems`` and return None."""
    if value is None and shape.nullable:
        return None
    before = len(problems)
    result = _read_value(shape, value, path, problems)
    if len(problems) == before:
        problems.extend(_broken_limits(shape, result, path))
    return result


def _read_value(shape: Shape, value: object, path: str, problems: list[Problem]) -> object:
    if shape.kind == "any":
        return value
    if shape.kind == "object":
        return _read_object(shape.type, value, path, problems)
    if shape.kind == "literal":
        return _read_choice(shape.choices, value, path, problems)
    if shape.kind == "scalar":
        return _read_scalar(shape.type, value, path, problems)
    item = typing.cast(Shape, shape.item)
    if shape.kind == "list":
        if not isinstance(value, (list, tuple)):
            problems.append(Problem(path, f"must be a list, {_got(value)}"))
            return None
        return tuple(_read(item, element, f"{path}[{i}]", problems) for i, element in enumerate(value))
    if not isinstance(value, Mapping):
        problems.append(Problem(path, f"must be an object, {_got(value)}"))
        return None
    for key in value:
        _read_scalar(str, key, at(path, _key(key)), problems)
    return {key: _read(item, element, at(path, _key(key)), problems) for key, element in value.items()}


def _read_choice(choices: tuple[Any, ...], value: object, path: str, problems: list[Problem]) -> object:
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return value
    words = [choice for choice in choices if isinstance(choice, str)]
    hint = suggestion(value, words) if isinstance(value, str) and words else f"; known: {', '.join(map(str, choices))}"
    problems.append(Problem(path, f"{_shown(value) or 'what was given'} is not one of its values{hint}"))
    return None


def _read_scalar(kind: type, value: object, path: str, problems: list[Problem]) -> object:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
    if isinstance(value, float) and kind is int and value.is_integer():
        value = int(value)  # Step Functions and EventBridge may write 1000 as 1000.0
    if type(value) is int and abs(value) > MAX_WHOLE_NUMBER and kind in (int, float):
        problems.append(Problem(path, f"must be a number between -{MAX_WHOLE_NUMBER:,} and {MAX_WHOLE_NUMBER:,}, {_got(value)}"))
        return None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        problems.append(Problem(path, f"must be {names[kind]}, {_got(value)}"))
        return None
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        problems.append(Problem(path, f"must be a finite number, got {value}"))
        return None
    if isinstance(value, str) and _encodable(value) != value:
        problems.append(Problem(path, f"must be text, and {_shown(value)} holds half of a surrogate pair, which no file can hold"))
        return None
    return value


def _broken_limits(shape: Shape, value: object, path: str) -> Iterator[Problem]:
    for limit in shape.limits:
        if isinstance(limit, Bounds):
            broken = limit.broken_by(len(typing.cast(str, value)) if shape.sized else typing.cast(float, value))
            if broken:
                yield Problem(path, f"{'length of ' if shape.sized else ''}{_shown(value)} {broken}")
        elif not re.fullmatch(limit.regex, typing.cast(str, value)):
            yield Problem(path, f"{_shown(value)} is not {limit.meaning}")


def _read_object(cls: type, value: object, path: str, problems: list[Problem]) -> object:
    if isinstance(value, cls):
        return value
    fields = shapes(cls)
    if not isinstance(value, Mapping):
        problems.append(Problem(path, f"must be an object, {_got(value)}"))
        return None
    before = len(problems)
    for key in value:
        if key not in fields:
            problems.append(Problem(at(path, _key(key)), f"unknown key{suggestion(_key(key), fields)}"))
    arguments: Json = {}
    for field in dataclasses.fields(cls):
        if field.name in value:
            arguments[field.name] = _read(fields[field.name], value[field.name], at(path, field.name), problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(Problem(at(path, field.name), "is required"))
    if len(problems) > before:
        return None
    result = cls(**arguments)
    check = getattr(result, "check", None)
    if check is not None:
        problems.extend(Problem(at(path, p.path) if p.path else path, p.message) for p in check())
    return result
