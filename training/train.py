"""One rank of a training job; torchrun starts it: ``python -m torch.distributed.run ... -m training.train``."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback

from training.leg_job import LegJob, read_job
from training.rank_notes import classify, leave_failure

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Train the leg; on failure leave this rank's sentence and return 1."""
    _die_with_parent()
    job = read_job()
    try:
        _train(job)
    except BaseException as error:
        leave_failure(classify(error))
        traceback.print_exc()
        return 1
    return 0


def _train(job: LegJob) -> None:
    if job.spec.device == "cpu":
        from training.cpu_device import select_cpu

        select_cpu()  # before anything else of torchtitan is imported
    from training.leg import train_leg

    train_leg(job)


def _die_with_parent() -> None:
    """Linux ends this process when torchrun ends, however that ends: no rank outlives its job."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: after a failure, threads of gloo and of a checkpoint in flight would keep the process from ending.
    os._exit(code)
