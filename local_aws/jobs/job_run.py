"""Base of training and processing jobs: the record that Describe calls return, the life cycle, and stopping."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from local_aws import place
from local_aws.injected_faults import Fault, Faults
from local_aws.jobs.job_process import STOP_GRACE_SECONDS, Host, JobProcess, isolation
from local_aws.place import Place

Json = dict[str, Any]
SHUTDOWN_GRACE_SECONDS = 5.0
"""For jobs when the embedded AWS goes down: a person waits, and a later attempt resumes from the last checkpoint."""
FAILURE_CHARACTERS = 1024  # what SageMaker keeps of the failure file and of the message file


class JobFailed(Exception):
    """The job ends as Failed; the text is its FailureReason."""


class JobRun(ABC):
    """One job. ``run`` blocks until it has ended; everything visible is written to ``record``."""

    kind: ClassVar[str]
    log_group: ClassVar[str]

    def __init__(
        self,
        record: Json,
        *,
        where: Place,
        account: str,
        region: str,
        faults: Faults,
        resolve_image: Callable[[str], Path],
        on_change: Callable[[Json], None],
    ) -> None:
        self.record = record
        self.name: str = record[f"{self.kind}JobName"]
        self.where, self.account, self.region = where, account, region
        self.faults, self.resolve_image, self.on_change = faults, resolve_image, on_change
        self.folder = where.jobs / self.kind.lower() / self.name
        self.process: JobProcess | None = None
        self.stop_requested = threading.Event()
        self.timed_out = False
        self.ended = threading.Event()
        self._grace = STOP_GRACE_SECONDS

    # -- for subclasses -----------------------------------------------------------------------

    @abstractmethod
    def work(self) -> str:
        """Do the job and return its final status. Raises JobFailed."""

    @abstractmethod
    def show(self, status: str, message: str = "") -> None:
        """Enter a secondary status, where the kind of job has them."""

    # -- life ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Do the job; never raises."""
        try:
            status = self.work()
        except JobFailed as failure:
            status = "Failed"
            self.record["FailureReason"] = str(failure)[:FAILURE_CHARACTERS]
        except Exception as error:  # a defect of the emulator is reported as SageMaker reports its own
            status = "Failed"
            self.record["FailureReason"] = f"InternalServerError: {type(error).__name__}: {error}"[:FAILURE_CHARACTERS]
        if self.process is not None:
            self.process.kill()
        self.finish(status)
        if self.folder.exists():
            _clear(self.folder)
        self.ended.set()

    def finish(self, status: str) -> None:
        """Write the final status; the record is complete before the status shows it."""
        self.record[f"{self.kind}JobStatus"] = status
        self.on_change(self.record)

    def stop(self, grace_seconds: float = STOP_GRACE_SECONDS) -> None:
        """StopTrainingJob and StopProcessingJob; a job without processes ends at once."""
        self._grace = grace_seconds
        self.stop_requested.set()
        if self.process is not None:
            self.process.stop(grace_seconds)

    @property
    def client(self) -> Callable[[str], Any]:
        """Clients on the embedded AWS, in the job's account and region."""
        return lambda service: place.client(self.where.endpoint, service, self.region, self.account)

    def run_hosts(self, program: Path, hosts: list[Host], *, network: bool, max_seconds: float, after_start: Callable[[], None]) -> int:
        """Run the containers to their end, or to the time limit; the exit code of the first host that failed."""
        if self.stop_requested.is_set():
            return 0
        self.process = JobProcess(folder=self.folder, program=program, hosts=hosts, network=network)
        if self.stop_requested.is_set():  # it came while the supervisor started
            self.process.stop(self._grace)
        limit = threading.Timer(max_seconds, self._time_out)
        limit.daemon = True
        limit.start()
        after_start()
        try:
            code = self.process.wait()
        finally:
            limit.cancel()
        if self.process.error:
            raise RuntimeError(f"the job's container did not start: {self.process.error}")
        return code

    def _time_out(self) -> None:
        self.timed_out = True
        if self.process is not None:
            self.process.stop()

    def pending(self, fault: Fault, limit: float | None) -> bool:
        """Wait for capacity as long as the fault says; True when the pending limit or a stop ended the wait."""
        seconds = fault.seconds if limit is None else min(fault.seconds, limit)
        stopped = self.stop_requested.wait(seconds / fault.times_faster)
        if not stopped:
            self.record["CreationTime"] -= seconds - seconds / fault.times_faster
        return stopped or (limit is not None and fault.seconds > limit)

    # -- pieces -------------------------------------------------------------------------------------

    def image(self, reference: str) -> Path:
        """The snapshot that an image reference names. Raises JobFailed as SageMaker does for a missing image."""
        try:
            return self.resolve_image(reference)
        except (OSError, LookupError, ValueError) as error:
            raise JobFailed(f"ClientError: Cannot pull image {reference}: {error}") from error

    def environment(self, folder: Path, given: dict[str, str], *, network: bool) -> dict[str, str]:
        """Environment of the container: PATH of the machine and nothing else of it; the job's variables last."""
        home, temporary = folder / "home", folder / "tmp"
        for path in (home, temporary):
            path.mkdir(parents=True, exist_ok=True)
        base = {
            "PATH": f"{self.where.job_path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(home),
            "TMPDIR": str(temporary),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",  # the image sets it too: progress shows while the job runs
            "PYTHONDONTWRITEBYTECODE": "1",  # the image is read-only
            "AWS_REGION": self.region,
            f"{self.kind.upper()}_JOB_NAME": self.name,
            f"{self.kind.upper()}_JOB_ARN": self.record[f"{self.kind}JobArn"],
        }
        if network or not isolation()["network"]:
            base |= place.aws_environment(self.where.endpoint) | {"AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region}
            base |= {"AWS_ACCESS_KEY_ID": self.account, "AWS_SDK_UA_APP_ID": place.INTERNAL_APP_ID}
        return base | given

    def write_json(self, path: Path, value: object) -> None:
        """One of the container's configuration files."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, default=str))

    def read_message(self, path: Path) -> str:
        """What the job left in its failure or message file, as much as SageMaker keeps of it; nothing where a link leads out of the job."""
        with contextlib.suppress(OSError):
            if path.resolve() == self.folder.resolve() / path.relative_to(self.folder):
                return path.read_text(errors="replace")[:FAILURE_CHARACTERS].strip()
        return ""


def _clear(folder: Path) -> None:
    """Delete a finished job's folder: outputs are in S3, and checkpoints would fill the disk."""
    shutil.rmtree(folder, ignore_errors=True)


def instance_hosts(count: int) -> list[str]:
    """SageMaker's names: algo-1, algo-2, ..."""
    return [f"algo-{number}" for number in range(1, count + 1)]


def now() -> float:
    """Seconds since the epoch, as records keep them."""
    return time.time()
