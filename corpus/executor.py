"""datatrove's LocalPipelineExecutor on processes that end with this one and whose death is noticed.

datatrove's own pool waits for ever for the task of a process that was killed, and leaves its processes behind when it is killed
itself. How a task runs, what it logs and when it counts as done is datatrove's (``_run_for_rank``).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any

import dill
from datatrove.executor.local import LocalPipelineExecutor
from loguru import logger

from contracts.failure import BadInput, JobFailure, Unexpected
from corpus.failure_classes import FilterFailed
from data_prep.failure_classes import DiskFull, WorkerLost
from data_prep.fork_server import keep_sockets_short

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TQDM_DISABLE": "1"}
_CONTEXT = multiprocessing.get_context("forkserver")
SHOW_SECONDS = 10.0


class Executor(LocalPipelineExecutor):
    """Runs the tasks that are not done yet."""

    def run(self, on_done: Callable[[int], None] = lambda rank: None, say: Callable[[str], None] = print, what: str = "") -> None:
        """Run every task that has no completion mark; ``on_done`` is called here, with the rank of each as it ends.

        Raises:
            JobFailure: the first failure of any task.
        """
        ranks = self.get_incomplete_ranks()
        if not ranks:
            return
        keep_sockets_short()
        for name in (ONE_THREAD | QUIET).items():
            os.environ.setdefault(*name)
        _CONTEXT.set_forkserver_preload(["corpus.pipeline"])
        payload, workers = dill.dumps(self), max(1, min(self.workers, len(ranks)))
        pool = ProcessPoolExecutor(workers, mp_context=_CONTEXT, initializer=_start)
        done, shown = self.world_size - len(ranks), time.monotonic()
        pending: dict[Future[None], int] = {}
        try:
            pending |= {pool.submit(_run, payload, rank): rank for rank in ranks}
            while pending:
                finished, _ = wait(pending, timeout=SHOW_SECONDS, return_when=FIRST_COMPLETED)
                for future in sorted(finished, key=lambda future: future.exception() is not None):  # what is done is kept first
                    rank = pending.pop(future)
                    future.result()
                    on_done(rank)
                    done += 1
                if not pending or time.monotonic() - shown >= SHOW_SECONDS:
                    shown = time.monotonic()
                    say(f"{what}: {done} of {self.world_size} tasks")
        except BrokenProcessPool:
            raise WorkerLost(
                f"a worker process of {what} exited without a message, most often because memory ran out; finished tasks are kept. "
                "If it happens again, lower data.corpus.workers or take a larger data.corpus.instance_type"
            ) from None
        finally:
            for process in multiprocessing.active_children() if pending else ():
                process.kill()
            pool.shutdown(wait=not pending, cancel_futures=True)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed job leaves no worker behind that writes beside the next one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)


def _run(payload: bytes, rank: int) -> None:
    executor: Any = dill.loads(payload)
    logger.remove()
    try:
        executor._run_for_rank(rank, local_rank=1)  # 0 would print each task's log, emoji and all, between our lines
    except JobFailure:
        raise
    except Exception as error:
        traceback.print_exc()
        raise classed(error, executor.pipeline) from None


def classed(error: Exception, pipeline: Sequence[Any]) -> JobFailure:
    """What a library's exception means for the run."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    place = getattr(pipeline[0], "last", "")
    if isinstance(error, OSError) and error.errno in (28, 122):  # ENOSPC, EDQUOT
        return DiskFull("no space left for the corpus in work; raise data.corpus.volume_size_gb or free the disk")
    if isinstance(error, ImportError):
        return BadInput(f"a step of data.corpus needs a package that the image lacks ({text})")
    if isinstance(error, MemoryError):
        return WorkerLost(f"memory ran out at {place or 'a task'}; lower data.corpus.workers or take a larger data.corpus.instance_type")
    if place and not isinstance(error, OSError):
        return FilterFailed(
            f"a step of datatrove raises on the document {place} ({text}), and would again; leave the document out of the source, or turn "
            "that step of data.corpus off"
        )
    return Unexpected(f"{text}; the log holds the traceback")
