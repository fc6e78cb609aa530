"""One job's processes: start the supervisor, collect each host's output, stop, wait."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_aws.images.image_store import ImageConfig, file_system

STOP_GRACE_SECONDS = 120.0
"""Between SIGTERM and SIGKILL, as SageMaker documents for StopTrainingJob."""
KILL_ALL = signal.SIGUSR2
"""What ends a supervisor and all its processes where there is no process namespace; see container.py."""
SUPERVISOR = Path(__file__).with_name("container.py")


@dataclass(frozen=True, kw_only=True)
class Host:
    """One container of the job."""

    name: str
    """algo-1, algo-2, ..."""
    folder: Path
    """Private folder: home, temporary files."""
    ml: Path
    """What it sees as /opt/ml."""
    command: tuple[str, ...]
    """Entrypoint and arguments."""
    environment: dict[str, str]
    """All of its environment."""
    on_line: Callable[[str], None]
    """Receives each line of its output."""


@functools.cache
def isolation() -> dict[str, bool]:
    """What this machine allows: ``namespaces`` and a private ``network``. ``LOCAL_AWS_ISOLATION=folders`` forces the fallback."""
    if os.environ.get("LOCAL_AWS_ISOLATION") == "folders":
        return {"namespaces": False, "network": False}
    result = subprocess.run([sys.executable, "-I", SUPERVISOR, "--probe"], capture_output=True, text=True, check=False)
    try:
        found: dict[str, bool] = json.loads(result.stdout)
    except json.JSONDecodeError:
        return {"namespaces": False, "network": False}
    return found


class JobProcess:
    """A running job. ``wait`` must be called by the thread that made it: the supervisor dies with that thread."""

    def __init__(self, *, folder: Path, program: Path, hosts: list[Host], network: bool, contained: bool = True) -> None:
        self.hosts = hosts
        self.exit_codes: dict[str, int] = {}
        self.error: str | None = None
        self._timer: threading.Timer | None = None
        allowed = isolation()
        isolated = contained and allowed["namespaces"]
        self._kill_signal = signal.SIGKILL if isolated else KILL_ALL
        whole = file_system(program) if contained else None
        if whole is not None and not isolated:
            raise RuntimeError("an image built with LOCAL_IMAGE=buildah needs mount namespaces: run as root, or unset LOCAL_IMAGE")
        pipes = {host.name: os.pipe() for host in hosts}
        spec = {
            "isolation": "namespaces" if isolated else "folders",
            "network": network or not allowed["network"],
            "program": str(program),
            "layers": whole.layers if whole is not None else (),
            "hosts_file": str(_hosts_file(folder, [host.name for host in hosts])),
            "launcher_pid": os.getpid(),
            "hosts": [
                {
                    "name": host.name,
                    "folder": str(host.folder),
                    "ml": str(host.ml),
                    "command": _absolute(host) if whole is None else host.command,
                    "environment": _environment(host, whole) | ({} if isolated or not contained else {"SAGEMAKER_BASE_DIR": str(host.ml)}),
                    "directory": "/opt/program" if isolated else str(program),
                    "output_fd": pipes[host.name][1],
                }
                for host in hosts
            ],
        }
        spec_file = folder / "container.json"
        spec_file.write_text(json.dumps(spec))
        self.started = time.time()
        self._process = subprocess.Popen(
            [sys.executable, "-I", SUPERVISOR, spec_file],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[write for _, write in pipes.values()],
            start_new_session=True,
            env={"PATH": os.environ.get("PATH", os.defpath)},
        )
        self._readers = []
        for host in hosts:
            read, write = pipes[host.name]
            os.close(write)
            reader = threading.Thread(target=_pump, args=(read, host.on_line), name=f"output of {host.name}", daemon=True)
            reader.start()
            self._readers.append(reader)

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        return self._process.pid

    def wait(self) -> int:
        """Exit code of the job (that of the first host that failed), once every process of it has ended."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == "exited":
                self.exit_codes[event["host"]] = event["code"]
            else:
                self.error = event.get("message")
        code = self._process.wait()
        if self._timer is not None:
            self._timer.cancel()
        for reader in self._readers:
            reader.join(timeout=5)
        return code if code >= 0 else 128 - code

    def stop(self, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
        """SIGTERM to each host's main process, and SIGKILL to everything after ``grace_seconds``."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            self._timer = threading.Timer(grace_seconds, self.kill)
            self._timer.daemon = True
            self._timer.start()

    def kill(self) -> None:
        """End every process of the job now."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(self._kill_signal)


def _environment(host: Host, whole: ImageConfig | None) -> dict[str, str]:
    """The host's environment; a whole image brings its own PATH and folders, the job's variables come over them."""
    if whole is None:
        return host.environment
    job = {name: value for name, value in host.environment.items() if name not in ("PATH", "HOME", "TMPDIR")}
    return {"HOME": "/root", **whole.environment, **job}


def _absolute(host: Host) -> list[str]:
    """The command with its program looked up on the host's own PATH."""
    found = shutil.which(host.command[0], path=host.environment.get("PATH"))
    return [found or host.command[0], *host.command[1:]]


def _hosts_file(folder: Path, names: list[str]) -> Path:
    """The machine's hosts file with the job's host names before it; each gets a loopback address of its own."""
    lines = [f"127.0.0.{number} {name}" for number, name in enumerate(names, 1)]
    with contextlib.suppress(OSError):
        lines.append(Path("/etc/hosts").read_text())
    target = folder / "hosts"
    target.write_text("\n".join(lines) + "\n")
    return target


def _pump(read: int, on_line: Callable[[str], None]) -> None:
    with os.fdopen(read, encoding="utf-8", errors="replace", newline=None) as stream:
        for line in stream:
            on_line(line.rstrip("\r\n"))
