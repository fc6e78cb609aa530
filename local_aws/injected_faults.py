"""Fault injection: tests write faults to ``.local/faults.json``, and the launcher makes them happen.

    {"stopped_as": "error",
     "faults": [{"id": "1", "on": "CreateTrainingJob", "match": "run-7-", "times": 2, "error": "throttled"},
                {"id": "2", "on": "*", "service": "sagemaker", "caller": "function", "error": "throttled", "every": 2, "times": -1},
                {"id": "3", "on": "TrainingJob", "match": "run-7-main-1", "outcome": "CapacityError"},
                {"id": "4", "on": "TrainingJob", "match": "", "outcome": "Pending", "seconds": 4},
                {"id": "5", "on": "TrainingJob", "match": "run-8-", "outcome": "Spot", "after": "\\"step\\": 12,"}]}

``on`` names an API operation (the call fails with ``error``), or what a fault befalls: TrainingJob or ProcessingJob (the
job ends as ``outcome`` says), or DeletedObject (DeleteObjects reports it in ``Errors`` and keeps it). Each fault happens
``times`` times.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from contracts.config import Bounds, Json, parse, to_json

Outcome = Literal["CapacityError", "InternalServerError", "Pending", "Stopped", "Spot", "TimeLimit", "SyncStall", "Completed"]
FILE = "faults.json"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault."""

    id: str
    """Counts this fault's happenings; a new id makes it happen again."""
    on: str
    """API operation (``*`` for any), or TrainingJob, ProcessingJob or DeletedObject."""
    service: str = ""
    """boto3's name of the API's service; empty for any."""
    caller: Literal["", "function", "state machine", "schedule", "client"] = ""
    """Who calls the API: a Lambda function, a task of a state machine, EventBridge Scheduler, or anything else; empty for all."""
    match: str = ""
    """Regular expression searched in the job's name, the object's key, or the text of a request that names no job."""
    times: int = 1
    """How often it happens; -1 for always."""
    every: Annotated[int, Bounds(1)] = 1
    """It happens at every n-th of the calls that it fits: 2 spares the first call and fails the second."""
    error: str | None = None
    """Error code of the API call; ``throttled`` for the code and the HTTP status with which that service throttles."""
    message: str = "Rate exceeded"
    """Its message."""
    carried_out: bool = False
    """The call of a state machine is carried out all the same: what its task gets is ``error``, as when an answer is lost on its way."""
    unsupported_field: str = ""
    """A top-level field that the state machine's optimised integration does not know: a task that sends it ends as States.Runtime."""
    outcome: Outcome | None = None
    """What becomes of the job: ``Stopped``, ``Spot`` (an interruption) and ``TimeLimit`` (MaxRuntimeInSeconds is over) while it runs,
    ``InternalServerError`` before it starts, or while it runs when ``after`` is given, ``Pending`` for ``seconds``. ``SyncStall``:
    from the line ``after`` on no checkpoint reaches S3, and the job ends in InternalServerError after ``seconds`` of Uploading.
    ``Completed``: a training job that runs nothing for ``seconds`` and completes, for tests of load."""
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


@dataclass(frozen=True, kw_only=True)
class ApiCall:
    """One call of an AWS API."""

    service: str
    """boto3's name of the service."""
    operation: str
    """For example ``CreateTrainingJob``."""
    caller: Literal["function", "state machine", "schedule", "client"]
    """Who calls."""
    subject: str
    """What ``Fault.match`` is searched in."""
    fields: frozenset[str] = frozenset()
    """The request's top-level fields, where a state machine calls through an optimised integration."""


class Faults:
    """The launcher's view of the file: read again when it changes; occurrences are counted."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._lock = threading.Lock()
        self._happened: dict[str, int] = {}
        self._fitted: dict[str, int] = {}
        self._content: tuple[object, FaultFile] = (None, FaultFile())

    def take(self, on: str, name: str, *, outcomes: bool = False) -> Fault | None:
        """The first fault due for this job or object; counts it as having happened."""

        def fits(fault: Fault) -> bool:
            return fault.on == on and bool(re.search(fault.match, name)) and (fault.outcome is not None) == outcomes

        return self._first(fits)

    def take_call(self, call: ApiCall) -> Fault | None:
        """The first fault due for this API call; counts it as having happened."""

        def fits(fault: Fault) -> bool:
            return (
                fault.on in (call.operation, "*")
                and fault.service in (call.service, "")
                and fault.caller in (call.caller, "")
                and bool(fault.unsupported_field in call.fields if fault.unsupported_field else fault.error)
                and bool(re.search(fault.match, call.subject))
            )

        return self._first(fits)

    @property
    def concern_calls(self) -> bool:
        """Whether any fault befalls API calls; looking at every request costs time."""
        return any(fault.error or fault.unsupported_field for fault in self.read().faults)

    def _first(self, fits: Callable[[Fault], bool]) -> Fault | None:
        with self._lock:
            for fault in self.read().faults:
                due = fault.times < 0 or self._happened.get(fault.id, 0) < fault.times
                if not due or not fits(fault):
                    continue
                self._fitted[fault.id] = self._fitted.get(fault.id, 0) + 1
                if self._fitted[fault.id] % fault.every == 0:
                    self._happened[fault.id] = self._happened.get(fault.id, 0) + 1
                    return fault
        return None

    def read(self) -> FaultFile:
        """The file's content; empty when there is none."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return FaultFile()
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        if self._content[0] != version:
            self._content = (version, parse(FaultFile, json.loads(self._path.read_text())))
        return self._content[1]


def write_faults(home: Path, faults: FaultFile) -> None:
    """Activate ``faults`` for the launcher with this home; an empty file removes them."""
    content: Json = to_json(faults)
    temporary = home / f"{FILE}.new"
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(home / FILE)
