"""Coverage of a state machine by executions: states, Choice branches, and each error name of each Retry and Catch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from aws_models.asl import matches
from aws_models.execution import Execution, Step

Json = Any


@dataclass(frozen=True)
class Part:
    """Something that a run can use."""

    state: str
    what: str
    index: int = 0
    error: str = ""

    def __str__(self) -> str:
        return (
            f"{self.state}: {self.what}" + (f" {self.index}" if self.what != "entered" else "") + (f" ({self.error})" if self.error else "")
        )


@dataclass(frozen=True)
class Coverage:
    """Parts that exist and parts that were used."""

    parts: frozenset[Part]
    used: frozenset[Part]

    def share(self, *whats: str) -> float:
        """Used share of the parts of these kinds, 0 to 1."""
        parts = {part for part in self.parts if part.what in whats}
        return len(parts & self.used) / len(parts) if parts else 1.0

    @property
    def missing(self) -> list[str]:
        """What no run used."""
        return sorted(str(part) for part in self.parts - self.used)

    @property
    def figures(self) -> dict[str, float]:
        """Shares of states, branches and error entries."""
        return {"states": self.share("entered"), "branches": self.share("choice", "default"), "errors": self.share("retry", "catch")}


def measure(definition: Json, executions: Iterable[Execution]) -> Coverage:
    """Coverage of ``definition`` by the executions."""
    states = dict(all_states(definition))
    used: set[Part] = set()
    for execution in executions:
        for step in execution.steps:
            used.update(_parts_of(step, states[step.state]))
    return Coverage(frozenset(_parts(states)), frozenset(used))


def all_states(definition: Json) -> Iterator[tuple[str, Json]]:
    """Every state with its name, those inside Maps too."""
    for name, state in definition["States"].items():
        yield name, state
        if "ItemProcessor" in state:
            yield from all_states(state["ItemProcessor"])


def _parts(states: dict[str, Json]) -> Iterator[Part]:
    for name, state in states.items():
        yield Part(name, "entered")
        if state["Type"] == "Choice":
            yield from (Part(name, "choice", index) for index in range(len(state["Choices"])))
            if "Default" in state:
                yield Part(name, "default")
        for what in ("Retry", "Catch"):
            for index, entry in enumerate(state.get(what, [])):
                yield from (Part(name, what.lower(), index, error) for error in entry["ErrorEquals"])


def _parts_of(step: Step, state: Json) -> Iterator[Part]:
    if step.what in ("retry", "catch"):
        names = state[step.what.capitalize()][step.index]["ErrorEquals"]
        yield from (Part(step.state, step.what, step.index, name) for name in names if matches([name], step.error))
    else:
        yield Part(step.state, step.what, step.index)
