"""What operators meet: stops in every stage, a schedule over an active run, deleted tokens, a full disk, a wrong clock, a second user."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from account import Account, Json, expect, expect_words
from capacity import succeeded
from small_run import REFERENCE, STEPS, run_input, unbroken
from table import Row

from local_aws.embedded import PROJECT
from local_aws.injected_faults import Fault

SMALL_DISK = "64k"  # below the exported model's 600 KB, above its config and tokenizer
CLOCK = """
import datetime, os
_SHIFT = datetime.timedelta(days=float(os.environ["CLOCK_DAYS"]))
class _Meta(type):
    def __instancecheck__(cls, item): return isinstance(item, _REAL)
_REAL = datetime.datetime
class _Shifted(_REAL, metaclass=_Meta):
    @classmethod
    def now(cls, tz=None): return _REAL.now(tz) + _SHIFT
    @classmethod
    def utcnow(cls): return _REAL.utcnow() + _SHIFT
datetime.datetime = _Shifted
"""
"""sitecustomize.py of a process whose clock is wrong."""


def pretrain(account: Account, *words: str, prefix: tuple[str, ...] = (), **environment: str) -> tuple[int, str]:
    """Exit code and output of the command line, as a process of its own."""
    command = [*prefix, str(Path(sys.executable).parent / "pretrain"), *words, "--environment", "local"]
    given = {**account.aws.environment(), **environment}
    done = subprocess.run(command, cwd=PROJECT, env=given, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def _stop(account: Account, run: str) -> None:
    code, said = pretrain(account, "stop", run, "--yes")
    expect(f"pretrain stop {run}", (code, said), (0, f"stopping {run}\n"))


def _signal(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _report(account: Account, run: str) -> Json:
    """The report of a run that was stopped, once it is there; one that the stopped execution was still writing comes before it."""
    key = f"runs/{run}/report.json"

    def look() -> Json | None:
        found = json.loads(account.read(key)) if key in account.keys("") else {}
        return found if found.get("outcome") == "stopped" else None

    return account.until(look, f"the report of the stopped run {run}", every=0.5)


def _stopped_stage(found: Json) -> list[str]:
    return [stage["name"] for stage in found["stages"] if stage["state"] == "stopped"]


def _again(account: Account, run: str, *words: str) -> float:
    """Seconds of `pretrain start --again RUN --watch`, which must succeed."""
    began = time.monotonic()
    code, said = pretrain(account, "start", "--again", run, *words, "--watch")
    expect(f"start --again {run}: {said[-600:]}", code, 0)
    return time.monotonic() - began


# -- stopped in every stage ------------------------------------------------------------------------------


def stopped_while_building(account: Account) -> Iterator[Row]:
    """Stopped during the image build."""
    run, codebuild = "stop-build", account.client("codebuild")
    ecr = account.client("ecr")
    for repository in (item["repositoryName"] for item in ecr.describe_repositories()["repositories"]):
        images = ecr.list_images(repositoryName=repository)["imageIds"]
        if images:
            ecr.batch_delete_image(repositoryName=repository, imageIds=images)
    before = set(codebuild.list_builds()["ids"])
    execution = account.start(run_input(run))
    (build,) = account.until(lambda: set(codebuild.list_builds()["ids"]) - before, "a build")
    _stop(account, run)
    account.ended(execution)
    status = account.until(
        lambda: codebuild.batch_get_builds(ids=[build])["builds"][0]["buildStatus"].replace("IN_PROGRESS", ""), "the end of the build"
    )
    expect("the build", status, "STOPPED")
    found = _report(account, run)
    expect("stage", _stopped_stage(found), ["Build image"])
    seconds = _again(account, run)
    yield Row(
        injected="`pretrain stop` during the image build; `start --again`",
        happened="the build ended STOPPED; report: stopped in Build image; then built, trained",
        attempts=len(account.training_jobs(run)),
        lost=unbroken(account, run),
        seconds=seconds,
    )


def stopped_while_preparing(account: Account) -> Iterator[Row]:
    """Stopped during data preparation."""
    run = "stop-prepare"
    execution = account.start(run_input(run, data={"shard_tokens": 65_000}))

    def running() -> bool:
        return any(job["ProcessingJobStatus"] == "InProgress" and job.get("ProcessingStartTime") for job in account.processing_jobs(run))

    account.until(running, "a processing job")
    held = account.until(lambda: account.processes(run, kind="PROCESSING"), "the job's processes")
    _signal(held, signal.SIGSTOP)  # so small a text is prepared in the seconds that `pretrain stop` takes
    _stop(account, run)
    _signal(held, signal.SIGCONT)
    account.ended(execution)
    found = _report(account, run)
    expect("stage", _stopped_stage(found), ["Prepare data"])
    (job,) = account.processing_jobs(run)
    expect("the job", job["ProcessingJobStatus"], "Stopped")
    expect("jobs in the report", [one["status"] for one in found["preparations"]], ["Stopped"])
    fingerprint = json.loads(account.read(f"runs/{run}/run.json"))["tokens"]["fingerprint"]
    whole = f"tokens/{fingerprint}/index.json" in account.keys("")  # a small data set may be whole within the job's grace
    seconds = _again(account, run)
    expect("processing jobs", len(account.processing_jobs(run)), 1 if whole else 2)
    yield Row(
        injected="`pretrain stop` during data preparation; `start --again`",
        happened="the processing job ended Stopped; report: stopped in Prepare data, its dollars; then prepared and trained",
        attempts=len(account.processing_jobs(run)) + len(account.training_jobs(run)),
        lost="nothing: the data set is whole, all steps trained" if len(account.metrics(run)) == STEPS else "steps",
        seconds=seconds,
    )


def stopped_while_reporting(account: Account) -> Iterator[Row]:
    """Stopped in the state Report."""
    run = "stop-report"
    # What only Report reads is refused three times each, and its fourth try succeeds: ten seconds in which the stop comes.
    slow = [
        Fault(
            id=f"{run}-{name}",
            on="GetObject",
            service="s3",
            caller="function",
            match=f"runs/{run}/main/.*{name}",
            error="throttled",
            times=3,
        )
        for name in ("metrics.jsonl", "result.json", "manifest.json")
    ]
    with account._lock:
        account._faults.extend(slow)
        account.aws.inject(*account._faults)
    execution = account.start(run_input(run))
    account.until(lambda: "Report" in account.states(execution), "the state Report", every=0.2)
    account.client("stepfunctions").stop_execution(executionArn=execution, error="Stopped", cause="enough")
    ended = account.ended(execution)
    expect("the end", ended.status, "ABORTED")
    account.until(
        lambda: "nothing is written" in pretrain(account, "logs", run, "--stage", "report")[1], "the stopped report's end", every=1
    )
    found = _report(account, run)
    expect("stage", _stopped_stage(found), ["Report"])
    (leg,) = found["legs"]
    expect("the leg", (leg["figures"]["finished"], leg["figures"]["steps"]), (True, STEPS))
    code, said = pretrain(account, "export", tempfile.mkdtemp(), "--run", run)
    expect(f"export: {said}", code, 0)
    yield Row(
        injected="StopExecution in the state Report, whose function goes on for seconds",
        happened="it writes nothing; report: stopped in Report, every step trained; its model can be exported",
        attempts=1,
        lost=unbroken(account, run),
        seconds=ended.seconds,
    )


# -- what happens to runs --------------------------------------------------------------------------------


def schedule_over_an_active_run(account: Account) -> Iterator[Row]:
    """A schedule that fires while its run is still active."""
    run = "nightly"
    schedule = {"name": run, "time": "2026-11-25T06:00:00Z", "resume": "latest"}
    training = {"schedule": {"warmup_steps": 2, "total_steps": STEPS, "decay": "constant"}}
    value = run_input(run, training=training) | {"schedule": schedule}
    value.pop("run_id")
    first = account.start(value)
    account.until_step(first, run, 4)
    later = account.run(value | {"schedule": {**schedule, "time": "2026-11-25T06:01:00Z"}})
    expect("the second firing", (later.status, later.states), ("SUCCEEDED", ["Admit", "Go ahead?", "Done"]))
    succeeded(account.ended(first))
    expect("jobs", len(account.training_jobs(run)), 1)
    code, said = pretrain(account, "list", "--json", "--limit", "200")
    expect("list", code, 0)
    (row,) = (one for one in json.loads(said) if one["run"] == run)
    expect("executions and status", (row["executions"], row["status"]), (2, "trained"))
    yield Row(
        injected="a schedule fires while its earlier firing trains",
        happened="the second firing gave way: SUCCEEDED after Admit, no job; list shows the run as trained, two executions",
        attempts=1,
        lost="nothing",
        seconds=later.seconds,
    )


def tokens_deleted_between_runs(account: Account) -> Iterator[Row]:
    """A data set deleted between two executions of a run."""
    run, s3 = "no-tokens", account.client("s3")
    data = {"shard_tokens": 70_000}
    succeeded(account.run(run_input(run, data=data, training={"steps": 24})))
    prefix = f"tokens/{json.loads(account.read(f'runs/{run}/run.json'))['tokens']['fingerprint']}/"
    before = {key: tag for key, tag in account.keys(prefix).items() if key.endswith(".tokens")}
    expect("whether there are shards", len(before) > 1, True)
    for key in account.keys(prefix):
        s3.delete_object(Bucket=account.bucket, Key=prefix + key)
    seconds = _again(account, run, "--set", f"training.steps={STEPS}")
    after = {key: tag for key, tag in account.keys(prefix).items() if key.endswith(".tokens")}
    expect("shards", after, before)
    yield Row(
        injected="all of a run's tokens deleted after step 24; `start --again` with 48 steps",
        happened=f"prepared again: {len(after)} shards with the same bytes; resumed",
        attempts=len(account.training_jobs(run)),
        lost="nothing: each step logged once" if len(account.metrics(run)) == STEPS else "steps",
        seconds=seconds,
    )


def a_shard_deleted_between_runs(account: Account) -> Iterator[Row]:
    """One shard deleted between two runs, the index being there."""
    s3, data = account.client("s3"), {"shard_tokens": 80_000}
    succeeded(account.run(run_input("whole-set", data=data, training={"steps": 4})))
    prefix = f"tokens/{json.loads(account.read('runs/whole-set/run.json'))['tokens']['fingerprint']}/"
    shard = sorted(key for key in account.keys(prefix) if key.startswith("train/") and key.endswith(".tokens"))[0]
    s3.delete_object(Bucket=account.bucket, Key=prefix + shard)
    ended = account.run(run_input("holed-set", data=data))
    expect("the end", (ended.status, ended.error), ("FAILED", "CorruptShard"))
    expect_words(ended.cause, "CorruptShard (stop)", Path(shard).name)
    jobs = len(account.training_jobs("holed-set"))
    s3.delete_object(Bucket=account.bucket, Key=prefix + "index.json")  # the runbook's advice
    seconds = _again(account, "holed-set")
    yield Row(
        injected="one shard of a data set deleted; the index deleted as the runbook says; `start --again`",
        happened=f"{ended.cause[:150]} ...; then prepared again, trained",
        attempts=jobs + 1,
        lost="nothing" if len(account.metrics("holed-set")) == STEPS else "steps",
        seconds=ended.seconds + seconds,
    )


# -- where the command line runs -------------------------------------------------------------------------


def disk_full_while_exporting(account: Account) -> Iterator[Row]:
    """A disk that is full before the exported model is there."""
    began, folder = time.monotonic(), Path(tempfile.mkdtemp())
    script = f'mount -t tmpfs -o size={SMALL_DISK} none "$0" && "$@"; code=$?; ls -A "$0/model" >&2; exit $code'
    prefix = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(folder))
    code, said = pretrain(account, "export", str(folder / "model"), "--run", REFERENCE, prefix=prefix)
    expect(f"exit code: {said}", code, 1)
    expect_words(said, "No space left on device")
    expect("model files with their final names", [line for line in said.splitlines() if line.endswith(".safetensors")], [])
    code, said = pretrain(account, "export", str(folder / "model"), "--run", REFERENCE)
    expect(f"export with room: {said}", code, 0)
    shutil.rmtree(folder, ignore_errors=True)
    yield Row(
        injected=f"`pretrain export` to a file system of {SMALL_DISK}B",
        happened="exit 1, No space left on device; no model file has its final name",
        attempts=0,
        lost="nothing",
        seconds=time.monotonic() - began,
    )


def wrong_clock(account: Account) -> Iterator[Row]:
    """A command line whose clock is a day off."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sitecustomize.py").write_text(CLOCK)
        for days in ("1", "-1"):
            for command in (("list",), ("watch", REFERENCE), ("export", str(Path(folder) / "model"), "--run", REFERENCE)):
                code, said = pretrain(account, *command, PYTHONPATH=folder, CLOCK_DAYS=days)
                expect(f"{command}, {days} days off: {said}", code, 5)
                expect_words(said, "this machine's clock is wrong: it says", "AWS says", "timedatectl")
    yield Row(
        injected="`list`, `watch`, `export` on a machine whose clock is a day ahead or behind",
        happened="exit 5: this machine's clock is wrong, with both times and the fix",
        attempts=0,
        lost="nothing",
        seconds=time.monotonic() - began,
    )


