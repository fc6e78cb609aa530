"""The evaluation container's entry: the export of a leg on held-out text and tasks, and one sentence when it fails.

python -m training.evaluation.job                          a SageMaker training job; everything comes from /opt/ml
python -m training.evaluation.job --check [--device cuda]  smoke test of an image: what is installed, as one JSON line

With several GPUs that each hold the export it starts one process for each (torchrun), which share the samples; a larger
export is spread over the GPUs of one process.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence

from contracts.failure import JobFailure, Unexpected, write_failure
from training.child_process import die_with_parent
from training.cuda_driver import compat_environment
from training.evaluation.evaluation_job import EvaluationJob, read_job
from training.evaluation.spec import WEIGHTS_SHARE
from training.evaluation.tasks import OFFLINE
from training.failure_classes import DeviceFault, OutOfMemory, Preempted


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; 0 when everything was measured."""
    arguments = _parser().parse_args(argv)
    os.environ.update(OFFLINE)
    if arguments.check:
        from training.evaluation.smoke import smoke_test

        return smoke_test(arguments.device)
    signal.signal(signal.SIGTERM, _stopped)
    # `datasets` caches by a relative path's name, so another run's data set of the same name must never be found.
    cache = tempfile.TemporaryDirectory(prefix="hugging-face-", ignore_cleanup_errors=True)
    os.environ["HF_HOME"] = cache.name
    try:
        job = read_job()
        processes = 1 if "LOCAL_RANK" in os.environ else _processes(job)
        if processes > 1:
            return _run_ranks(processes)
        _evaluate(job)
    except JobFailure as failure:
        return _fail(failure)
    except Exception as error:
        traceback.print_exc()
        return _fail(Unexpected(f"{type(error).__name__}: {error}"))
    finally:
        cache.cleanup()
    return 0


def _stopped(number: int, frame: object) -> None:
    raise Preempted("the evaluation was stopped; what it had measured is kept")


def _evaluate(job: EvaluationJob) -> None:
    import torch

    from training.evaluation.evaluate import evaluate

    try:
        evaluate(job)
    except torch.cuda.OutOfMemoryError as error:
        fix = f"lower evaluation.batch_size ({job.spec.batch_size}), or choose an evaluation.instance_type with larger GPUs"
        raise OutOfMemory(f"a GPU ran out of memory ({str(error)[:200]}); {fix}") from error


def _processes(job: EvaluationJob) -> int:
    """One for each GPU when each holds the export, else one."""
    if job.training.device != "cuda":
        return 1
    import torch

    if not torch.cuda.is_available():
        raise DeviceFault("this host shows no GPU, and the leg's device is cuda; evaluation.instance_type needs GPUs")
    weights = sum(path.stat().st_size for path in job.model.glob("*.safetensors"))
    fits = weights < WEIGHTS_SHARE * torch.cuda.get_device_properties(0).total_memory
    return torch.cuda.device_count() if fits else 1


def _run_ranks(processes: int) -> int:
    """torchrun on this host; a rank that fails leaves the sentence itself."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
        "-m",
        "training.evaluation.job",
    ]
    ranks = subprocess.Popen(command, env={**os.environ, **compat_environment(os.environ)}, preexec_fn=die_with_parent)
    signal.signal(signal.SIGTERM, lambda number, frame: ranks.terminate())
    return ranks.wait()


def _fail(failure: JobFailure) -> int:
    write_failure(failure)
    print(failure, file=sys.stderr, flush=True)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluation.job", description="Evaluate one leg under SageMaker's container contract."
    )
    parser.add_argument("--check", action="store_true", help="say what this image holds, and stop")
    device = os.environ.get("DEVICE", "cpu")
    parser.add_argument("--device", choices=("cuda", "cpu"), default=device, help="what --check expects (default: $DEVICE, else cpu)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
