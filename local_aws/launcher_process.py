"""Starts, finds and ends the launcher's process, by its recorded id."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from local_aws import place
from local_aws.launcher import process_start

PROJECT = Path(__file__).resolve().parents[1]
IDENTITY = "launcher.json"
_RECORDED = {"pid": int, "started": str, "port": int, "time": float}
START_SECONDS = 60.0
"""A cold start takes 2 s; a loaded machine gets this."""
UNRESPONSIVE_SECONDS = 30.0
"""A launcher that does not answer for so long is not busy but broken."""
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Past any proxy of the shell, which would not find the loopback."""
DOWN_SECONDS = 30.0
"""Time for jobs to end (SHUTDOWN_GRACE_SECONDS) and for the state to be saved; then SIGKILL."""


class EmbeddedError(RuntimeError):
    """An operation on the embedded AWS failed; the text gives reason and fix."""


@contextlib.contextmanager
def lock(home: Path) -> Iterator[None]:
    """One caller at a time; the lock ends with the process that holds it."""
    with (home / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def identity(home: Path) -> dict[str, Any] | None:
    """The recorded launcher, if the same process still lives; a damaged record names none."""
    try:
        recorded: dict[str, Any] = json.loads((home / IDENTITY).read_text())
        whole = {name: type(recorded[name]) for name in _RECORDED} == _RECORDED
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None
    alive = whole and recorded["started"] and process_start(recorded["pid"]) == recorded["started"]
    return recorded if alive else None


def running(home: Path) -> dict[str, Any] | None:
    """The recorded launcher, if it lives and answers."""
    recorded = identity(home)
    return recorded if recorded is not None and _answers(recorded["port"]) else None


def usable(home: Path) -> dict[str, Any] | None:
    """The recorded launcher, given time to answer; ended when it does not, since two must not share a home."""
    recorded = identity(home)
    deadline = time.monotonic() + UNRESPONSIVE_SECONDS
    while recorded is not None and not _answers(recorded["port"]):
        if time.monotonic() > deadline:
            end(recorded["pid"], recorded["started"])
        recorded = identity(home)
    return recorded


def _answers(port: int) -> bool:
    try:
        with _DIRECT.open(f"http://127.0.0.1:{port}/_ministack/ready", timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _launcher_python() -> Path:
    python = PROJECT / ".venv-aws" / "bin" / "python"
    if not python.exists():
        raise EmbeddedError("the embedded AWS has no Python environment of its own (.venv-aws); `make local` makes it, `make env` too")
    return python


def start(home: Path, port: int | None) -> int:
    """Start a launcher for ``home`` and return its port once it answers. Raises EmbeddedError; then nothing is left running."""
    log = home / "launcher.log"
    variables = place.clean_environment() | {
        "LOCAL_AWS_HOME": str(home),
        "LOCAL_AWS_JOB_PATH": str(Path(sys.executable).parent),
        "PYTHONPATH": str(PROJECT),
    }
    if port is not None:
        variables["LOCAL_AWS_PORT"] = str(port)
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(_launcher_python()), "-m", "local_aws.launcher"],
            cwd=home,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it through `down` only
        )
    try:
        return _wait_until_ready(process, home, log)
    except BaseException:
        end(process.pid, process_start(process.pid))
        raise


def _wait_until_ready(process: subprocess.Popen[bytes], home: Path, log: Path) -> int:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = log.read_text().strip().splitlines() or [f"exit status {process.returncode}"]
            raise EmbeddedError(f"the embedded AWS did not start: {said[-1]}")
        recorded = identity(home)
        if recorded is not None and recorded["pid"] == process.pid and _answers(recorded["port"]):
            port: int = recorded["port"]
            return port
        time.sleep(0.05)
    raise EmbeddedError(f"the embedded AWS did not answer within {START_SECONDS:.0f} s; its log is {log}")


def end(pid: int, started: str) -> None:
    """SIGTERM, and SIGKILL when that takes too long; never a process that only has the same id."""
    deadline = time.monotonic() + DOWN_SECONDS
    gone = functools.partial(_gone, pid, started)
    if gone():
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    while not gone():
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            deadline += DOWN_SECONDS
        time.sleep(0.05)


def _gone(pid: int, started: str) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # reap it when it is our own child
    return not started or process_start(pid) != started
