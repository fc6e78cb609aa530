"""What an execution's own events say of an execution that ended without saying it: run, stage, what was built and prepared. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Set

from contracts.config import Json

STAGES: dict[str, tuple[str, ...]] = {
    "Admit": ("Admit", "Go ahead?"),
    "Build image": ("Image exists?", "Build image", "Build later?", "Wait to build"),
    "Prepare data": (
        *(
            "Data exists?",
            "Next preparation",
            "Prepare corpus",
            "Confirm preparation",
            "Preparation confirmed?",
            "Prepare data",
            "Prepared?",
        ),
        *("Triage preparation", "Prepare again?", "Wait to prepare"),
    ),
    "Train": (
        *(
            "Train legs",
            "Trained before?",
            "Confirm attempt",
            "Attempt confirmed?",
            "Train",
            "Wait for job",
            "Job status",
            "Job ended?",
            "Trained?",
            "Triage",
            "What next?",
            "Wait",
        ),
        *("Leg trained", "Leg failed", "Every leg trained?"),
    ),
    "Evaluate": (
        *("To evaluate?", "Confirm evaluation", "Evaluation confirmed?", "Evaluate", "Evaluated?"),
        *("Triage evaluation", "Evaluate again?", "Wait to evaluate"),
    ),
    "Report": ("Report", "Announce", "Done", "Explain", "Report failure", "Notify", "Failed"),
}
"""Stage of every state of pipeline.asl.yaml, with polling too (a test compares them)."""
_STAGE = {state: stage for stage, states in STAGES.items() for state in states}


def stage_of(last: Iterable[Json]) -> str:
    """The stage that the execution was in, from its newest events, newest first."""
    details = (item.get("stateEnteredEventDetails") or item.get("stateExitedEventDetails") for item in last)
    state = next((str(found["name"]) for found in details if found), "Admit")
    return _STAGE.get(state, state)


def admitted_run(first: Iterable[Json]) -> str | None:
    """The run's id, from Admit's output among the oldest events."""
    for item in first:
        done = item.get("stateExitedEventDetails") or {}
        if done.get("name") == "Admit" and done.get("output"):
            value = json.loads(done["output"])
            return str(value["run_id"]) if isinstance(value, dict) and value.get("run_id") else None
    return None


def entered(events: Iterable[Json]) -> set[str]:
    """Names of the states that were entered."""
    return {str(item["stateEnteredEventDetails"]["name"]) for item in events if item.get("stateEnteredEventDetails")}


def done_before(states: Set[str]) -> Json:
    """``image`` and ``data`` as the machine hands them to the state Report, as far as their stages were passed."""
    found: Json = {}
    if "Data exists?" in states:
        found["image"] = {"built": "Build image" in states}
    if "Train legs" in states:
        found["data"] = {"prepared": "Prepare data" in states}
    return found
