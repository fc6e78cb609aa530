"""Interface of the embedded AWS: start, deploy, upload text, show the status, stop.

    aws = up()                      # idempotent; the launcher is a process of its own
    outputs = deploy(aws, print)    # cdk bootstrap and cdk deploy --all, with the real CDK command line
    upload_corpus(aws, outputs["pretrain-foundation"]["BucketName"])
    down()

All state is in one folder, ``.local``; several embedded AWS in different folders can run side by side.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from local_aws import cdk_command, corpus, injected_faults, launcher_process, place
from local_aws.launcher_process import PROJECT as PROJECT
from local_aws.launcher_process import EmbeddedError as EmbeddedError

STATE_FOLDER = ".local"
IMAGE_KIND = "image-kind"
MIN_FREE_BYTES = 2_000_000_000
"""Image snapshots, shards, three checkpoints of 60 MB twice (job folder and S3), with room to spare."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A running embedded AWS."""

    endpoint: str
    """``http://127.0.0.1:PORT``."""
    state_dir: Path
    """Everything it keeps."""
    region: str = place.REGION
    """Its only region that the project uses."""
    account: str = place.ACCOUNT
    """Its account."""

    def environment(self) -> dict[str, str]:
        """This process's environment with every AWS setting replaced: for subprocesses that must see only the embedded AWS."""
        return place.clean_environment() | place.aws_environment(self.endpoint) | cdk_command.environment(self.state_dir)

    def client(self, service: str) -> Any:
        """A client of the embedded AWS; ambient credentials, profiles and configuration files are never read."""
        return place.client(self.endpoint, service, self.region, self.account, False)

    def inject(self, *items: injected_faults.Fault, stopped_as: Literal["error", "return"] = "error") -> None:
        """Inject faults; without arguments, remove all."""
        injected_faults.write_faults(self.state_dir, injected_faults.FaultFile(stopped_as=stopped_as, faults=items))

    def messages(self) -> list[dict[str, Any]]:
        """Messages published so far: time, topic, subject, text, and the e-mail addresses that would receive them."""
        path = self.state_dir / "messages.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def set_quota(self, name: str, value: float) -> None:
        """Set one applied quota by its exact name."""
        path = self.state_dir / "quotas.json"
        quotas = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(quotas | {name: value}))


@dataclass(frozen=True, kw_only=True)
class Status:
    """What ``status`` found."""

    running: bool
    """The launcher process lives and answers."""
    endpoint: str = ""
    """Where."""
    pid: int = 0
    """The launcher's process id."""
    up_seconds: float = 0.0
    """Since when."""
    jobs: tuple[str, ...] = ()
    """Names of jobs in progress."""
    executions: tuple[str, ...] = ()
    """ARNs of running executions."""
    state_bytes: int = 0
    """Disk it uses."""


def up(root: Path | None = None, port: int | None = None) -> Embedded:
    """Start the embedded AWS whose state lies in ``root/.local``, or find the running one. Idempotent, also for two callers at once.

    Raises EmbeddedError: the port is taken, its Python environment is missing, or the launcher does not start.
    """
    home = _home(root)
    _check_disk(home)
    with launcher_process.lock(home):
        _check_image_kind(home)
        running = launcher_process.usable(home)
        if running is not None:
            if port is not None and running["port"] != port:
                raise EmbeddedError(
                    f"the embedded AWS in {home} runs on port {running['port']}, not {port}; end it with `make local-down` first"
                )
            return _embedded(home, running["port"])
        (home / launcher_process.IDENTITY).unlink(missing_ok=True)  # a launcher that was killed
        shutil.rmtree(home / "jobs", ignore_errors=True)
        return _embedded(home, launcher_process.start(home, port))


def deploy(
    embedded: Embedded, on_line: Callable[[str], None] = print, *, app: str | None = None, context: dict[str, str] | None = None
) -> dict[str, dict[str, str]]:
    """``cdk bootstrap`` when needed and ``cdk deploy --all`` of this project with environment ``local``; outputs by stack.

    ``app`` and ``context`` deploy another app (tests do). Raises EmbeddedError with the CDK's reason.
    """
    try:
        return cdk_command.deploy(
            PROJECT, embedded.client("cloudformation"), embedded.environment(), embedded.state_dir, on_line, app=app, context=context
        )
    except cdk_command.CdkError as error:
        raise EmbeddedError(str(error)) from error


def upload_corpus(embedded: Embedded, bucket: str, full: bool | None = None) -> corpus.CorpusSummary:
    """botocore's documentation as JSONL.gz under ``source/botocore/``; all of it with ``full`` or ``LOCAL_CORPUS=full``."""
    whole = os.environ.get("LOCAL_CORPUS") == "full" if full is None else full
    return corpus.upload(embedded.client("s3"), bucket, full=whole)


