"""Present state of a run: stages and legs, from the execution's events and the legs' metrics lines. Pure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from infra.report.read import epoch_seconds

StageState = Literal["waiting", "running", "done", "skipped", "failed", "refused", "stopped"]

STAGES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("Admit", ("Admit",), "Admit"),
    ("Build image", ("Image exists?", "Build image"), "Build image"),
    ("Prepare data", ("Data exists?", "Prepare corpus", "Prepare data"), "Prepare data"),
    ("Train", ("Train legs",), "Train legs"),
    ("Report", ("Report",), "Report"),
)
"""Stage, the state names that open it, and the one that does its work: a stage left without that one was skipped."""
ENDED = frozenset({"SUCCEEDED", "FAILED", "ABORTED", "TIMED_OUT"})
REFUSED = "Refused"
"""Error of an execution that Admit refused."""


@dataclass(frozen=True, kw_only=True)
class StageView:
    """One stage."""

    name: str
    state: StageState = "waiting"
    started: float | None = None
    """Epoch seconds."""
    ended: float | None = None
    """Epoch seconds."""
    note: str = ""
    """One short remark: a job's own progress, or why it was skipped."""


@dataclass(frozen=True, kw_only=True)
class LegView:
    """One leg's training so far; None where nothing was logged yet."""

    name: str
    steps: int
    """Planned."""
    step: int = 0
    """Last logged."""
    loss: float | None = None
    loss_first: float | None = None
    validation_loss: float | None = None
    tokens_per_second_per_device: float | None = None
    mfu: float | None = None
    step_seconds: float | None = None
    usd: float | None = None
    """Dollars of its jobs so far, of all the run's executions."""
    started: float | None = None
    """When its first line was logged, epoch seconds."""
    updated: float | None = None
    """When its last line was logged, epoch seconds."""

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to the last step at the present speed."""
        if self.step_seconds is None or not self.steps:
            return None
        return max(0, self.steps - self.step) * self.step_seconds


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run at one moment."""

    run_id: str
    execution_arn: str
    status: str
    """Step Functions' execution status."""
    now: float
    """Epoch seconds."""
    stages: tuple[StageView, ...] = tuple(StageView(name=name) for name, _, _ in STAGES)
    legs: tuple[LegView, ...] = ()
    refused: bool = False
    """Admit refused it."""
    sentence: str | None = None
    """Why it failed, was refused or stopped."""
    usd: float | None = None
    """Dollars of the jobs of all the run's executions so far; None when no job was seen or a price is not known."""
    waiting_for_capacity: bool = False
    """A job of it has no instances yet."""
    output: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The execution's final output."""

    @property
    def ended(self) -> bool:
        """Whether the execution has ended."""
        return self.status in ENDED

    @property
    def stage(self) -> StageView | None:
        """The stage in progress."""
        return next((stage for stage in self.stages if stage.state == "running"), None)


def read_stages(events: Iterable[Mapping[str, Any]], status: str, error: str = "") -> tuple[StageView, ...]:
    """Stages from GetExecutionHistory's events, oldest first; ``status`` and ``error`` are the execution's."""
    views = {name: StageView(name=name) for name, _, _ in STAGES}
    opens = {state: name for name, states, _ in STAGES for state in states}
    working = {work: name for name, _, work in STAGES}
    worked: set[str] = set()
    current: str | None = None
    ended: StageState = "stopped" if status == "ABORTED" else "refused" if error == REFUSED else "failed"
    for event in events:
        when = epoch_seconds(event.get("timestamp"))
        entered = (event.get("stateEnteredEventDetails") or {}).get("name")
        if entered in opens:
            name = opens[entered]
            if name != current:
                _close(views, current, worked, when)
                current = name
                views[name] = dataclasses.replace(views[name], state="running", started=when)
            if entered in working:
                worked.add(name)
            if name == "Prepare data":
                views[name] = dataclasses.replace(views[name], note="cleaning the corpus" if entered == "Prepare corpus" else "")
        elif entered == "Explain" and current is not None:
            if current != "Admit" or status in ENDED:  # whether Admit failed or refused is known at the execution's end
                views[current] = dataclasses.replace(views[current], state=ended, ended=when)
            current = None
        elif str(event.get("type", "")).startswith("Execution") and event.get("type") != "ExecutionStarted":
            if current is not None:
                if status == "SUCCEEDED":
                    _close(views, current, worked, when)
                else:
                    views[current] = dataclasses.replace(views[current], state=ended, ended=when)
            current = None
    return tuple(views.values())


def _close(views: dict[str, StageView], name: str | None, worked: set[str], when: float | None) -> None:
    if name is not None:
        skipped = name not in worked
        note = "already there" if skipped else views[name].note
        views[name] = dataclasses.replace(views[name], state="skipped" if skipped else "done", ended=when, note=note)


def read_leg(name: str, steps: int, rows: Sequence[Mapping[str, float]], usd: float | None = None) -> LegView:
    """A leg from its metrics lines, in the order written."""
    if not rows:
        return LegView(name=name, steps=steps, usd=usd)
    latest: dict[str, float] = {}
    for row in rows:
        latest.update(row)
    losses = [row["loss"] for row in rows if "loss" in row]
    return LegView(
        name=name,
        steps=steps,
        step=int(rows[-1]["step"]),
        loss=losses[-1] if losses else None,
        loss_first=losses[0] if losses else None,
        validation_loss=latest.get("validation_loss"),
        tokens_per_second_per_device=latest.get("tokens_per_second_per_device"),
        mfu=latest.get("mfu"),
        step_seconds=latest.get("step_seconds"),
        usd=usd,
        started=rows[0].get("time"),
        updated=rows[-1].get("time"),
    )


def failure_sentence(description: Mapping[str, Any]) -> str:
    """Why an execution ended, in one sentence, from DescribeExecution."""
    cause, error = str(description.get("cause") or ""), str(description.get("error") or "")
    try:
        content = json.loads(cause)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        cause = str(content.get("sentence") or content.get("errorMessage") or cause)
    if description.get("status") == "ABORTED":
        return f"Stopped: {cause}." if cause else "Stopped by hand."
    return cause or error or f"The run ended {description.get('status')}."
