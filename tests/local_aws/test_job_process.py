"""A job's processes: none outlives its job, and no job outlives the launcher, in both kinds of isolation."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local_aws.jobs import job_process
from local_aws.jobs.job_process import Host, JobProcess

ROOT = Path(__file__).parents[2]
STRAY = "import subprocess, sys; subprocess.Popen(['sleep', '4321'], start_new_session=True, stdout=subprocess.DEVNULL); "


@pytest.fixture(params=["namespaces", "folders"])
def isolation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    job_process.isolation.cache_clear()
    if request.param == "folders":
        monkeypatch.setenv("LOCAL_AWS_ISOLATION", "folders")
    elif not job_process.isolation()["namespaces"]:
        pytest.skip("this kernel forbids namespaces")
    yield request.param
    job_process.isolation.cache_clear()


class Job:
    def __init__(self, folder: Path, *codes: str, network: bool = True) -> None:
        self.lines: list[str] = []
        self.printed = threading.Event()
        program = folder / "program"
        program.mkdir()
        hosts = []
        for number, code in enumerate(codes, 1):
            ml = folder / f"algo-{number}" / "ml"
            ml.mkdir(parents=True)
            hosts.append(
                Host(
                    name=f"algo-{number}",
                    folder=ml.parent,
                    ml=ml,
                    command=(sys.executable, "-c", code),
                    environment={"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"},
                    on_line=self._on_line,
                )
            )
        self.folder = folder
        self.process = JobProcess(folder=folder, program=program, hosts=hosts, network=network)

    def _on_line(self, line: str) -> None:
        self.lines.append(line)
        self.printed.set()


def strays(marker: str) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_text().replace("\0", " ")
        except OSError:
            continue
        if marker in command:
            found.append(command)
    return found


def eventually(true: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_exit_code_and_output_come_through_and_strays_end(tmp_path: Path, isolation: str) -> None:
    job = Job(tmp_path, STRAY.replace("4321", "43211") + "print('out'); print('err', file=sys.stderr); sys.exit(3)")
    assert job.process.wait() == 3
    assert sorted(job.lines) == ["err", "out"]
    assert job.process.exit_codes == {"algo-1": 3}
    assert strays("sleep 43211") == []


def test_contract_folder_is_where_the_job_looks(tmp_path: Path, isolation: str) -> None:
    where = "os.environ['SAGEMAKER_BASE_DIR']" if isolation == "folders" else "'/opt/ml'"
    job = Job(tmp_path, f"import os, pathlib; pathlib.Path({where}, 'made').write_text(os.getcwd())")
    assert job.process.wait() == 0, job.lines
    expected = "/opt/program" if isolation == "namespaces" else str(tmp_path / "program")
    assert (tmp_path / "algo-1/ml/made").read_text() == expected
    assert not Path("/opt/ml/made").exists()


def test_killed_job_reports_the_signal(tmp_path: Path, isolation: str) -> None:
    assert Job(tmp_path, "import os; os.kill(os.getpid(), 9)").process.wait() == 137


def test_stop_reaches_the_main_process_and_then_kills_what_is_stubborn(tmp_path: Path, isolation: str) -> None:
    code = "import signal, time; signal.signal(15, lambda *a: print('asked')); print('up')\nwhile True: time.sleep(9)"
    job = Job(tmp_path, STRAY.replace("4321", "43212") + code)
    assert job.printed.wait(20)
    job.process.stop(grace_seconds=0.5)
    assert job.process.wait() == 137
    assert job.lines == ["up", "asked"]
    assert eventually(lambda: strays("sleep 43212") == [])


def test_first_failing_host_ends_the_others(tmp_path: Path, isolation: str) -> None:
    job = Job(tmp_path, "import time; time.sleep(99)", "raise SystemExit(5)")
    assert job.process.wait() == 5
    assert job.process.exit_codes == {"algo-2": 5, "algo-1": 143}


def test_job_without_network_sees_only_its_own_loopback(tmp_path: Path) -> None:
    if not job_process.isolation()["network"]:
        pytest.skip("this kernel forbids network namespaces")
    code = "import socket; print([name for _, name in socket.if_nameindex()], socket.gethostname(), socket.gethostbyname('algo-2'))"
    job = Job(tmp_path, code, "pass", network=False)
    assert job.process.wait() == 0
    assert job.lines == ["['lo'] algo-1 127.0.0.2"]


def test_command_that_cannot_start_says_so(tmp_path: Path, isolation: str) -> None:
    job = Job(tmp_path, "pass")
    job.process.wait()
    folder = tmp_path / "second"
    (folder / "ml").mkdir(parents=True)
    lines: list[str] = []
    host = Host(
        name="algo-1", folder=folder, ml=folder / "ml", command=("no-such-command",), environment={"PATH": "/bin"}, on_line=lines.append
    )
    process = JobProcess(folder=folder, program=tmp_path / "program", hosts=[host], network=True)
    assert process.wait() == 127
    assert "cannot start no-such-command" in lines[0]


@pytest.mark.parametrize("kind", ["namespaces", "folders"])
def test_killed_launcher_takes_its_jobs_along(tmp_path: Path, kind: str) -> None:
    launcher = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_job_process import Job, STRAY
job = Job(Path({str(tmp_path)!r}), STRAY.replace("4321", "43213") + "import time; print('up'); time.sleep(43213)")
job.printed.wait(20)
print("running", flush=True)
job.process.wait()
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LOCAL_AWS_ISOLATION": "" if kind == "namespaces" else "folders"}
    with subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        assert strays("sleep 43213")
        process.kill()
    assert eventually(lambda: strays("43213") == []), strays("43213")
