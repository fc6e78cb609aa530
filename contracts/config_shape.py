"""What the annotations of a settings class mean: one :class:`Shape` per field, read once and shared by parser, JSON Schema and docs.

Readable are ``bool``, ``int``, ``float``, ``str``, ``Any``, ``Literal[...]``, a dataclass, ``tuple[X, ...]``, ``dict[str, X]``,
``X | None`` of one X, and ``Annotated[X, ...]`` with :class:`Bounds` and :class:`Pattern`. Every other annotation is a TypeError
when its class is first used, since a guess would accept what nobody meant.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

SCALARS = (bool, int, float, str)
READABLE = "bool, int, float, str, Any, Literal, a dataclass, tuple[X, ...], dict[str, X], X | None, and Annotated with Bounds or Pattern"


@dataclass(frozen=True)
class Bounds:
    """Limits of a number (inclusive), or of the length of a string or list."""

    low: float | None = None
    high: float | None = None

    def broken_by(self, number: float) -> str | None:
        """The limit that ``number`` breaks, in words, or None."""
        if self.low is not None and number < self.low:
            return f"must be at least {in_digits(self.low)}"
        if self.high is not None and number > self.high:
            return f"must be at most {in_digits(self.high)}"
        return None


@dataclass(frozen=True)
class Pattern:
    """A regular expression that a string must match whole, and what it means in words."""

    regex: str
    meaning: str


def one_or_more(high: float | None = None) -> Bounds:
    """Bounds of a count that cannot be zero."""
    return Bounds(1, high)


def in_digits(number: float) -> str:
    """A limit for people: ``2,419,200`` and not ``2.4192e+06``."""
    return f"{int(number):,}" if float(number).is_integer() else f"{number:g}"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One annotation, read."""

    kind: Literal["any", "scalar", "literal", "object", "list", "map"]
    type: Any = None
    """The scalar's type, or the object's dataclass."""
    choices: tuple[Any, ...] = ()
    """A literal's values."""
    item: Shape | None = None
    """What a list or a map holds."""
    nullable: bool = False
    """Whether null is a value too."""
    limits: tuple[Bounds | Pattern, ...] = ()
    """What a value must keep."""

    @property
    def sized(self) -> bool:
        """Whether Bounds limit a length and not a value."""
        return self.kind == "list" or self.type is str

    def classes(self) -> Iterator[type]:
        """The dataclasses inside."""
        if self.kind == "object":
            yield self.type
        if self.item is not None:
            yield from self.item.classes()


class _UnreadableError(Exception):
    """Why an annotation has no shape."""


@functools.cache
def shapes(cls: type) -> dict[str, Shape]:
    """The shape of each field of a dataclass, in order; those of the classes inside are read as well.

    Raises:
        TypeError: an annotation that is not readable, with class, field and annotation.
    """
    found = _own_shapes(cls)
    seen, waiting = {cls}, [inner for shape in found.values() for inner in shape.classes()]
    while waiting:
        inner = waiting.pop()
        if inner not in seen:
            seen.add(inner)
            waiting.extend(deeper for shape in _own_shapes(inner).values() for deeper in shape.classes())
    return found


@functools.cache
def _own_shapes(cls: type) -> dict[str, Shape]:
    hints = typing.get_type_hints(cls, include_extras=True)
    found: dict[str, Shape] = {}
    for field in dataclasses.fields(cls):
        try:
            found[field.name] = shape_of(hints[field.name])
        except _UnreadableError as error:
            raise TypeError(f"{cls.__qualname__}.{field.name}: the annotation {hints[field.name]!r} cannot be read: {error}") from None
    return found


def shape_of(annotation: Any) -> Shape:
    """The shape of one annotation."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _limited(shape_of(arguments[0]), arguments[1:])
    if origin in (typing.Union, types.UnionType):
        options = [option for option in arguments if option is not type(None)]
        if len(options) != 1 or len(options) == len(arguments):
            raise _UnreadableError("of unions only X | None with one X is read")
        return dataclasses.replace(shape_of(options[0]), nullable=True)
    if annotation is Any:
        return Shape(kind="any")
    if annotation in SCALARS:
        return Shape(kind="scalar", type=annotation)
    if origin is Literal:
        if not all(type(choice) in (str, int, bool) for choice in arguments):
            raise _UnreadableError("a Literal's values must be strings, whole numbers or booleans")
        return Shape(kind="literal", choices=arguments)
    if origin is tuple:
        if len(arguments) != 2 or arguments[1] is not ...:
            raise _UnreadableError("of tuples only tuple[X, ...] is read, a list of any length")
        return Shape(kind="list", item=shape_of(arguments[0]))
    if origin is dict:
        if arguments[0] is not str:
            raise _UnreadableError("the keys of a JSON object are strings: dict[str, X]")
        return Shape(kind="map", item=shape_of(arguments[1]))
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return Shape(kind="object", type=annotation)
    raise _UnreadableError(f"readable are {READABLE}")


def _limited(shape: Shape, limits: tuple[object, ...]) -> Shape:
    for limit in limits:
        if isinstance(limit, Bounds):
            if not (shape.sized or shape.type in (int, float)):
                raise _UnreadableError("Bounds limit numbers, and the length of strings and lists")
        elif not isinstance(limit, Pattern):
            raise _UnreadableError(f"{limit!r} is neither Bounds nor Pattern")
        elif shape.type is not str:
            raise _UnreadableError("a Pattern limits strings")
    return dataclasses.replace(shape, limits=(*shape.limits, *typing.cast("tuple[Bounds | Pattern, ...]", limits)))
