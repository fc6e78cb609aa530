"""Reads a run's files for the report: a file that is damaged costs no more than itself, and is told."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from contracts.config import Json
from contracts.metric_line import parse_line
from infra.edge.transient import is_transient
from infra.report.series import MetricsLog
from infra.report.stored_shapes import Expected
from infra.run.expected import fitting
from infra.run.layout import RunLayout
from infra.run.leg_files import ProfilerFile, StepFolder, diagnostics_prefix, profiler_files, whole_checkpoints
from infra.run.run_record import ExecutionRecord, read_records
from infra.run.stored import Unreadable, read_json, read_lines, written

MISFITS_TOLD = 3
"""Of each file: the first ones say what kind of damage it is."""


@dataclass(frozen=True)
class Reader:
    """Reads a run's files; what cannot be read is told in ``unread`` and reads as missing."""

    s3: Any
    bucket: str
    unread: list[str] = field(default_factory=list)

    def json(self, key: str, expected: Expected) -> Json:
        """The object stored there, as far as it is as ``expected``; {} when there is none."""
        try:
            return self.fitting(read_json(self.s3, self.bucket, key), expected, key)
        except Unreadable as error:
            self.unread.append(f"{error}.")
        except ClientError as error:
            self._refused(error, key)
        return {}

    def written(self, key: str) -> dt.datetime | None:
        """When the object was written; None when there is none, or it is not known."""
        try:
            return written(self.s3, self.bucket, key)
        except ClientError as error:
            if is_transient(error):
                raise
            return None  # reading it has told so already

    def metrics(self, keys: Iterable[str]) -> MetricsLog:
        """The lines of a leg's metrics files, damaged ones counted."""
        log = MetricsLog()
        for key in keys:
            before = log.bad_lines
            try:
                for line in read_lines(self.s3, self.bucket, key):
                    log.add(parse_line(line), blank=not line.strip())
            except ClientError as error:
                self._refused(error, key)
            bad = log.bad_lines - before
            if bad:
                self.unread.append(f"s3://{self.bucket}/{key}: {bad:,} damaged {'line is' if bad == 1 else 'lines are'} left out.")
        return log

    def records(self, layout: RunLayout) -> tuple[ExecutionRecord, ...]:
        """The records of the run's executions."""
        try:
            return tuple(read_records(self.s3, self.bucket, layout, self.unread))
        except ClientError as error:
            self._refused(error, layout.executions_prefix)
            return ()

    def checkpoints(self, layout: RunLayout, leg: str, limit: int) -> list[StepFolder]:
        """A leg's newest whole checkpoints, newest first."""
        try:
            return list(itertools.islice(whole_checkpoints(self.s3, self.bucket, layout, leg), limit))
        except ClientError as error:
            self._refused(error, layout.attempts_prefix(leg))
            return []

    def profiles(self, attempts: Iterable[str]) -> list[ProfilerFile]:
        """What torch's profiler left of a leg's attempts, oldest first."""
        folders = [diagnostics_prefix(attempt) for attempt in attempts]
        try:
            return profiler_files(self.s3, self.bucket, folders)
        except ClientError as error:
            self._refused(error, folders[0])
            return []

    def fitting(self, value: Any, expected: Expected, name: str) -> Json:
        """The parts of an object that are as ``expected``."""
        misfits: list[str] = []
        found: Json = fitting(value, expected, misfits) or {}
        if misfits:
            more = f"; and {len(misfits) - MISFITS_TOLD} more" if len(misfits) > MISFITS_TOLD else ""
            self.unread.append(f"{name}: left out, since {'; '.join(misfits[:MISFITS_TOLD])}{more}.")
        return found

    def _refused(self, error: ClientError, key: str) -> None:
        if is_transient(error):
            raise error  # the state machine calls again
        self.unread.append(f"s3://{self.bucket}/{key} cannot be read: {error}.")
