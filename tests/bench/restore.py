"""What a resume reads and how long it takes to the first step, on the embedded AWS: five checkpoints, a killed job, its next attempt.

    make bench-restore [HOSTS="2 4"]

Each run trains the recipe ``local`` on so many hosts, saves five checkpoints and loses all its ranks by SIGKILL. The next attempt's
result.json says what each host read of the checkpoint; S3's listing says what lay there; the job's record and its first metrics
line say how long the first step took to come.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gzip
import json
import os
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from contracts.metric_line import parse_line
from infra.run.layout import RunLayout
from infra.run.leg_files import attempt_folders, manifest_of, newest_result, step_folders
from local_aws import embedded

SOURCE = "source/stdlib/"
INTERVAL, CHECKPOINTS, STEPS = 2, 5, 100
LIMIT_SECONDS = 1800.0


class Machine:
    """The embedded AWS with the real stacks."""

    def __init__(self, root: Path) -> None:
        self.aws = embedded.up(root)
        outputs = embedded.deploy(self.aws, lambda line: None)
        self.bucket, self.machine = outputs["pretrain-foundation"]["BucketName"], outputs["pretrain-pipeline"]["StateMachineArn"]
        self.s3, self.states, self.sagemaker = (self.aws.client(name) for name in ("s3", "stepfunctions", "sagemaker"))

    def start(self, run: str, hosts: int) -> str:
        """Start one run."""
        training = {
            "steps": STEPS,
            "local_batch_size": 1,
            "schedule": {"warmup_steps": 2},
            "processes_per_host": 1,
            "checkpoint": {"interval_steps": INTERVAL, "keep_latest": CHECKPOINTS + 3, "async_mode": "async"},
            "validation": {"interval_steps": 0, "batches": 1},
            "log_interval_steps": 1,
        }
        value = {"run_id": run, "data": {"source": SOURCE}, "training": training, "compute": {"instance_count": hosts}}
        return str(self.states.start_execution(stateMachineArn=self.machine, name=run, input=json.dumps(value))["executionArn"])

    def ended(self, execution: str) -> dict[str, Any]:
        """The execution's description, once it does not run."""
        described: dict[str, Any] = self.states.describe_execution(executionArn=execution)
        return described

    def whole(self, attempt: str) -> int:
        """Whole checkpoints in an attempt's folder."""
        folders = step_folders(self.s3, self.bucket, attempt)
        return sum(manifest_of(self.s3, self.bucket, folder) is not None for folder in folders)

    def bytes_below(self, prefix: str) -> int:
        """Bytes of all objects below a prefix."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return sum(item["Size"] for page in pages for item in page.get("Contents", []))

    def first_row(self, attempt: str) -> dict[str, float]:
        """An attempt's first metrics line."""
        body = self.s3.get_object(Bucket=self.bucket, Key=f"{attempt}metrics/metrics.jsonl")["Body"].read().decode()
        return next(row for line in body.splitlines() if (row := parse_line(line)))


def kill_ranks(run: str) -> None:
    """SIGKILL to every rank of the run's job."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            environment = (entry / "environ").read_bytes()
            if f"TRAINING_JOB_NAME={run}-".encode() in environment and b"LOCAL_RANK=" in environment:
                os.kill(int(entry.name), signal.SIGKILL)


def text() -> bytes:
    """Python's own library as JSONL."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:120]
    lines = [json.dumps({"text": paragraph}) for file in files for paragraph in file.read_text(errors="replace").split("\n\n")]
    return gzip.compress("\n".join(lines).encode(), mtime=0)


def measure(machine: Machine, hosts: int) -> dict[str, Any]:
    """One run on so many hosts.

    Raises:
        SystemExit: it did not succeed, or did not resume.
    """
    run, layout = f"restore-{hosts}", RunLayout(f"restore-{hosts}")
    execution, killed, stored, deadline = machine.start(run, hosts), False, 0, time.monotonic() + LIMIT_SECONDS
    while (ended := machine.ended(execution))["status"] == "RUNNING" and time.monotonic() < deadline:
        attempts = attempt_folders(machine.s3, machine.bucket, layout, "main")
        if not killed and attempts and machine.whole(attempts[0]) >= CHECKPOINTS:
            kill_ranks(run)
            killed = True
        if killed and not stored and len(attempts) == 1:
            stored = machine.bytes_below(layout.leg_prefix("main"))
        time.sleep(0.3)
    attempts = attempt_folders(machine.s3, machine.bucket, layout, "main")
    found = newest_result(machine.s3, machine.bucket, attempts)
    if ended["status"] != "SUCCEEDED" or found is None or not found[1]["restored"]:
        raise SystemExit(f"{run} ended {ended['status']} after {len(attempts)} attempts: {ended.get('cause')}")
    restored = found[1]["restored"]
    number = found[0].rstrip("/").rsplit("-", 1)[1]
    names = [job["TrainingJobName"] for job in machine.sagemaker.list_training_jobs(NameContains=f"{run}-main")["TrainingJobSummaries"]]
    job = machine.sagemaker.describe_training_job(TrainingJobName=next(name for name in names if name.endswith(f"-{number}")))
    started: datetime.datetime = job["TrainingStartTime"]
    share = restored["bytes"] / hosts
    return {
        "hosts": hosts,
        "checkpoint_bytes": restored["bytes"],
        "bytes_below_the_leg": stored,
        "host_bytes": restored["host_bytes"],
        "worst_host_over_its_share": round(max(restored["host_bytes"]) / share, 3),
        "restore_seconds": round(restored["seconds"], 2),
        "seconds_to_first_step": round(machine.first_row(found[0])["time"] - started.timestamp(), 1),
    }


def main(hosts: list[int]) -> int:
    """Measure; 1 when a host read more than 1.1 times its share."""
    root = Path(tempfile.mkdtemp(prefix="bench-restore-"))
    try:
        machine = Machine(root)
        machine.s3.put_object(Bucket=machine.bucket, Key=f"{SOURCE}a.jsonl.gz", Body=text())
        found = [measure(machine, count) for count in hosts]
        good = all(one["worst_host_over_its_share"] <= 1.1 for one in found)
        print(json.dumps({"runs": found, "within_1_1": good}))
        return 0 if good else 1
    finally:
        embedded.clean(root)
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hosts", type=int, nargs="*", default=[2, 4])
    sys.exit(main(parser.parse_args().hosts))
