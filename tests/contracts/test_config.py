"""The strict parser: all problems at once, with paths and fixes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.config import Bounds, Pattern, Problem, SpecError, merge, parse, to_json
from contracts.config_schema import json_schema


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: Annotated[int, Bounds(1, 8)]
    """How large."""
    kind: Literal["red", "green"] = "red"
    """Its colour."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner
    """The inner one."""
    names: Annotated[tuple[str, ...], Bounds(0, 2)] = ()
    """A few names."""
    share: float | None = None
    """A share."""
    code: Annotated[str, Pattern("[a-z]+", "lower-case letters")] = "a"
    """A code."""
    flag: bool = False
    """A switch."""

    def check(self) -> Iterator[Problem]:
        if self.flag and self.share is None:
            yield Problem("share", "goes with flag=true")


def problems(value: object) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        parse(Outer, value)
    return {p.path: p.message for p in caught.value.problems}


def test_all_problems_are_listed_with_dotted_paths() -> None:
    found = problems({"innner": {}, "inner": {"size": "3", "kind": "gren"}, "names": [1], "share": "x", "code": "A", "flag": 1})
    assert set(found) == {"innner", "inner.size", "inner.kind", "names[0]", "share", "code", "flag"}
    assert 'did you mean "inner"' in found["innner"]
    assert 'did you mean "green"' in found["inner.kind"]


@pytest.mark.parametrize(
    ("value", "path", "word"),
    [
        ({"inner": {"size": 9}}, "inner.size", "at most 8"),
        ({"inner": {"size": True}}, "inner.size", "whole number"),
        ({"inner": {"size": 1.5}}, "inner.size", "whole number"),
        ({"inner": {"size": 1}, "names": ["a", "b", "c"]}, "names", "at most 2"),
        ({"inner": {"size": 1}, "share": float("nan")}, "share", "finite"),
        ({"inner": {"size": 1}, "flag": True}, "share", "flag=true"),
        ({}, "inner", "is required"),
        ([], "", "must be an object"),
        (None, "", "must be an object"),
    ],
)
def test_bad_value_names_its_path_and_limit(value: object, path: str, word: str) -> None:
    assert word in problems(value)[path]


def test_whole_floats_are_read_as_integers() -> None:
    assert parse(Outer, {"inner": {"size": 3.0}}).inner.size == 3


OUTERS = st.builds(
    Outer,
    inner=st.builds(Inner, size=st.integers(1, 8)),
    names=st.lists(st.text(), max_size=2).map(tuple),
    share=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    code=st.from_regex("[a-z]+", fullmatch=True),
    flag=st.just(False),
)


@given(OUTERS)
def test_json_round_trip_and_schema_agree(value: Outer) -> None:
    as_json = to_json(value)
    assert parse(Outer, as_json) == value
    jsonschema.validate(as_json, json_schema(Outer))


def test_schema_carries_docstrings_limits_and_defaults() -> None:
    schema = json_schema(Outer)
    assert schema["properties"]["inner"]["properties"]["size"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 8,
        "description": "How large.",
    }
    assert schema["additionalProperties"] is False and schema["required"] == ["inner"]


def test_merge_goes_key_by_key_and_replaces_lists() -> None:
    assert merge({"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"c": [2]}, "d": None}) == {"a": {"b": 1, "c": [2]}, "d": None}