def status(root: Path | None = None) -> Status:
    """What runs in ``root/.local``; starts nothing."""
    home = _home(root, make=False)
    running = launcher_process.running(home) if home.exists() else None
    size = _size(home)
    if running is None:
        return Status(running=False, state_bytes=size)
    embedded = _embedded(home, running["port"])
    sagemaker, steps = embedded.client("sagemaker"), embedded.client("stepfunctions")
    jobs = [job["TrainingJobName"] for job in sagemaker.list_training_jobs(StatusEquals="InProgress")["TrainingJobSummaries"]]
    jobs += [job["ProcessingJobName"] for job in sagemaker.list_processing_jobs(StatusEquals="InProgress")["ProcessingJobSummaries"]]
    executions = [
        execution["executionArn"]
        for machine in steps.list_state_machines()["stateMachines"]
        for execution in steps.list_executions(stateMachineArn=machine["stateMachineArn"], statusFilter="RUNNING")["executions"]
    ]
    return Status(
        running=True,
        endpoint=embedded.endpoint,
        pid=running["pid"],
        up_seconds=time.time() - running["time"],
        jobs=tuple(jobs),
        executions=tuple(executions),
        state_bytes=size,
    )


def endpoint(root: Path | None = None) -> str | None:
    """Endpoint of the launcher of ``root/.local`` while its process lives; None when it has ended."""
    found = launcher_process.identity(_home(root, make=False))
    return _embedded(_home(root, make=False), found["port"]).endpoint if found else None


def down(root: Path | None = None) -> bool:
    """End the launcher and everything it started, by recorded process id. False when nothing ran."""
    home = _home(root, make=False)
    if not home.exists():
        return False
    with launcher_process.lock(home):
        identity = launcher_process.identity(home)
        if identity is None:
            return False
        launcher_process.end(identity["pid"], identity["started"])
        (home / launcher_process.IDENTITY).unlink(missing_ok=True)
        shutil.rmtree(home / "jobs", ignore_errors=True)
    return True


def clean(root: Path | None = None) -> None:
    """End it and delete its state: stacks, buckets, images, logs. Raises EmbeddedError for a .local that this project did not create."""
    home = _home(root, make=False)
    ours = any((home / name).exists() for name in (IMAGE_KIND, launcher_process.IDENTITY))
    if home.exists() and any(home.iterdir()) and not ours:
        raise EmbeddedError(f"{home} holds no embedded AWS, so nothing of it was deleted")  # ~/.local is full of other things
    down(root)
    shutil.rmtree(home, ignore_errors=True)


def _home(root: Path | None, *, make: bool = True) -> Path:
    home = (root or Path.cwd()).resolve() / STATE_FOLDER
    _refuse_links(home)
    if make:
        home.mkdir(parents=True, exist_ok=True)
    return home


def _refuse_links(home: Path) -> None:
    """Raise EmbeddedError for a symbolic link where only this program writes: it would read, write or delete elsewhere.

    Images and jobs are left out: their files may link, and nothing of this program follows them.
    """
    walks = itertools.chain(*(os.walk(home / name) for name in ("s3", "state")))  # what vanishes meanwhile is passed over
    written = (Path(folder, name) for folder, folders, files in walks for name in (*folders, *files))
    for path in itertools.chain([home], home.glob("*"), written):
        if path.is_symlink():
            raise EmbeddedError(
                f"{path} is a symbolic link to {path.readlink()}, and the embedded AWS follows none in its folder; "
                "remove it, or use another folder"
            )


def _embedded(home: Path, port: int) -> Embedded:
    return Embedded(endpoint=f"http://127.0.0.1:{port}", state_dir=home)


def _size(home: Path) -> int:
    total = 0
    for path in home.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # files of running jobs may disappear meanwhile
            total += path.lstat().st_size
    return total


def _check_image_kind(home: Path) -> None:
    """An existing image tag is not built again, so images of another LOCAL_IMAGE kind would be used without notice."""
    wanted, record = os.environ.get("LOCAL_IMAGE") or "snapshot", home / IMAGE_KIND
    kept = record.read_text() if record.exists() else wanted
    if kept != wanted:
        raise EmbeddedError(
            f"the images in {home} were made with LOCAL_IMAGE={kept}, and LOCAL_IMAGE is {wanted}; `make local-clean` first"
        )
    record.write_text(kept)


def _check_disk(home: Path) -> None:
    free = shutil.disk_usage(home).free
    if free < MIN_FREE_BYTES:
        need = f"{free / 1e9:.1f} GB are free where {home} lies, and a local run needs {MIN_FREE_BYTES / 1e9:.0f} GB"
        raise EmbeddedError(f"{need}; free some, or use another folder")
