"""Seeded faults are caught: the checks of the other files, run on a deployment with one mistake in it."""

import pytest
from aws_models import definition, findings
from aws_models.mutations import ALL
from aws_models.neighbours import neighbours
from aws_models.pipeline import Pipeline
from aws_models.privileges import unused, wildcards
from aws_models.scenarios import paths
from aws_models.simulator import decide
from aws_models.template import TemplateError
from ledger import LEDGER

# Paths that a fault in the machine or in a request is tried on, in this order; the first that goes wrong ends it.
TRIED = (
    "a run with the longest name",
    "everything for the first time",
    "time limit, returned as Stopped",
    "preparation is stopped by hand",
    "a leg fails for good",
    "several mistakes in the input",
    "something gated and no token",
    "image and data there",
    "no build is allowed",
    "the build queue is full, then there is a place",
    "a run with the longest name fails",
    "Triage is throttled for a moment",
    "Triage is lost, and the job had said why it failed",
    "taken over before the first attempt",
)


@pytest.fixture(scope="module")
def baseline(synthesised, names, needs):
    """What is unused and wildcarded, and which neighbours there are, without a fault."""
    policies = synthesised.policies
    return set(unused(policies, needs)), set(wildcards(policies)), list(neighbours(names, policies, needs))


def caught_by(synthesis, machine, needs, baseline, *, roles_changed):
    """Names of the checks that notice, in the order they are run; the cheap ones first."""
    templates = synthesis.templates
    try:
        checks = {
            "posture": findings.posture(templates),
            "secrets": findings.secrets(templates),
            "limits": list(findings.limits(templates)),
            "definition rules": definition.problems(machine),
        }
        policies = synthesis.policies
    except TemplateError:
        return ["template resolver"]
    found = [name for name, problems in checks.items() if problems]
    if roles_changed:
        before_unused, before_wildcards, others = baseline
        if not all(d.allowed for d in decide([(policies, need.request) for need in needs])):
            found.append("permissions: a needed call is refused")
        if any(d.allowed for d in decide([(policies, other.request) for other in others])):
            found.append("permissions: a neighbour is allowed")
        if set(unused(policies, needs)) - before_unused or set(wildcards(policies)) - before_wildcards:
            found.append("least privilege")
        return found
    if not found and findings.asl_validator(machine):
        found.append("asl-validator")
    return found or _paths(synthesis, machine)


def _paths(synthesis, machine):
    pipeline = Pipeline(synthesis, machine)
    every = paths(synthesis.definition)
    for name in TRIED:
        path = every[name]
        try:
            run = pipeline.run(path.scenario)
        except Exception as error:  # a definition that cannot even be read
            return [f"interpreter: {type(error).__name__}"]
        if run.problems:
            return ["calls: " + (run.problems[0].rsplit("[", 1)[-1].rstrip("]") if run.problems[0].endswith("]") else "service model")]
        done = run.execution
        if (done.status, done.error) != (path.status, path.error) or any(word not in done.cause for word in path.says):
            return [f"paths: {name}"]
        if any(state not in done.path for state in path.visits) or any(state in done.path for state in path.avoids):
            return [f"paths: {name}"]
    return []


def test_every_seeded_fault_is_caught(synthesised, needs, baseline):
    rows, missed = [], []
    for mutation in ALL:
        synthesis, machine = mutation.apply(synthesised)
        with mutation.code():
            roles_changed = mutation.definition is None and synthesis.templates.templates != synthesised.templates.templates
            found = caught_by(synthesis, machine, needs, baseline, roles_changed=roles_changed)
        rows.append(f"{mutation.name:52} {', '.join(found) or 'NOT CAUGHT'}")
        if not found:
            missed.append(mutation.name)
    LEDGER.tables[f"mutation proof: {len(ALL) - len(missed)} of {len(ALL)} seeded faults caught"] = rows
    assert missed == []
    assert len(ALL) >= 25


def test_without_a_fault_nothing_is_caught(synthesised, needs, baseline):
    for roles_changed in (True, False):
        assert caught_by(synthesised, synthesised.definition, needs, baseline, roles_changed=roles_changed) == []
