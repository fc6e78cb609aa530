"""What runs inside a worker process: its set-up, and one function for each kind of task."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.sharedctypes import Synchronized, SynchronizedArray
from pathlib import Path
from typing import Any

from contracts.shard_index import Shard, TokenizerFacts
from data_prep.duplicate_files import BucketRepeats, PartHashes
from data_prep.duplicates import BucketTask, HashTask, compare_bucket, hash_part
from data_prep.encode import Assembler, EncoderName, HuggingFaceEncoder
from data_prep.fidelity import Fidelity
from data_prep.finalise import Packing, pack
from data_prep.fork_server import ONE_THREAD
from data_prep.gate import compare
from data_prep.part import PartContext, PartTask, run_part
from data_prep.part_record import PartRecord, Sample
from data_prep.partition import Part
from data_prep.patience import PATIENCE_SECONDS, SENTENCE_FILE, Patience, note_reading
from data_prep.preload import fast_encoder
from data_prep.source_access import open_source, open_store
from data_prep.spec import DataSpec
from data_prep.tokenizer import TokenizerFiles


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


_worker: _Worker | None = None


class _Worker:
    def __init__(self, setup: Setup, slots: SynchronizedArray[int], number: int) -> None:
        self._slots, self._number, self.spec = slots, number, setup.spec
        self.files = TokenizerFiles.read(Path(setup.tokenizer))
        self.folder = Path(tempfile.mkdtemp(prefix=f"worker-{number}-", dir=setup.scratch))
        self.patience = Patience((self.folder / SENTENCE_FILE).write_text, setup.patience_seconds)
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


def start(setup: Setup, slots: SynchronizedArray[int], claimed: Synchronized[int], workers: int) -> None:
    """Make this process a worker."""
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
    note_reading(worker.folder, part.number, ", ".join(sorted({segment.item.key for segment in part.segments})[:2]))
    return worker


def run_part_task(task: PartTask) -> tuple[PartRecord, tuple[Sample, ...]]:
    """Tokenise a part."""
    return run_part(task, _reading(task.part).context)


def run_hashing(task: HashTask) -> tuple[int, PartHashes]:
    """Hash the documents of a part."""
    worker = _reading(task.part)
    return task.part.number, hash_part(task, worker.spec, worker.context.source, worker.out, worker.folder, worker.count)


def run_bucket(task: BucketTask) -> tuple[int, BucketRepeats]:
    """Compare a bucket."""
    worker = _own()
    return task.number, compare_bucket(task, worker.out, worker.folder)


def run_packing(packing: Packing) -> tuple[str, Shard]:
    """Pack tails into a shard."""
    worker = _own()
    return packing.name, pack(packing, worker.out, worker.folder, worker.context.assembler.dtype.itemsize)


def run_gate(chunk: Any) -> Any:
    """Compare the encoders on some of the gate's texts."""
    worker = _own()
    with worker.patience.bounded("the texts that encoders are compared on", 1 << 20):
        return compare(chunk, worker.files)
