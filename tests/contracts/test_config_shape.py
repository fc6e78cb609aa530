"""Annotations that are read, and those that are refused when their class is first used."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional

import pytest

from contracts.config import Bounds, Pattern, SpecError, parse
from contracts.config_shape import Shape, shapes


@dataclass(frozen=True, kw_only=True)
class Point:
    x: int


@dataclass(frozen=True, kw_only=True)
class Readable:
    flag: bool = True
    anything: Any = None
    colour: Literal["red", "green"] = "red"
    size: Literal[1, 2] = 1
    maybe: int | None = None
    also_maybe: Optional[float] = None  # noqa: UP045 (both spellings are read)
    names: tuple[Annotated[str, Pattern("[a-z]+", "lower-case letters")], ...] = ()
    few: Annotated[tuple[int, ...], Bounds(0, 2)] | None = None
    open: dict[str, Any] = dataclasses.field(default_factory=dict)
    points: dict[str, Point] = dataclasses.field(default_factory=dict)
    nested: tuple[tuple[int, ...], ...] = ()


def test_every_documented_annotation_is_read() -> None:
    value = {
        "flag": False, "anything": [1], "colour": "green", "size": 2, "maybe": 3, "also_maybe": 4, "names": ["a"], "few": [1],
        "open": {"a": {}}, "points": {"p": {"x": 1}}, "nested": [[1], []],
    }  # fmt: skip
    assert parse(Readable, value) == Readable(
        flag=False, anything=[1], colour="green", size=2, maybe=3, also_maybe=4.0, names=("a",), few=(1,),
        open={"a": {}}, points={"p": Point(x=1)}, nested=((1,), ()),
    )  # fmt: skip
    assert shapes(Readable)["few"] == Shape(kind="list", item=Shape(kind="scalar", type=int), nullable=True, limits=(Bounds(0, 2),))


@pytest.mark.parametrize(
    ("value", "path"),
    [({"names": ["A"]}, "names[0]"), ({"few": [1, 2, 3]}, "few"), ({"points": {"p": {"y": 1}}}, "points.p.y"),
     ({"nested": [[1.5]]}, "nested[0][0]"), ({"size": "1"}, "size"), ({"size": True}, "size"), ({"open": {1: 2}}, "open.1")],
)  # fmt: skip
def test_what_lies_inside_is_read_as_strictly(value: object, path: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(Readable, value)
    assert path in {problem.path for problem in caught.value.problems}


@pytest.mark.parametrize(
    "annotation",
    [
        int | str, int | str | None, tuple[int, str], tuple[int], tuple[()], tuple, list[int], dict, dict[int, str], set[str],
        bytes, object, None, Literal[None], Literal[b"x"], Annotated[bool, Bounds(0, 1)], Annotated[int, Pattern("1", "one")],
        Annotated[int, "cm"], Annotated[dict[str, int], Bounds(0, 1)], tuple[int | str, ...], dict[str, bytes], complex,
    ],
    ids=str,
)  # fmt: skip
def test_an_annotation_that_cannot_be_read_is_refused_with_class_and_field(annotation: Any) -> None:
    broken = dataclasses.make_dataclass("Broken", [("fine", int), ("odd", annotation)], frozen=True, kw_only=True)
    with pytest.raises(TypeError, match=r"^Broken\.odd: the annotation .+ cannot be read: "):
        parse(broken, {"fine": 1})


def test_a_class_inside_is_read_when_the_outer_is_first_used() -> None:
    inner = dataclasses.make_dataclass("Inner", [("odd", list[int])], frozen=True, kw_only=True)
    outer = dataclasses.make_dataclass("Outer", [("inside", tuple[inner, ...], ())], frozen=True, kw_only=True)  # type: ignore[valid-type]
    with pytest.raises(TypeError, match=r"^Inner\.odd: the annotation list\[int\]"):
        parse(outer, {})