def second_user(account: Account) -> Iterator[Row]:
    """A second person with credentials of their own on the same deployment."""
    iam, run = account.client("iam"), "shared"
    people = {}
    for name in ("alice", "bob"):
        iam.create_user(UserName=name)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        people[name] = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
    alice, bob = people["alice"], people["bob"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "input.json"
        file.write_text(json.dumps(run_input(run, training={"steps": 3000, "schedule": {"warmup_steps": 2, "total_steps": 3000}})))
        code, said = pretrain(account, "start", "--input", str(file), "--json", **alice)
        expect(f"alice's start: {said}", code, 0)
        first = json.loads(said)["execution_arn"]
        account.until_step(first, run, 12)
        code, said = pretrain(account, "start", "--input", str(file), "--watch", "--plain", **bob)
    expect(f"bob's start of the same run: {said[-300:]}", code, 1)
    expect_words(said, "The run was refused", "is active in execution", first)
    mine = {
        name: [one["run"] for one in json.loads(pretrain(account, "list", "--mine", "--json", "--limit", "200", **keys)[1])]
        for name, keys in people.items()
    }
    expect("whose runs", mine, {"alice": [run], "bob": []})
    code, said = pretrain(account, "stop", run, **bob)  # no --yes, and nobody answers: nothing is stopped
    expect_words(said, "started by user/alice")
    expect("the run goes on", account.describe(first)["status"], "RUNNING")
    code, said = pretrain(account, "stop", run, "--yes", **bob)
    expect(f"bob's stop: {said}", code, 0)
    expect("the end", account.ended(first).status, "ABORTED")
    expect_words(_report(account, run)["explanation"]["sentence"], "pretrain stop by user/bob")
    yield Row(
        injected="a second user starts, lists and stops a run that another one started",
        happened="double start refused, naming the execution; list --mine holds own runs; who started and who stopped it is said",
        attempts=len(account.training_jobs(run)),
        lost="nothing: its checkpoints are there",
        seconds=0.0,
    )


SIDE_BY_SIDE = (
    stopped_while_preparing,
    stopped_while_reporting,
    schedule_over_an_active_run,
    tokens_deleted_between_runs,
    a_shard_deleted_between_runs,
    disk_full_while_exporting,
    wrong_clock,
    second_user,
)
ALONE = (stopped_while_building,)
"""It deletes the images that other runs need."""
