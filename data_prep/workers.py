"""The worker processes of one instance: one per core, one part at a time, without state that a kill could lose.

They are forked from a server process (multiprocessing's forkserver) that has loaded the encoder: its tables, 180 MB and more
than a second for Llama 3's vocabulary, are made once and lie in memory once, however many workers there are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection, forkserver, util
from multiprocessing.sharedctypes import Synchronized, SynchronizedArray
from pathlib import Path
from typing import Any, TypeVar

from contracts.shard_index import Shard, TokenizerFacts
from data_prep.decompress import WINDOW_BYTES
from data_prep.duplicate_files import BucketRepeats, PartHashes
from data_prep.duplicates import SORTING_MIB, BucketTask, HashTask, compare_bucket, hash_part
from data_prep.encode import Assembler, EncoderName, HuggingFaceEncoder
from data_prep.failure_classes import TokenizerUnusable, WorkerLost
from data_prep.fidelity import Fidelity
from data_prep.finalise import Packing, pack
from data_prep.gate import compare
from data_prep.part import PartContext, PartTask, run_part
from data_prep.part_record import PartRecord, Sample
from data_prep.partition import Part
from data_prep.patience import PATIENCE_SECONDS, Patience, ended, last_read, note_reading
from data_prep.preload import FOLDER_VARIABLE, fast_encoder
from data_prep.progress import Counts
from data_prep.source_access import open_source, open_store
from data_prep.sources import Compression
from data_prep.spec import DataSpec
from data_prep.tokenizer import TokenizerFiles

T = TypeVar("T")
POLL_SECONDS = 0.2
LONGEST_TMPDIR = 107 - len("/pymp-12345678/listener-12345678")
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OPENBLAS_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
_CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything a worker needs, as values that travel to another process."""

    spec: DataSpec
    source_uri: str
    out_uri: str
    tokenizer: str
    """Local folder of the tokenizer's files."""
    facts: TokenizerFacts
    encoder: EncoderName
    lossless: bool = False
    """Proven from the tokenizer's definition; else every document is decoded and compared."""
    patience_seconds: float = PATIENCE_SECONDS
    """What one call into a tokenizer may take beside the time for its text."""
    scratch: str
    """Local folder under which each worker makes its own."""


def start_server(tokenizer: Path) -> None:
    """Start the process that workers are forked from, while this one goes on; one per process, later calls change nothing.

    Args:
        tokenizer: local folder of the tokenizer's files. Workers of another tokenizer load their own.
    """
    _keep_sockets_short()
    given = {FOLDER_VARIABLE: str(tokenizer), **ONE_THREAD}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        _CONTEXT.set_forkserver_preload(["data_prep.preload", "data_prep.workers"])
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _keep_sockets_short() -> None:
    """The server's socket lies in a folder of its own below TMPDIR, and a socket's path has 107 bytes at most (unix(7))."""
    if len(tempfile.gettempdir()) <= LONGEST_TMPDIR:
        return
    before, tempfile.tempdir = tempfile.tempdir, "/tmp"
    try:
        util.get_temp_dir()  # made once per process, and removed at its end
    finally:
        tempfile.tempdir = before


def memory_bound_mib(spec: DataSpec, files: TokenizerFiles, compressions: Collection[Compression] = ()) -> int:
    """What one worker holds at most, whatever the size of a file or document.

    Python and libraries, the encoder's tables (measured: 20 bytes per byte of tokenizer.json; fastokens' are shared by all
    workers), a line in its few forms (bytes as read, joined and cut out, text at up to four bytes a character), a document
    likewise, batches and uploads; the window of zstd or xz where the source is compressed so.
    """
    sorting = SORTING_MIB if spec.deduplicate == "exact" else 0
    window = WINDOW_BYTES >> 20 if {"zst", "xz"} & set(compressions) else 0
    return 128 + window + sorting + (20 * len(files.tokenizer) + 8 * spec.max_line_bytes + 8 * spec.max_document_bytes) // (1 << 20)


