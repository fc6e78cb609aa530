"""One interpreted execution: scripted outcomes, calls, steps, end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Json = Any
What = Literal["entered", "choice", "default", "retry", "catch"]


@dataclass(frozen=True)
class Result:
    """A task that succeeds."""

    value: Json
    seconds: float = 0.0


@dataclass(frozen=True)
class Failure:
    """A task that fails."""

    error: str
    cause: str = ""
    seconds: float = 0.0


Outcome = Result | Failure


@dataclass
class Call:
    """One attempt of a Task: what it was asked and how it ended."""

    state: str
    resource: str
    arguments: Json
    time: float
    """Seconds since the execution's start."""
    retry: int
    """Retries of this state so far."""
    item: int | None
    """Index of the Map's item, or None outside of a Map."""
    outcome: Outcome | None = None
    ended: Literal["", "succeeded", "failed", "timed out", "stopped"] = ""


Script = Callable[[Call], Outcome]
"""Decides each Task attempt's outcome."""


@dataclass(frozen=True)
class Step:
    """Something the machine did: a state entered, a branch, retrier or catcher used."""

    time: float
    state: str
    what: What
    index: int = 0
    error: str = ""
    item: int | None = None


@dataclass
class Execution:
    """One finished execution."""

    status: Literal["SUCCEEDED", "FAILED"] = "FAILED"
    output: Json = None
    error: str = ""
    cause: str = ""
    seconds: float = 0.0
    steps: list[Step] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    variables: dict[str, Json] = field(default_factory=dict)

    @property
    def path(self) -> list[str]:
        """Names of the states in the order they were entered."""
        return [step.state for step in self.steps if step.what == "entered"]


def scripted(outcomes: Mapping[str, Sequence[Outcome | Callable[[Call], Outcome]]]) -> Script:
    """A script that gives each state its listed outcomes in turn; the last one stays.

    Raises:
        KeyError: a state is called that the script does not name.
    """
    position: dict[str, int] = {}

    def script(call: Call) -> Outcome:
        listed = outcomes[call.state]
        at = min(position.get(call.state, 0), len(listed) - 1)
        position[call.state] = at + 1
        outcome = listed[at]
        return outcome(call) if callable(outcome) else outcome

    return script
