"""The training container's entry: ``python -m training.job``. Checks, torchrun, and one sentence when it fails.

python -m training.job                          a SageMaker training job; everything comes from /opt/ml
python -m training.job --check [--device cuda]  smoke test of an image: what is installed, as one JSON line
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence

from contracts.failure import write_failure
from training.checks import check_job
from training.child_process import die_with_parent
from training.cluster import network_environment, torchrun_arguments
from training.compile_cache import cache_folder, compiled_is_kept, restore
from training.cuda_driver import compat_environment
from training.failure_classes import JobFailure, Preempted, Unexpected
from training.leg_job import STOP_FILE, STOP_SECONDS, LegJob, read_job
from training.node_health import node_checked
from training.rank_notes import cause, read_crash, read_notes
from training.smoke import smoke_test
from training.startup import Startup

CUDA_ENVIRONMENT = {
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",  # as torchtitan's own launcher, run_train.sh: less memory lost to fragments
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
}
"""The ranks' defaults on GPUs; what the container's environment says goes before."""

STOPPED_EARLY = "stopped on request before training began"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; 0 when the leg is finished."""
    arguments = _parser().parse_args(argv)
    if arguments.check:
        return smoke_test(arguments.device)
    signal.signal(signal.SIGTERM, _stopped_early)  # without a handler a container's first process would not notice
    try:
        run_job(read_job())
    except JobFailure as failure:
        return _fail(failure)
    except Exception as error:
        traceback.print_exc()
        return _fail(Unexpected(f"{type(error).__name__}: {error}"))
    return 0


def _stopped_early(number: int, frame: object) -> None:
    raise Preempted(STOPPED_EARLY)


def run_job(job: LegJob) -> None:
    """Check, train, wait.

    Raises:
        JobFailure: why the leg is not finished.
    """
    spec = job.spec
    shutil.rmtree(job.rank_notes, ignore_errors=True)
    job.rank_notes.mkdir(parents=True)
    startup = Startup(job.rank_notes)
    startup.begin()
    with node_checked(job):
        check_job(job)
    startup.end("checks")
    if compiled_is_kept(spec):
        if job.checkpoint.is_dir():
            print(f"torch.compile's cache: {restore(job)}", flush=True)
        startup.end("compile_cache")
    print(
        f"Leg {job.leg} of run {job.run_id}, attempt {job.attempt}: {job.steps} steps of {job.tokens_per_step} tokens "
        f"on {job.cluster.size} x {spec.processes_per_host} {spec.device} ranks",
        flush=True,
    )
    modules = ["training.train"]
    if job.cluster.size > 1 and spec.device == "cuda":
        modules.insert(0, "training.fabric")
    for module in modules:
        code = _run_ranks(job, module)
        notes = read_notes(job.rank_notes)
        if (job.rank_notes / STOP_FILE).exists() and not notes:
            if module != modules[-1]:
                raise Preempted(STOPPED_EARLY)
            if code != 0:
                raise Preempted(f"stopped on request, and ended before a step and its checkpoint were done ({STOP_SECONDS:.0f} s at most)")
        if code == 0 and module != modules[-1]:
            startup.end("fabric")
        if code != 0:
            crash = read_crash(job.rank_notes)
            if crash is not None:
                print("".join(path.read_text() for path in sorted(job.rank_notes.glob("rank-*.crash"))), file=sys.stderr, flush=True)
            raise cause(notes, job.cluster.current_host, crash)


def rank_command(job: LegJob, module: str = "training.train") -> list[str]:
    """torchrun on this host, as arguments."""
    rendezvous = torchrun_arguments(job.cluster, job.spec.processes_per_host, job.key)
    return [sys.executable, "-m", "torch.distributed.run", *rendezvous, "-m", module]


def rank_environment(job: LegJob) -> dict[str, str]:
    """The ranks' environment: this process's, with the network of the hosts and one CPU thread per core and rank."""
    cores = len(os.sched_getaffinity(0))
    threads = max(1, cores // job.spec.processes_per_host) if job.spec.device == "cpu" else 1
    settings = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1", **network_environment(job.cluster, job.spec.device)}
    if compiled_is_kept(job.spec):
        settings["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder(job))  # Triton's lies below it
    if job.spec.device != "cuda":
        return {**os.environ, **settings}
    return {**CUDA_ENVIRONMENT, **os.environ, **settings, **compat_environment(os.environ)}


def _run_ranks(job: LegJob, module: str) -> int:
    """Start torchrun in its own session and wait for it.

    SIGTERM becomes a stop file that the ranks look at between steps. torchrun itself would give them 30 seconds and
    then kill them; a final checkpoint may take longer, and has STOP_SECONDS.
    """
    process = subprocess.Popen(rank_command(job, module), env=rank_environment(job), start_new_session=True, preexec_fn=die_with_parent)
    deadline = float("inf")

    def stop(number: int, frame: object) -> None:
        nonlocal deadline
        (job.rank_notes / STOP_FILE).touch()
        deadline = time.monotonic() + STOP_SECONDS
        os.write(2, b"Stop requested: a final checkpoint follows the running step\n")

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        while (code := _poll(process)) is None:
            if time.monotonic() > deadline:
                _kill_session(process)
        return code
    finally:
        signal.signal(signal.SIGTERM, previous)
        _kill_session(process)


def _poll(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        return None


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """End torchrun and every rank; nothing outlives the job."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _fail(failure: JobFailure) -> int:
    write_failure(failure)
    print(failure, file=sys.stderr, flush=True)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.job", description="Train one leg under SageMaker's container contract.")
    parser.add_argument("--check", action="store_true", help="say what this image holds, and stop")
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default=os.environ.get("DEVICE", "cpu"),
        help="what --check expects (default: $DEVICE, else cpu)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
