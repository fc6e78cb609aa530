"""The worker processes of one instance: one per core, one part at a time, without state that a kill could lose.

They are forked from a server process (multiprocessing's forkserver) that has loaded the encoder: its tables, 180 MB and more
than a second for Llama 3's vocabulary, are made once and lie in memory once, however many workers there are.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import Synchronized, SynchronizedArray
from pathlib import Path
from typing import Any, TypeVar

from contracts.shard_index import Shard
from data_prep.declared_sizes import MOST_BYTES
from data_prep.decompress import WINDOW_BYTES
from data_prep.duplicate_files import BucketRepeats, PartHashes
from data_prep.duplicates import SORTING_MIB, BucketTask, HashTask
from data_prep.failure_classes import CorruptSource, TokenizerUnusable, WorkerLost
from data_prep.finalise import Packing
from data_prep.fork_server import start_server
from data_prep.part import PartTask
from data_prep.part_record import PartRecord, Sample
from data_prep.patience import ended, last_read
from data_prep.progress import Counts
from data_prep.sources import Compression, Kind
from data_prep.spec import DataSpec
from data_prep.tokenizer import TokenizerFiles
from data_prep.worker_tasks import Setup, run_bucket, run_gate, run_hashing, run_packing, run_part_task, start

T = TypeVar("T")
POLL_SECONDS = 0.2
ENDING_SECONDS = 10.0
CRASHES = frozenset({-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE})
"""How a library's own defect ends a process. SIGKILL is the kernel's, for memory: another attempt may have more."""
_CONTEXT = multiprocessing.get_context("forkserver")


def memory_bound_mib(
    spec: DataSpec, files: TokenizerFiles, compressions: Collection[Compression] = (), kinds: Collection[Kind] = ()
) -> int:
    """What one worker holds at most, whatever the size of a file or document.

    Python and libraries, the encoder's tables (measured: 20 bytes per byte of tokenizer.json; fastokens' are shared by all
    workers), a line in its few forms (bytes as read, joined and cut out, text at up to four bytes a character), a document
    likewise, batches and uploads; the window of zstd or xz where the source is compressed so; a page or
    batch of parquet or Arrow, as stored and as texts.
    """
    sorting = SORTING_MIB if spec.deduplicate == "exact" else 0
    window = WINDOW_BYTES >> 20 if {"zst", "xz"} & set(compressions) else 0
    pages = 2 * MOST_BYTES >> 20 if {"parquet", "arrow"} & set(kinds) else 0
    return 128 + window + sorting + pages + (20 * len(files.tokenizer) + 8 * spec.max_line_bytes + 8 * spec.max_document_bytes) // (1 << 20)


class WorkerPool:
    """Runs parts, packings and gate texts on ``workers`` processes; use as a context manager."""

    def __init__(self, setup: Setup, workers: int, tasks: int) -> None:
        workers = max(1, min(workers, tasks))
        start_server(Path(setup.tokenizer))
        self._scratch = Path(setup.scratch)
        self._slots: SynchronizedArray[int] = _CONTEXT.Array("q", 3 * workers)
        claimed: Synchronized[int] = _CONTEXT.Value("i", 0)
        self._arguments, self._source_uri = (setup, self._slots, claimed, workers), setup.source_uri
        self._pool = ProcessPoolExecutor(workers, mp_context=_CONTEXT, initializer=start, initargs=self._arguments)

    def __enter__(self) -> WorkerPool:
        """The pool itself; processes start with the first task."""
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """End the processes; after an error without finishing what they do."""
        processes = list((getattr(self._pool, "_processes", None) or {}).values())
        self._pool.shutdown(wait=error is None, cancel_futures=True)
        if error is not None:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()

    def counts(self) -> Counts:
        """What the workers have done so far."""
        values: list[int] = self._slots[:]
        return Counts(sum(values[0::3]), sum(values[1::3]), sum(values[2::3]))

    def parts(self, parts: Iterable[PartTask], on_wait: Callable[[], None]) -> Iterator[tuple[PartRecord, tuple[Sample, ...]]]:
        """Run parts; results come as they finish. ``on_wait`` is called several times a second.

        Raises:
            JobFailure: the first failure of any part.
            WorkerLost: a process was killed.
        """
        return self._run(run_part_task, parts, on_wait)

    def hashes(self, parts: Iterable[HashTask], on_wait: Callable[[], None]) -> Iterator[tuple[int, PartHashes]]:
        """Hash the documents of parts; by the part's number, as they finish."""
        return self._run(run_hashing, parts, on_wait)

    def buckets(self, buckets: Iterable[BucketTask], on_wait: Callable[[], None]) -> Iterator[tuple[int, BucketRepeats]]:
        """Compare buckets; by the bucket's number, as they finish."""
        return self._run(run_bucket, buckets, on_wait)

    def packings(self, packings: Iterable[Packing], on_wait: Callable[[], None]) -> Iterator[tuple[str, Shard]]:
        """Pack tails; (name, shard) as they finish."""
        return self._run(run_packing, packings, on_wait)

    def gate(self, chunks: Iterable[Any], on_wait: Callable[[], None]) -> Iterator[Any]:
        """Compare the encoders on chunks of the gate's texts; the first difference of each, or None."""
        return self._run(run_gate, chunks, on_wait)

    def _run(self, function: Callable[[Any], T], items: Iterable[Any], on_wait: Callable[[], None]) -> Iterator[T]:
        items = list(items)
        try:
            yield from _results(self._pool, function, items, on_wait)
        except BrokenProcessPool:
            sentence = ended(self._scratch)
            if sentence is not None:
                raise TokenizerUnusable(sentence) from None
            self._require_no_repetition(function, items, on_wait)
            objects = ", ".join(sorted({reading.objects for reading in last_read(self._scratch)}))
            raise WorkerLost(
                f"a worker process (they were reading {objects or 'nothing yet'}) exited without a message, "
                "most often because memory ran out; finished parts are kept. "
                "If it happens again, lower data.workers_per_instance or take a larger data.instance_type"
            ) from None

    def _require_no_repetition(self, function: Callable[[Any], Any], items: list[Any], on_wait: Callable[[], None]) -> None:
        """Run each part that a process crashed on once more, alone in a fresh process.

        Raises:
            CorruptSource: it crashed again, so that another attempt would as well.
        """
        crashed = {process.pid for process in self._ended_processes() if process.exitcode in CRASHES}
        for reading in last_read(self._scratch):
            again = [item for item in items if isinstance(item, PartTask | HashTask) and item.part.number == reading.part]
            if reading.pid not in crashed or not again:
                continue
            alone = ProcessPoolExecutor(1, mp_context=_CONTEXT, initializer=start, initargs=self._arguments)
            try:
                for _ in _results(alone, function, again, on_wait):
                    pass
            except BrokenProcessPool:
                raise CorruptSource(
                    f"a library crashed twice while it read {reading.objects} under {self._source_uri}, the second time with nothing "
                    "beside it; the file is damaged in a way that the library does not notice: write it again, "
                    "or leave it out with data.include"
                ) from None
            finally:
                alone.shutdown(cancel_futures=True)

    def _ended_processes(self) -> list[Any]:
        processes = list((getattr(self._pool, "_processes", None) or {}).values())
        for process in processes:
            process.join(ENDING_SECONDS)
        return processes


def _results(pool: ProcessPoolExecutor, function: Callable[[Any], T], items: list[Any], on_wait: Callable[[], None]) -> Iterator[T]:
    pending: set[Future[T]] = {pool.submit(function, item) for item in items}
    while pending:
        done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=lambda future: future.exception() is not None):  # what is finished is kept, then a failure raised
            yield future.result()
        on_wait()
