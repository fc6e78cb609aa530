"""`pretrain logs --to DIR`: every log of a run as files, what its profiler recorded, and an index of them.

    DIR/index.txt                                        what each file is; what is missing, and why
    DIR/<execution>/{admit,triage,report,build}.log      lines of the functions and of the image build
    DIR/prepare/attempt-<n>/<host>.log                   a processing job's, one file a host
    DIR/<leg>/attempt-<n>/<host>.log                     a training job's
    DIR/<leg>/diagnostics/<attempt's folder>/<file>      traces and memory snapshots (training.profile)

Each file comes under a temporary name and gets its own when it is whole. Lines are as they were written.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from infra.cli.exits import CommandError
from infra.cli.find_run import FoundRun, describe
from infra.cli.job_logs import GROUPS, host_of, stream_handler, why_empty
from infra.cli.logs import build_log, execution_span, function_group, functions_span, group_lines, of_execution
from infra.cli.target import Target
from infra.run.layout import RunLayout
from infra.run.leg_files import profiler_files
from infra.run.run_jobs import UNDER_WAY, RunJob, run_jobs
from infra.run.run_record import read_records

INDEX = "index.txt"
PART = ".part"
FUNCTIONS = ("admit", "triage", "report")


@dataclass(frozen=True, kw_only=True)
class SavedLog:
    """One line of the index."""

    what: str
    """What wrote the log."""
    file: str | None = None
    """Its file in the folder; None when there is no line."""
    lines: int = 0
    bytes: int | None = None
    """Size of a file that is no log."""
    missing: str | None = None
    """Why there is no line."""

    def __str__(self) -> str:
        size = f"{self.lines:,} lines" if self.bytes is None else f"{self.bytes:,} bytes"
        return f"{self.file}  {size}, {self.what}" if self.file else f"-  {self.missing}"


def save_logs(target: Target, found: FoundRun, folder: Path) -> list[SavedLog]:
    """Write all logs of a run below ``folder``; returns the index. Writing again replaces each file by a newer whole one."""
    saved = [*_executions(target, found, folder), *_jobs(target, found.run_id, folder), *_profiles(target, found.run_id, folder)]
    text = f"Logs of run {found.run_id}, {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}\n\n" + "".join(f"{one}\n" for one in saved)
    with _whole(folder / INDEX) as file:
        file.write(text)
    return saved


def _executions(target: Target, found: FoundRun, folder: Path) -> Iterator[SavedLog]:
    records = read_records(target.client("s3"), target.bucket, RunLayout(found.run_id))
    arns = list(dict.fromkeys([record.execution_arn for record in records] + ([found.execution_arn] if found.execution_arn else [])))
    for arn in arns:
        name = arn.rsplit(":", 1)[-1]
        execution = describe(target, arn)
        if execution is None:
            why = f"execution {name}: Step Functions has forgotten it (90 days), so its lines cannot be told from other runs'"
            yield SavedLog(what=f"execution {name}", missing=why)
            continue
        span = execution_span(execution)
        for stage in FUNCTIONS:
            group = function_group(target, stage)
            lines = of_execution(group_lines(target, group, [], functions_span(execution), lambda: True, follow=False), arn)
            yield _save(target, folder, f"{_safe(name)}/{stage}.log", lines, what=f"function {stage} in execution {name}", group=group)
        with contextlib.suppress(CommandError):  # most executions build no image
            group, streams = build_log(target, *span)
            lines = group_lines(target, group, streams, span, lambda: True, follow=False)
            yield _save(target, folder, f"{_safe(name)}/build.log", lines, what=f"image build in execution {name}", group=group)


def _jobs(target: Target, run_id: str, folder: Path) -> Iterator[SavedLog]:
    numbers: dict[str, int] = defaultdict(int)
    for job in run_jobs(target.client("sagemaker"), target.bucket, run_id, time.time()):
        place = f"{job.leg}-evaluate" if job.stage == "evaluate" else job.leg or "prepare"
        numbers[place] += 1
        yield from _job(target, job, folder, f"{_safe(place)}/attempt-{numbers[place]}")


def _job(target: Target, job: RunJob, folder: Path, place: str) -> Iterator[SavedLog]:
    """One file for each host; a host whose container was started again has several streams, and one file with both."""
    handler = stream_handler(target, GROUPS[job.kind], job.name, hosts=1)
    lines: dict[str, int] = defaultdict(int)
    what = f"{job.kind.lower()} job {job.name} ({job.status})"
    with contextlib.ExitStack() as files:
        open_files: dict[str, IO[str]] = {}
        for stream, event in handler.get_latest_log_events():
            host = _safe(host_of(stream))
            if host not in open_files:
                open_files[host] = files.enter_context(_whole(folder / place / f"{host}.log"))
            open_files[host].write(str(event["message"]).rstrip("\n") + "\n")
            lines[host] += 1
    for host, count in sorted(lines.items()):
        yield SavedLog(what=f"{what}, host {host}", file=f"{place}/{host}.log", lines=count)
    if not lines:
        yield SavedLog(what=what, missing=why_empty(target, GROUPS[job.kind], what, ended=job.status not in UNDER_WAY))


def _profiles(target: Target, run_id: str, folder: Path) -> Iterator[SavedLog]:
    for one in profiler_files(target.client("s3"), target.bucket, [RunLayout(run_id).prefix]):
        file = f"{_safe(one.leg)}/diagnostics/{_safe(one.attempt)}/{_safe(one.name)}"
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + PART)
        try:
            with part.open("wb") as content:
                target.client("s3").download_fileobj(target.bucket, one.key, content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        yield SavedLog(what=f"profiler of leg {one.leg}, attempt {one.attempt}", file=file, bytes=one.bytes)


def _save(target: Target, folder: Path, file: str, lines: Iterable[str], *, what: str, group: str) -> SavedLog:
    found = iter(lines)
    first = next(found, None)
    if first is None:
        return SavedLog(what=what, missing=why_empty(target, group, what, ended=True))
    count = 1
    with _whole(folder / file) as out:
        out.write(first + "\n")
        for line in found:
            out.write(line + "\n")
            count += 1
    return SavedLog(what=what, file=file, lines=count)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[IO[str]]:
    """A file that gets its name when everything is in it; on an error it leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    try:
        with part.open("w", encoding="utf-8", errors="replace") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _safe(name: str) -> str:
    """A name that leads out of no folder."""
    return re.sub(r"[^\w.-]+", "-", name).lstrip(".") or "unnamed"
