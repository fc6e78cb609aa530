"""Fixtures shared by all test folders; which tests share a process when two work; what the offline checks print last."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ledger import LEDGER

from local_aws import embedded
from local_aws.embedded import Embedded

os.environ["LOCAL_AWS_OWNER"] = str(os.getpid())  # a session that is killed leaves no embedded AWS behind


@dataclass(frozen=True, kw_only=True)
class EmbeddedStacks:
    """The real stacks, deployed once per test session to a separate embedded AWS."""

    aws: Embedded
    outputs: dict[str, dict[str, str]]

    @property
    def bucket(self) -> str:
        return self.outputs["pretrain-foundation"]["BucketName"]

    @property
    def machine(self) -> str:
        return self.outputs["pretrain-pipeline"]["StateMachineArn"]

    def client(self, service: str) -> Any:
        return self.aws.client(service)

    def start(self, value: object, name: str | None = None) -> str:
        """Start an execution with ``value`` as its input and return its ARN."""
        started = self.client("stepfunctions").start_execution(
            stateMachineArn=self.machine, name=name or f"test-{uuid.uuid4().hex[:12]}", input=json.dumps(value)
        )
        return str(started["executionArn"])

    def describe(self, execution: str) -> dict[str, Any]:
        described: dict[str, Any] = self.client("stepfunctions").describe_execution(executionArn=execution)
        return described

    def wait(self, execution: str, seconds: float = 400) -> dict[str, Any]:
        """The execution's description once it has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            described = self.describe(execution)
            if described["status"] != "RUNNING":
                return described
            time.sleep(0.1)
        raise AssertionError(f"{execution} still runs after {seconds} s")

    def states(self, execution: str) -> list[str]:
        """Names of the states that it entered, in order."""
        pages = self.client("stepfunctions").get_paginator("get_execution_history").paginate(executionArn=execution)
        events = [event for page in pages for event in page["events"]]
        return [event["stateEnteredEventDetails"]["name"] for event in events if "stateEnteredEventDetails" in event]


@pytest.fixture(scope="session")
def embedded_aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStacks]:
    """The embedded AWS with the project's stacks; ended with everything it started when the session ends."""
    root = tmp_path_factory.mktemp("embedded")
    lines: list[str] = []
    try:
        aws = embedded.up(root)
        yield EmbeddedStacks(aws=aws, outputs=embedded.deploy(aws, lines.append))
    finally:
        embedded.clean(root)


# -- two processes (`make test`: pytest-xdist) ---------------------------------------------------------------

HERE = Path(__file__).parent


@functools.cache
def shared(file: str) -> str:
    """What a test file, by its path below tests/, shares with others, which then run in the same process.

    The deployed stacks are made once; the offline checks add up to one proof; jobs of equal run and leg take equal ports.
    """
    folder = Path(file).parts[0]
    if folder == "offline" or re.search(r"\bembedded_aws\b", (HERE / file).read_text()):
        return "deployment"
    return folder if folder in ("local_aws", "training") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By what tests share. (pytest-xdist 3.8's own groups are marks on names, which pytest 9.2 does not keep.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return shared(nodeid.partition("::")[0].removeprefix(f"{HERE.name}/"))

    return Scheduling(config, log)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes as a test's name may hold the time (gzip's do), and two processes must find the same names."""
    return argname if isinstance(val, bytes) else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a process that was handed tests: it prints nothing itself
        session.config.workeroutput["ledger"] = dataclasses.asdict(LEDGER)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if hasattr(node, "workeroutput"):
        LEDGER.add(node.workeroutput["ledger"])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for title, lines in LEDGER.tables.items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    line = LEDGER.line()
    if line is not None and not hasattr(config, "workeroutput"):
        print(line)
