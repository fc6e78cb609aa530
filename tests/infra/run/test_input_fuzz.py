"""Whatever JSON a person or a program gives: a run, or problems in words; never another exception."""

from __future__ import annotations

import json
from typing import Any

import pytest
from admission_values import price
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.config import SpecError, parse, to_json
from infra.admit.checks import device_problems, network_problems
from infra.admit.estimate import estimate
from infra.run.input_schema import input_schema
from infra.run.quota_requests import quota_requests
from infra.run.recipes import RECIPES
from infra.run.run_spec import RunInput, RunSpec, resolve
from infra.triage.attempts import Limits, Source, first_attempt

FUZZ = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def nested(depth: int) -> Any:
    """A list in a list ... ``depth`` times."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE: dict[str, Any] = {
    "400 digits": 10**400, "5000 digits": -(10**5000), "half a pair": "\ud800", "half a pair in a path": "a\udfff/", "deep": nested(5000),
    "deep inside": {"a": nested(3000)}, "key": {"\ud800": 1}, "long": "x" * 5000,
}  # fmt: skip
"""Values whose own text or JSON cannot be made; drawn by name, since hypothesis prints what it draws."""


def hostile(name: str) -> Any:
    return HOSTILE[name]


ODD = st.sampled_from(sorted(HOSTILE)).map(hostile) | st.sampled_from(
    [1e308, -1e308, 5e-324, 2**53, 2**63, float("nan"), float("inf"), "", 0, -1, 1, True, None]
)
JSON = st.recursive(
    ODD | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def paths(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every place of a JSON object that one value can take."""
    found = [path] if path else []
    for key, inner in value.items() if isinstance(value, dict) else ():
        found += paths(inner, (*path, key))
    return found


def known_paths() -> list[tuple[str, ...]]:
    def inside(schema: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        found = [path] if path else []
        for option in schema.get("anyOf", [schema]):
            for key, inner in option.get("properties", {}).items():
                found += inside(inner, (*path, key))
        return found

    return inside(input_schema())


def placed(changes: list[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    """An input with a value at each path."""
    value: dict[str, Any] = {}
    for path, item in changes:
        here = value
        for key in path[:-1]:
            if not isinstance(here.get(key), dict):
                here[key] = {}
            here = here[key]
        here[path[-1]] = item
    return value


INPUTS = st.lists(st.tuples(st.sampled_from(known_paths()), JSON), max_size=4).map(placed)
RESOLVED = {name: to_json(resolve({}, default_recipe=name)) for name in RECIPES}


def told(error: SpecError) -> None:
    """Every problem can be shown, and says nothing of Python."""
    text = str(error)
    assert text.encode() and json.dumps(text)
    assert not [word for word in ("NoneType", "null null", "<class", "dataclass", "mappingproxy") if word in text]


@FUZZ
@given(JSON)
def test_any_json_is_read_or_refused(value: Any) -> None:
    for cls in (RunInput, RunSpec):
        try:
            parse(cls, value)
        except SpecError as error:
            told(error)


@FUZZ
@given(st.sampled_from(sorted(RESOLVED)), st.data())
def test_a_resolved_run_with_one_odd_value_is_read_or_refused(name: str, data: st.DataObject) -> None:
    changed = json.loads(json.dumps(RESOLVED[name]))
    path = data.draw(st.sampled_from(paths(changed)))
    here = changed
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = data.draw(JSON)
    try:
        parse(RunSpec, changed)
    except SpecError as error:
        told(error)


@FUZZ
@given(INPUTS, st.sampled_from(sorted(RECIPES)))
def test_any_input_resolves_and_is_estimated_or_is_refused(value: dict[str, Any], recipe: str) -> None:
    try:
        spec = resolve(value, default_recipe=recipe)
    except SpecError as error:
        told(error)
        return
    follow_up(spec)


def follow_up(spec: RunSpec) -> None:
    """What Admit works out of a resolved run before it asks AWS for anything."""
    json.dumps(to_json(spec)).encode()
    costs = estimate(spec, price, prepared=False)
    json.dumps(costs.as_value(), allow_nan=False)
    list(device_problems(spec))
    list(network_problems(spec))
    quota_requests(spec, prepared=False)
    limits = Limits(max_attempts=1, max_runtime_seconds=60, max_usd=costs.legs[0].max_usd, max_wait_seconds=0)
    first_attempt(limits, (Source(kind="on_demand", instance_type="ml.c7i.large", usd_per_hour=5e-2),))


NUMBERS = st.sampled_from([0, 1, 2, 7, 1000, 2**31, 2**53 - 1, 5e-324, 1e-9, 0.5, 1e12, 1e308])


@FUZZ
@given(st.lists(st.tuples(st.sampled_from(known_paths()), NUMBERS), max_size=5).map(placed), st.sampled_from(sorted(RECIPES)))
def test_extreme_numbers_never_overflow(value: dict[str, Any], recipe: str) -> None:
    try:
        spec = resolve(value, default_recipe=recipe)
    except SpecError as error:
        told(error)
        return
    follow_up(spec)


@pytest.mark.parametrize(
    "value",
    [
        {"training": {"expected_tokens_per_second_per_device": 5e-324, "steps": 2**53 - 1}},
        {"budget": {"max_usd": 1e308}},
        {"training": {"tokens": 2**53 - 1, "expected_tokens_per_second_per_device": 1e308}},
    ],
    ids=["slow", "rich", "fast"],
)
def test_the_ends_of_the_ranges_are_estimated_or_refused(value: dict[str, Any]) -> None:
    try:
        follow_up(resolve(value, default_recipe="llama3_8b"))
    except SpecError as error:
        told(error)


@pytest.mark.parametrize("steps", [1e308, 10**5000, 2**53, 10**400], ids=["1e308", "10**5000", "2**53", "10**400"])
def test_a_number_of_steps_that_no_run_has_is_refused(steps: float) -> None:
    with pytest.raises(SpecError, match=r"training\.steps: must be a number between -9,007,199,254,740,991 and"):
        resolve({"training": {"steps": steps}}, default_recipe="local")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"recipe": "\ud800"}, "recipe: must be text"),
        ({"data": {"source": "a\udfff/"}}, "data.source: must be text"),
        ({"\ud800": 1}, "\\ud800: unknown key"),
        ({"data": nested(100_000)}, "the input is nested too deeply"),
    ],
    ids=["value", "inside", "key", "nested"],
)
def test_what_no_file_can_hold_is_refused_in_words(value: Any, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        resolve(value, default_recipe="local")
    assert words in str(caught.value)
    told(caught.value)
