"""One rank of a training job; torchrun starts it: ``python -m torch.distributed.run ... -m training.train``."""

from __future__ import annotations

import os
import sys
import traceback

from training.child_process import die_with_parent
from training.leg_job import LegJob, read_job
from training.rank_notes import classify, leave_failure, record_crashes


def main() -> int:
    """Train the leg; on failure leave this rank's sentence and return 1."""
    die_with_parent()  # torchrun: no rank outlives its job
    job = read_job()
    record_crashes(job.rank_notes)  # such as SIGBUS, which ends Python without an exception
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


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: after a failure, threads of gloo and of a checkpoint in flight would keep the process from ending.
    os._exit(code)
