"""Fault injection: tests write faults to ``.local/faults.json``, and the launcher makes them happen.

    {"stopped_as": "error",
     "faults": [{"id": "1", "on": "CreateTrainingJob", "match": "run-7-", "times": 2, "error": "ThrottlingException"},
                {"id": "2", "on": "TrainingJob", "match": "run-7-main-1", "outcome": "CapacityError"},
                {"id": "3", "on": "TrainingJob", "match": "", "outcome": "Pending", "seconds": 4},
                {"id": "4", "on": "TrainingJob", "match": "run-8-", "outcome": "Spot", "after": "\\"step\\": 12,"}]}

``on`` names an API operation (the call fails with ``error``) or TrainingJob, ProcessingJob (the job ends as ``outcome``
says). ``match`` is a regular expression searched in the job's name. Each fault happens ``times`` times.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from contracts.config import Bounds, Json, parse, to_json

Outcome = Literal["CapacityError", "InternalServerError", "Pending", "Stopped", "Spot", "TimeLimit", "Completed"]
FILE = "faults.json"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault."""

    id: str
    """Counts this fault's happenings; a new id makes it happen again."""
    on: str
    """API operation, or TrainingJob or ProcessingJob."""
    match: str = ""
    """Regular expression searched in the job's name."""
    times: int = 1
    """How often it happens; -1 for always."""
    error: str | None = None
    """Error code of the API call."""
    message: str = "Rate exceeded"
    """Its message."""
    outcome: Outcome | None = None
    """What becomes of the job: ``Stopped``, ``Spot`` (an interruption) and ``TimeLimit`` (MaxRuntimeInSeconds is over) while it runs,
    ``InternalServerError`` before it starts, or while it runs when ``after`` is given, ``Pending`` for ``seconds``. ``Completed``:
    a training job that runs nothing for ``seconds`` and completes, for tests of load."""
    seconds: float = 0.0
    """How long the job is pending, or has run when the fault happens."""
    after: str = ""
    """Regular expression: a running training job's fault happens at the first line of its output that holds it, not by ``seconds``."""
    times_faster: Annotated[float, Bounds(1.0)] = 1.0
    """Pending time passes this many times faster, and the job's CreationTime moves back by what was left out: the shortest
    MaxPendingTimeInSeconds is half an hour."""


@dataclass(frozen=True, kw_only=True)
class FaultFile:
    """The whole file."""

    stopped_as: Literal["error", "return"] = "error"
    """How ``.sync`` reports a job that ended Stopped; AWS documents neither, so the state machine must take both."""
    faults: tuple[Fault, ...] = ()
    """Faults, in the order they are looked at."""


class Faults:
    """The launcher's view of the file: read again when it changes; occurrences are counted."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._lock = threading.Lock()
        self._happened: dict[str, int] = {}

    def take(self, on: str, name: str, *, outcomes: bool = False) -> Fault | None:
        """The first fault due for this operation or job; counts it as having happened."""
        with self._lock:
            for fault in self.read().faults:
                due = fault.times < 0 or self._happened.get(fault.id, 0) < fault.times
                if fault.on == on and due and re.search(fault.match, name) and (fault.outcome is not None) == outcomes:
                    self._happened[fault.id] = self._happened.get(fault.id, 0) + 1
                    return fault
        return None

    def read(self) -> FaultFile:
        """The file's content; empty when there is none."""
        try:
            content: Any = json.loads(self._path.read_text())
        except FileNotFoundError:
            return FaultFile()
        return parse(FaultFile, content)


def write_faults(home: Path, faults: FaultFile) -> None:
    """Activate ``faults`` for the launcher with this home; an empty file removes them."""
    content: Json = to_json(faults)
    temporary = home / f"{FILE}.new"
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(home / FILE)
