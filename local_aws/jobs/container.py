"""The container of one local job: a supervisor process around the job's hosts. Standard library only, started with -I.

    python -I container.py SPEC.json        # runs a job; events as JSON lines on standard output
    python -I container.py --probe          # says which isolation this machine allows

In ``namespaces`` isolation each host (algo-1, algo-2, ...) is a process tree with its own ``/opt/ml``, read-only
``/opt/program``, host name and hosts file; without network the job sees only its own loopback. In ``folders``
isolation (kernels that forbid namespaces) the job reads ``SAGEMAKER_BASE_DIR`` instead. In both cases no process outlives
the supervisor, and the supervisor does not outlive the launcher.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # -I excludes the project's folders from the import path
from local_aws.jobs import namespaces, root_folder

KILL_ALL = signal.SIGUSR2
"""Ends a job in ``folders`` isolation at once: the launcher sends it, and the kernel when the launcher is gone. SIGKILL would
end the supervisor alone; only the first process of a process namespace takes all others along."""
PEER_GRACE_SECONDS = 15  # grace of the other hosts once one has failed; a collective that hangs would not end
Json = dict[str, Any]


def emit(event: str, **fields: Any) -> None:
    """One line for the launcher; dropped when the launcher has ended."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, (json.dumps({"event": event, **fields}) + "\n").encode())


class Supervisor:
    """Starts the hosts, passes SIGTERM on to each host's main process, reaps, and leaves no process behind."""

    def __init__(self, spec: Json) -> None:
        self.spec = spec
        self.isolated: bool = spec["isolation"] == "namespaces"
        self.running: dict[int, str] = {}  # pid of a host's main process -> host name
        self.codes: dict[str, int] = {}
        self.kill_after: float | None = None

    def run(self) -> int:
        """Exit code of the job: that of the first host that failed, or 0."""
        signal.signal(signal.SIGTERM, self._pass_on)
        signal.signal(KILL_ALL, self._kill_hosts)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the launcher
        for host in self.spec["hosts"]:
            self.running[self._start(host)] = host["name"]
        first_failure = 0
        while self.running:
            pid, status = self._reap()
            if pid in self.running:
                host, code = self.running.pop(pid), _exit_code(status)
                self.codes[host] = code
                emit("exited", host=host, code=code)
                if code and not first_failure:
                    first_failure = code
                    self._end_peers()
        self._end_descendants()
        return first_failure

    def _start(self, host: Json) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setsid()
            namespaces.die_with_parent()
            for number in (signal.SIGTERM, signal.SIGINT, KILL_ALL):
                signal.signal(number, signal.SIG_DFL)
            if self.isolated:
                _enter_host(self.spec, host)
            os.dup2(host["output_fd"], 1)
            os.dup2(host["output_fd"], 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.closerange(3, 1024)
            os.chdir(host["directory"])
            os.execvpe(host["command"][0], host["command"], host["environment"])
        except OSError as error:
            os.write(2, f"cannot start {host['command'][0]}: {error}\n".encode())
        os._exit(127)

    def _reap(self) -> tuple[int, int]:
        while True:
            if self.kill_after is None:
                return os.waitpid(-1, 0)
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                return pid, status
            if time.monotonic() > self.kill_after:
                for main in list(self.running):
                    _signal(main, signal.SIGKILL)
            time.sleep(0.05)

    def _end_peers(self) -> None:
        self.kill_after = time.monotonic() + PEER_GRACE_SECONDS
        self._pass_on(signal.SIGTERM, None)

    def _kill_hosts(self, number: int, frame: FrameType | None) -> None:
        """Kill the hosts; their children become ours when they die, and `_end_descendants` kills them."""
        for main in list(self.running):
            _signal(main, signal.SIGKILL)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        for main in list(self.running):
            _signal(main, signal.Signals(number))

    def _end_descendants(self) -> None:
        """Kill what the hosts left running: for process 1 the kernel does it, for a subreaper it does not."""
        while True:
            for pid in _children():
                _signal(pid, signal.SIGKILL)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code  # as shells and container engines report a signal


def _children() -> list[int]:
    """Direct children; orphaned descendants become these one by one."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def _enter_host(spec: Json, host: Json) -> None:
    """This process's own view of the file system: what the host's container would show."""
    namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWUTS)
    namespaces.set_host_name(host["name"])
    if spec["layers"]:  # an image with a file system of its own
        binds = {"/opt/ml": Path(host["ml"]), "/etc/hosts": Path(spec["hosts_file"]), "/etc/resolv.conf": Path("/etc/resolv.conf")}
        stage = Path(host["folder"]) / "image.mount"
        stage.mkdir(exist_ok=True)
        root_folder.enter(spec["layers"], stage, {inside: source for inside, source in binds.items() if source.exists()})
        return
    if Path("/etc/hosts").exists():
        namespaces.bind(spec["hosts_file"], "/etc/hosts")
    _build_opt(Path(host["folder"]) / "opt.mount", ml=Path(host["ml"]), program=Path(spec["program"]))


def _build_opt(stage: Path, *, ml: Path, program: Path) -> None:
    """A private /opt: the machine's entries with ``ml`` and ``program`` over them. The machine's files are not changed."""
    stage.mkdir(exist_ok=True)
    namespaces.mount("none", stage, "tmpfs")
    for entry in Path("/opt").iterdir():
        if entry.name in ("ml", "program") or entry.is_symlink():
            continue
        target = stage / entry.name
        if entry.is_dir():
            target.mkdir()
        else:
            target.touch()
        namespaces.bind(entry, target, recursive=True)
    for name, source, read_only in (("ml", ml, False), ("program", program, True)):
        (stage / name).mkdir()
        namespaces.bind(source, stage / name, read_only=read_only)
    namespaces.bind(stage, "/opt", recursive=True)


def _run_isolated(spec: Json) -> int:
    """Fork process 1 of the job's own process ids and wait for it; when it ends, the kernel ends all the rest."""
    namespaces.enter_namespaces(network=spec["network"])
    child = os.fork()
    if child:
        signal.signal(signal.SIGTERM, lambda number, frame: _signal(child, signal.SIGTERM))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return _exit_code(os.waitpid(child, 0)[1])
    namespaces.die_with_parent()
    namespaces.make_mounts_private()
    namespaces.mount("proc", "/proc", "proc")
    if not spec["network"]:
        namespaces.raise_loopback()
    return Supervisor(spec).run()


def probe() -> Json:
    """Which isolation works here; tried in a child process, since a process cannot leave a namespace."""
    found: Json = {}
    for name, network in (("namespaces", True), ("network", False)):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            spec: Json = {"isolation": "namespaces", "network": network, "hosts": []}
            try:
                os._exit(_run_isolated(spec))
            except OSError:
                os._exit(1)
        found[name] = os.waitpid(child, 0)[1] == 0
    return found


def main(argv: list[str]) -> int:
    """Run the job in the spec file; exit status is the job's."""
    if argv == ["--probe"]:
        print(json.dumps(probe()))
        return 0
    spec: Json = json.loads(Path(argv[0]).read_text())
    isolated = spec["isolation"] == "namespaces"
    signal.signal(KILL_ALL, lambda number, frame: os._exit(137))  # until the supervisor has hosts to end
    namespaces.die_with_parent(signal.SIGKILL if isolated else KILL_ALL)
    if os.getppid() != spec["launcher_pid"]:
        return 137  # the launcher ended before the line above
    try:
        if isolated:
            return _run_isolated(spec)
        namespaces.adopt_orphans()
        return Supervisor(spec).run()
    except OSError as error:
        emit("error", message=str(error))
        return 125


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
