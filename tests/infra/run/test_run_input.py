"""Parsing of an execution's input and a deployment's settings, and what is refused."""

from __future__ import annotations

import json

import pytest
from admission_values import Json, spec

from contracts.config import SpecError
from infra.constructs.assets import ROOT
from infra.run.input_schema import input_schema
from infra.run.recipes import RECIPES, REFERENCE_ABLATION
from infra.run.run_id import run_id_of
from infra.settings import load_settings


def test_the_users_choice_among_exclusive_settings_wins_over_the_recipes() -> None:
    brief = {"schedule": {"warmup_steps": 2}}
    leg = spec({"training": {"tokens": 1_000_000} | brief}).legs[0].training
    assert (leg.steps, leg.tokens) == (None, 1_000_000)
    assert spec({"data": {"tokenizer": {"train": {}}}}).data.tokenizer.uri is None
    two = spec({"training": {"tokens": 5_000} | brief, "legs": [{"name": "a", "training": {"steps": 7}}]}).legs[0].training
    assert (two.steps, two.tokens) == (7, None)


def test_both_of_two_exclusive_settings_are_refused() -> None:
    with pytest.raises(SpecError, match='exactly one of "steps" and "tokens"'):
        spec({"training": {"tokens": 1, "steps": 1}})


def test_a_continued_schedule_needs_a_curve_that_does_not_move() -> None:
    schedule = {"name": "s", "time": "2026-11-22T06:00:00Z", "resume": "latest"}
    with pytest.raises(SpecError, match="total_steps"):
        spec({"schedule": schedule})
    assert spec({"schedule": schedule, "training": {"schedule": {"total_steps": 9000}}}).schedule is not None


def test_a_batch_of_a_source_needs_a_global_batch() -> None:
    capacity = {"compute": {"capacity": [{"instance_type": "ml.p4d.24xlarge", "local_batch_size": 1}]}}
    with pytest.raises(SpecError, match="global_batch_size"):
        spec(capacity)
    assert spec(capacity | {"training": {"global_batch_size": 16}})


def test_the_written_schema_is_current() -> None:
    written = json.loads((ROOT / "docs" / "run-input.schema.json").read_text())
    assert written == json.loads(json.dumps(input_schema())), "run: python -m infra.run.input_schema > docs/run-input.schema.json"


@pytest.mark.parametrize(
    ("value", "name", "run_id"),
    [
        ({"run_id": "mine"}, "e", "mine"),
        ({}, "8c2f.. _x", "8c2f-x"),
        ({"schedule": {"name": "weekly", "time": "2026-11-23T06:00:00Z"}}, "e", "weekly-20261123T0600"),
    ],
)
def test_the_run_id_comes_from_input_schedule_or_execution(value: Json, name: str, run_id: str) -> None:
    assert run_id_of(value, name) == run_id


def test_a_schedules_input_is_checked_at_synth() -> None:
    block = {"schedules": [{"name": "a", "expression": "rate(1 day)", "timezone": "Mars/Base", "input": {"trainig": {}}}]}
    with pytest.raises(SpecError) as caught:
        load_settings({"e": block}, "e")
    assert 'environments.e.schedules[0].input.trainig: unknown key, did you mean "training"?' in str(caught.value)
    assert "no IANA time zone" in str(caught.value)


def test_an_unknown_environment_lists_the_known_ones() -> None:
    with pytest.raises(SpecError, match='did you mean "local"'):
        load_settings({"local": {}}, "locl")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_what_an_empty_input_resolves_to(name: str) -> None:
    found, recipe = spec(recipe=name), RECIPES[name]
    assert (found.data, found.compute, found.budget) == (recipe.data, recipe.compute, recipe.budget)
    assert [leg.training for leg in found.legs] == [recipe.training]


def test_the_references_legs_lie_over_the_runs_training() -> None:
    legs = spec({"ablation": "reference", "training": {"steps": 700}}).legs
    assert [(leg.name, leg.training.compile, leg.training.float8, leg.training.steps) for leg in legs] == [
        (leg.name, leg.compile, leg.float8, 700) for leg in REFERENCE_ABLATION
    ]
