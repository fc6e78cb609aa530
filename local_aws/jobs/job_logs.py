"""Sends a job's output to CloudWatch Logs, and applies its metric definitions to it."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from typing import Any

FLUSH_SECONDS = 0.5
MAX_BATCH = 5000  # events per PutLogEvents; the service takes 10,000 and 1 MiB
MAX_MESSAGE = 100_000  # characters kept of one line; the service takes 256 KiB per event


class LogStream:
    """One log stream, written in the background; `close` returns once everything is written."""

    def __init__(self, logs: Any, group: str, stream: str) -> None:
        self._logs, self.group, self.stream = logs, group, stream
        self._lines: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._closed = threading.Event()
        for create, names in (
            (logs.create_log_group, {"logGroupName": group}),
            (logs.create_log_stream, {"logGroupName": group, "logStreamName": stream}),
        ):
            with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
                create(**names)
        self._thread = threading.Thread(target=self._work, name=f"log stream {stream}", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Add one line."""
        with self._lock:
            self._lines.append({"timestamp": int(time.time() * 1000), "message": line[:MAX_MESSAGE] or " "})

    def close(self) -> None:
        """Write what is left."""
        self._closed.set()
        self._thread.join(timeout=10)
        self._flush()

    def _work(self) -> None:
        while not self._closed.wait(FLUSH_SECONDS):
            self._flush()

    def _flush(self) -> None:
        with self._flushing:
            with self._lock:
                lines, self._lines = self._lines, []
            for start in range(0, len(lines), MAX_BATCH):
                self._logs.put_log_events(logGroupName=self.group, logStreamName=self.stream, logEvents=lines[start : start + MAX_BATCH])


class MetricScanner:
    """Applies SageMaker's MetricDefinitions to the log lines: the last value of each becomes FinalMetricDataList."""

    def __init__(self, definitions: list[dict[str, str]]) -> None:
        self._patterns = [(item["Name"], re.compile(item["Regex"])) for item in definitions]
        self.final: dict[str, dict[str, Any]] = {}

    def scan(self, line: str) -> None:
        """Look for every metric in one line."""
        for name, pattern in self._patterns:
            match = pattern.search(line)
            if match is None:
                continue
            try:
                value = float(match.group(1))
            except (ValueError, IndexError):
                continue
            self.final[name] = {"MetricName": name, "Value": value, "Timestamp": time.time()}