class WorkerPool:
    """Runs parts, packings and gate texts on ``workers`` processes; use as a context manager."""

    def __init__(self, setup: Setup, workers: int, tasks: int) -> None:
        workers = max(1, min(workers, tasks))
        start_server(Path(setup.tokenizer))
        self._scratch = Path(setup.scratch)
        self._slots: SynchronizedArray[int] = _CONTEXT.Array("q", 3 * workers)
        claimed: Synchronized[int] = _CONTEXT.Value("i", 0)
        arguments = (setup, self._slots, claimed, workers)
        self._pool = ProcessPoolExecutor(workers, mp_context=_CONTEXT, initializer=_start, initargs=arguments)

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
        return self._run(_run_part, parts, on_wait)

    def hashes(self, parts: Iterable[HashTask], on_wait: Callable[[], None]) -> Iterator[tuple[int, PartHashes]]:
        """Hash the documents of parts; by the part's number, as they finish."""
        return self._run(_run_hashing, parts, on_wait)

    def buckets(self, buckets: Iterable[BucketTask], on_wait: Callable[[], None]) -> Iterator[tuple[int, BucketRepeats]]:
        """Compare buckets; by the bucket's number, as they finish."""
        return self._run(_run_bucket, buckets, on_wait)

    def packings(self, packings: Iterable[Packing], on_wait: Callable[[], None]) -> Iterator[tuple[str, Shard]]:
        """Pack tails; (name, shard) as they finish."""
        return self._run(_run_packing, packings, on_wait)

    def gate(self, chunks: Iterable[Any], on_wait: Callable[[], None]) -> Iterator[Any]:
        """Compare the encoders on chunks of the gate's texts; the first difference of each, or None."""
        return self._run(_run_gate, chunks, on_wait)

    def _run(self, function: Callable[[Any], T], items: Iterable[Any], on_wait: Callable[[], None]) -> Iterator[T]:
        try:
            pending: set[Future[T]] = {self._pool.submit(function, item) for item in items}
            while pending:
                done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in sorted(
                    done, key=lambda future: future.exception() is not None
                ):  # what is finished is kept, then a failure raised
                    yield future.result()
                on_wait()
        except BrokenProcessPool:
            sentence = ended(self._scratch)
            if sentence is not None:
                raise TokenizerUnusable(sentence) from None
            reading = last_read(self._scratch)
            raise WorkerLost(
                f"a worker process (they were reading {reading or 'nothing yet'}) exited without a message, "
                "most often because memory ran out; finished parts are kept. "
                "If it happens again with the same object, that one is damaged: leave it out with data.include; "
                "else lower data.workers_per_instance or take a larger data.instance_type"
            ) from None


_worker: _Worker | None = None


class _Worker:
    def __init__(self, setup: Setup, slots: SynchronizedArray[int], number: int) -> None:
        self._slots, self._number, self.spec = slots, number, setup.spec
        self.files = TokenizerFiles.read(Path(setup.tokenizer))
        self.folder = Path(tempfile.mkdtemp(prefix=f"worker-{number}-", dir=setup.scratch))
        self.patience = Patience(self.folder, setup.patience_seconds)
        self.out = open_store(setup.out_uri)
        self.context = PartContext(
            spec=setup.spec,
            source=open_source(setup.source_uri),
            out=self.out,
            encoder=fast_encoder(self.files) if setup.encoder == "fastokens" else HuggingFaceEncoder(self.files),
            assembler=Assembler(setup.facts),
            fidelity=Fidelity(self.files, setup.facts, proven=setup.lossless),
            folder=self.folder,
            bounded=self.patience.bounded,
            progress=self.count,
        )

    def count(self, stored: int, documents: int, tokens: int) -> None:
        base = 3 * self._number
        raw: Any = self._slots.get_obj()  # only this process writes these three
        raw[base] += stored
        raw[base + 1] += documents
        raw[base + 2] += tokens


def _start(setup: Setup, slots: SynchronizedArray[int], claimed: Synchronized[int], workers: int) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(ONE_THREAD)  # one process per core, one thread each
    with claimed.get_lock():
        number = claimed.value
        claimed.value += 1
    _worker = _Worker(setup, slots, number % workers)


def _end_with_parent() -> None:
    """A killed job leaves no worker behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)


def _own() -> _Worker:
    if _worker is None:
        raise RuntimeError("not a worker process")
    return _worker


def _reading(part: Part) -> _Worker:
    worker = _own()
    note_reading(worker.folder, ", ".join(sorted({segment.item.key for segment in part.segments})[:2]))
    return worker


def _run_part(task: PartTask) -> tuple[PartRecord, tuple[Sample, ...]]:
    return run_part(task, _reading(task.part).context)


def _run_hashing(task: HashTask) -> tuple[int, PartHashes]:
    worker = _reading(task.part)
    return task.part.number, hash_part(task, worker.spec, worker.context.source, worker.out, worker.folder, worker.count)


def _run_bucket(task: BucketTask) -> tuple[int, BucketRepeats]:
    worker = _own()
    return task.number, compare_bucket(task, worker.out, worker.folder)


def _run_packing(packing: Packing) -> tuple[str, Shard]:
    worker = _own()
    return packing.name, pack(packing, worker.out, worker.folder, worker.context.assembler.dtype.itemsize)


def _run_gate(chunk: Any) -> Any:
    worker = _own()
    with worker.patience.bounded("the texts that encoders are compared on", 1 << 20):
        return compare(chunk, worker.files)
