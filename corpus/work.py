"""The work folder, and what of it is kept in the destination: a job that starts on an empty disk goes on from there.

    .work/request.json                     fingerprint of the corpus in work; anything else there is of that corpus
    .work/clean/00012.jsonl.zst            a finished task of the long step: documents that the filters left
    .work/signatures/bucket_003/00012...   and their MinHash signatures
    .work/logs/clean/stats/00012.json      and its counts
    .work/logs/clean/completions/00012     last: the task is done

A local destination's ``.work/`` is the work folder itself. The steps after the long one take minutes and are done again.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from contracts.corpus_card import DOCUMENTS_PREFIX
from contracts.failure import BadInput
from corpus.pipeline import CLEAN, SIGNATURES
from corpus.request import CorpusJob
from data_prep.fingerprint import SourceObject
from data_prep.local_store import LocalStore
from data_prep.store import disk_errors

WORK_PREFIX = ".work/"
REQUEST = "request.json"
STATS = "logs/{stage}/stats"
COMPLETIONS = "logs/{stage}/completions"
TRANSFERS = 8  # at a time: many small objects


class Work:
    """This job's work folder."""

    def __init__(self, job: CorpusJob) -> None:
        self.job, self.folder = job, job.work
        self.remote = not isinstance(job.out, LocalStore)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """The folder, for this process alone, with nothing in it or in the destination of another corpus."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise BadInput(f"another process works in {self.folder}; wait for it, or choose another folder") from None
            self._begin()
            yield

    def _begin(self) -> None:
        out, wanted = self.job.out, {"fingerprint": self.job.fingerprint}
        try:
            found = json.loads(out.read(WORK_PREFIX + REQUEST))
        except (FileNotFoundError, ValueError):
            found = None
        if found == wanted:
            if self.remote:
                self._restore()
            return
        if found is None and out.sizes(DOCUMENTS_PREFIX):
            raise BadInput(f"{out.uri}/{DOCUMENTS_PREFIX} holds files that no corpus preparation began; choose another destination")
        if found is not None:
            self.job.say("an unfinished corpus of other settings or another source is there; it is removed")
        if self.remote:
            out.delete(WORK_PREFIX)
        for path in self.folder.iterdir():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        out.delete(DOCUMENTS_PREFIX)
        out.write(WORK_PREFIX + REQUEST, json.dumps(wanted).encode())

    def _restore(self) -> None:
        """Bring finished tasks' files."""
        held = self.job.out.sizes(WORK_PREFIX)
        done = f"{WORK_PREFIX}{COMPLETIONS.format(stage=CLEAN)}/"
        ranks = {key.rpartition("/")[2] for key in held if key.startswith(done)}
        keys = [key for key in held if key.rpartition("/")[2].partition(".")[0] in ranks]
        with ThreadPoolExecutor(TRANSFERS) as threads:
            list(
                threads.map(
                    self._bring, [key for key in keys if not key.startswith(done)], [held[key] for key in keys if not key.startswith(done)]
                )
            )
        for rank in ranks:
            mark = self.folder / COMPLETIONS.format(stage=CLEAN) / rank
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        if ranks:
            self.job.say(f"{len(ranks)} tasks were finished by an earlier attempt")

    def _bring(self, key: str, size: int) -> None:
        path = self.folder / key.removeprefix(WORK_PREFIX)
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            disk_errors(str(path), "raise data.corpus.volume_size_gb"),
            self.job.out.open(SourceObject(key, size, "")) as source,
            path.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, 1 << 20)

    def keep(self, rank: int) -> None:
        """A finished task of the long step: its files, then its completion mark."""
        if not self.remote:
            return
        name = f"{rank:05d}"
        files = [
            path
            for path in (self.folder / CLEAN / f"{name}.jsonl.zst", self.folder / STATS.format(stage=CLEAN) / f"{name}.json")
            if path.exists()
        ]
        files += sorted((self.folder / SIGNATURES).glob(f"*/{name}.minhash.sig"))
        with ThreadPoolExecutor(TRANSFERS) as threads:
            list(threads.map(self._send, files))
        self.job.out.write(f"{WORK_PREFIX}{COMPLETIONS.format(stage=CLEAN)}/{name}", b"")

    def _send(self, path: Path) -> None:
        self.job.out.write(WORK_PREFIX + path.relative_to(self.folder).as_posix(), path.read_bytes())

    def clear(self) -> None:
        """The corpus is complete: nothing here is needed any more."""
        if self.remote:
            self.job.out.delete(WORK_PREFIX)
        shutil.rmtree(self.folder, ignore_errors=True)
