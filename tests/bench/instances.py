"""``make bench-instances``: several processing instances on one data set. Prints two tables and one JSON line.

1. Jobs as SageMaker starts them, 1, 2 and 4 beside each other on this machine: seconds, and whether every byte is equal.
2. What coordination costs from 1 to 100 instances: threads in this process, a store in memory with an answer time like S3's, and an
   encoder that does nothing. Seconds of the first instance outside of its parts, and requests.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data_prep"))

from bench_corpus import write_corpus
from data_case import every_file, job_environment, jsonl, make_texts

from contracts.config import parse, to_json
from data_prep import partition, prepare, worker_tasks, workers
from data_prep.coordination import Instances
from data_prep.duplicates import compare_bucket, hash_part
from data_prep.encode import Assembler, Encoder
from data_prep.fidelity import Fidelity
from data_prep.finalise import pack
from data_prep.fingerprint import SourceObject
from data_prep.identify import identify
from data_prep.local_store import LocalStore
from data_prep.part import PartContext, run_part
from data_prep.request import Job
from data_prep.spec import DataSpec, TokenizerTraining
from data_prep.store import Store
from data_prep.tokenizer import TokenizerFiles, train

CACHE = Path(__file__).parents[2] / ".cache/bench"
PARTS = int(os.environ.get("BENCH_PARTS", "256"))
ANSWER_SECONDS = 0.015  # of S3 for a small object, within a region
BESIDE_EACH_OTHER = (1, 2, 4)
SIMULATED = (1, 2, 5, 10, 20, 50, 100)
MEGABYTES = int(os.environ.get("BENCH_MB", "16"))


# -- real jobs -------------------------------------------------------------------------------------


def real(root: Path, tokenizer: Path) -> dict[int, float]:
    """Wall seconds by the number of instances; ends the program when bytes differ."""
    corpus = CACHE / f"corpus-{MEGABYTES}"
    write_corpus(corpus, MEGABYTES << 20)
    content = {"source": str(corpus), "tokenizer": {"uri": str(tokenizer)}, "workers_per_instance": 1, "deduplicate": "exact"}
    spec = parse(DataSpec, content)
    name, seconds, made = identify(spec).fingerprint, {}, {}
    for count in BESIDE_EACH_OTHER:
        tokens = root / f"tokens-{count}" / name
        hosts = [f"algo-{number + 1}" for number in range(count)]
        run = {"data": to_json(spec), "tokens": {"fingerprint": name, "uri": str(tokens)}}
        started = time.perf_counter()
        jobs = [_job(root / f"{count}-{host}", run, host, hosts) for host in hosts]
        said = [job.communicate(timeout=3600)[0] for job in jobs]
        seconds[count] = time.perf_counter() - started
        if any(job.returncode for job in jobs):
            raise SystemExit("\n".join(said)[-4000:])
        made[count] = every_file(tokens)
        if made[count] != made[1]:
            raise SystemExit(f"{count} instances make other bytes than one")
        shutil.rmtree(root / f"tokens-{count}")
        print(f"{count:3} instances  {seconds[count]:8.1f} s  equal bytes", flush=True)
    return seconds


def _job(base: Path, run: Any, host: str, hosts: Sequence[str]) -> subprocess.Popen[str]:
    for path, content in (("processing/input/run/run.json", run), ("config/resourceconfig.json", {"current_host": host, "hosts": hosts})):
        (base / path).parent.mkdir(parents=True)
        (base / path).write_text(json.dumps(content))
    environment = job_environment({"SAGEMAKER_BASE_DIR": str(base)})
    command = [sys.executable, "-m", "data_prep.job"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


# -- simulated instances ---------------------------------------------------------------------------


class MemoryStore(Store):
    """One instance's way to a store that all share; every request takes ANSWER_SECONDS and is counted."""

    def __init__(self, shared: LocalStore) -> None:
        self.shared, self.uri, self.requests = shared, shared.uri, 0

    def _asked(self, requests: int = 1) -> LocalStore:
        self.requests += requests
        time.sleep(ANSWER_SECONDS * requests)
        return self.shared

    def read(self, key: str) -> bytes:
        return self._asked().read(key)

    def write(self, key: str, content: bytes) -> None:
        self._asked().write(key, content)

    def put(self, path: Path, key: str) -> None:
        self._asked().put(path, key)

    def move(self, key: str, to: str) -> None:
        self._asked(3).move(key, to)

    def sizes(self, prefix: str) -> dict[str, int]:
        found = self.shared.sizes(prefix)
        self._asked(1 + len(found) // 1000)
        return found

    def delete(self, prefix: str) -> None:
        self._asked().delete(prefix)

    def exists(self, key: str) -> bool:
        return self._asked().exists(key)

    def open(self, item: SourceObject, start: int = 0) -> BinaryIO:
        return self._asked().open(item, start)

    def open_seekable(self, item: SourceObject) -> BinaryIO:
        return self.open(item)

    def get_range(self, item: SourceObject, start: int, count: int) -> bytes:
        return self._asked().get_range(item, start, count)


class OneToken(Encoder):
    """Every text becomes one token, at no cost."""

    name = "huggingface"

    def encode(self, texts: Sequence[str]) -> Any:
        """See Encoder.encode."""
        return np.full(len(texts), 5, np.uint32), np.arange(len(texts) + 1, dtype=np.int64)


class HerePool:
    """Does the workers' tasks in the calling thread, and keeps the seconds that they take."""

    def __init__(self, job: Job, files: TokenizerFiles, known: Any) -> None:
        self.job, self.seconds = job, 0.0
        self.context = PartContext(
            spec=job.spec, source=job.source, out=job.out, encoder=OneToken(), assembler=Assembler(known),
            fidelity=Fidelity(files, known, proven=True), folder=job.scratch / "work",
        )  # fmt: skip

    def __enter__(self) -> HerePool:
        return self

    def __exit__(self, *ignored: object) -> None:
        pass

    def counts(self) -> Any:
        return workers.Counts()

    def _each(self, function: Callable[[Any], Any], items: Iterable[Any], on_wait: Callable[[], None]) -> Iterator[Any]:
        for item in items:
            started = time.perf_counter()
            found = function(item)
            self.seconds += time.perf_counter() - started
            yield found
            on_wait()

    def parts(self, parts: Any, on_wait: Any) -> Any:
        return self._each(lambda task: run_part(task, self.context), parts, on_wait)

    def hashes(self, parts: Any, on_wait: Any) -> Any:
        def hashed(task: Any) -> Any:
            return task.part.number, hash_part(
                task, self.job.spec, self.job.source, self.job.out, self.context.folder, self.context.progress
            )

        return self._each(hashed, parts, on_wait)

    def buckets(self, buckets: Any, on_wait: Any) -> Any:
        return self._each(lambda task: (task.number, compare_bucket(task, self.job.out, self.context.folder)), buckets, on_wait)

    def packings(self, packings: Any, on_wait: Any) -> Any:
        size = self.context.assembler.dtype.itemsize
        return self._each(lambda packing: (packing.name, pack(packing, self.job.out, self.context.folder, size)), packings, on_wait)


def simulated(root: Path, tokenizer: Path, count: int, deduplicate: str) -> dict[str, Any]:
    """Coordination of ``count`` instances over the same parts."""
    source, shared = root / "source", LocalStore(root / f"{deduplicate}-{count}")
    content = {"source": str(source), "tokenizer": {"uri": str(tokenizer)}, "encoder": "huggingface", "deduplicate": deduplicate}
    spec = parse(DataSpec, content)
    found = identify(spec)
    stores = [MemoryStore(shared) for _ in range(count)]
    pools: dict[int, HerePool] = {}
    failed: list[BaseException] = []
    ended: dict[int, float] = {}

    def instance(number: int) -> None:
        scratch = root / f"scratch-{deduplicate}-{count}-{number}"
        scratch.mkdir(parents=True)
        job = Job(
            spec=spec, listing=found.listing, fingerprint=found.fingerprint, source=LocalStore(source), out=stores[number],
            gates=LocalStore(root / "gates"), scratch=scratch, workers=1, instances=Instances(number=number, count=count),
            say=lambda sentence: None,
        )  # fmt: skip
        try:
            local.job = job
            prepare.prepare(job)
        except BaseException as error:
            failed.append(error)
        pools[number] = local.pool
        ended[number] = time.perf_counter() - started

    started = time.perf_counter()
    threads = [threading.Thread(target=instance, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    requests = [store.requests for store in stores]
    return {
        "instances": count,
        "deduplicate": deduplicate,
        "seconds": round(ended[0], 1),
        "coordination_s": round(ended[0] - pools[0].seconds, 1),
        "requests_first": requests[0],
        "requests_other": max(requests[1:], default=0),
        "requests_all": sum(requests),
        "files": {name: content for name, content in every_file(shared.root).items() if name != "card.html"},
    }


local = threading.local()


def here(setup: worker_tasks.Setup, count: int, tasks: int) -> HerePool:
    """In the place of a pool of processes."""
    local.pool = HerePool(local.job, TokenizerFiles.read(Path(setup.tokenizer)), setup.facts)
    return local.pool


def coordination(root: Path, tokenizer: Path) -> list[dict[str, Any]]:
    """The second table; ends the program when bytes differ."""
    partition.MIN_PART_TEXT, partition.PARTS = 1, 1 << 30  # each of these files, which cannot be cut, is a part
    (root / "source").mkdir()
    for number in range(PARTS):
        (root / f"source/{number:05d}.jsonl.gz").write_bytes(gzip.compress(jsonl(make_texts(4, number) + make_texts(1, 0))))
    prepare.WorkerPool = here  # type: ignore[assignment, misc]
    print(f"\n{PARTS} parts without encoding, {ANSWER_SECONDS * 1000:.0f} ms a request; load {os.getloadavg()[0]:.1f}")
    print(f"{'instances':>10}{'':>8}{'seconds':>10}{'coordination s':>16}{'requests: first':>17}{'another':>9}{'all':>8}")
    rows: list[dict[str, Any]] = []
    for deduplicate in ("none", "exact"):
        made: dict[str, bytes] = {}
        for count in SIMULATED:
            with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):  # every instance's progress
                row = simulated(root, tokenizer, count, deduplicate)
            files = row.pop("files")
            made = made or files
            if files != made:
                raise SystemExit(f"{count} instances make other bytes than one")
            rows.append(row)
            figures = f"{row['seconds']:>10.1f}{row['coordination_s']:>16.1f}{row['requests_first']:>17,}{row['requests_other']:>9,}"
            print(f"{count:>10}{deduplicate:>8}{figures}{row['requests_all']:>8,}", flush=True)
    return rows


def main() -> None:
    """Measure, print the tables and the JSON line."""
    CACHE.mkdir(parents=True, exist_ok=True)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk's fsync is not what is measured
    with tempfile.TemporaryDirectory(dir=CACHE) as on_disk, tempfile.TemporaryDirectory(dir=memory) as in_memory:
        tokenizer = Path(on_disk) / "tokenizer"
        tokenizer.mkdir()
        for name, content in train(make_texts(400), TokenizerTraining(vocab_size=600)).named():
            (tokenizer / name).write_bytes(content)
        print(f"jobs beside each other on this machine, {MEGABYTES} MB of text, exact de-duplication; load {os.getloadavg()[0]:.1f}")
        seconds = {count: round(wall, 1) for count, wall in real(Path(on_disk), tokenizer).items()}
        rows = coordination(Path(in_memory), tokenizer)
    print(json.dumps({"bench": "instances", "equal": True, "parts": PARTS, "real_s": seconds, "rows": rows}))


if __name__ == "__main__":
    main()
