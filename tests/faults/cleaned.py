"""A run whose text is cleaned first, by a job that is killed while it does; and the run after it."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
from collections.abc import Iterator

from account import Account, expect, expect_words
from capacity import succeeded
from small_run import MANY, run_input
from table import Row

TWICE = "source/twice/"
PARTS = 3


def corpus_resumed(account: Account) -> Iterator[Row]:
    """Prepare corpus killed with SIGKILL after a task."""
    run = "cleaned"
    _upload(account)
    data = {"source": TWICE, "corpus": {"near_duplicates": {}, "workers": 1, "instance_type": "ml.c7i.large"}}
    execution = account.start(run_input(run, data=data))
    account.until(lambda: [key for key in account.keys("corpus/") if "/clean/completions/" in key], "the first finished task", every=0.05)
    doomed = account.processes(run, kind="PROCESSING")
    for process in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    expect("processes to kill", bool(doomed), True)
    ended = account.ended(execution)
    succeeded(ended)
    (verdict,) = ended.verdicts
    expect_words(verdict, "ContainerKilled", "attempt 2 on on_demand ml.c7i.large")
    expect("the stages", [name for name in ended.states if name.startswith("Prepare ")][-1], "Prepare data")
    expect("the cleaned corpora", ended.states.count("Prepare corpus"), 2)
    content = json.loads(account.read(f"runs/{run}/run.json"))
    card = json.loads(account.read(f"{content['corpora']['']['uri'].partition(f'{account.bucket}/')[2]}corpus.json"))
    (step,) = card["steps"]
    expect("documents that are in another file word for word", step["read"] - step["kept"] >= step["read"] / 2, True)
    index = json.loads(account.read(f"{content['tokens']['uri'].partition(f'{account.bucket}/')[2]}index.json"))
    expect("documents tokenised", sum(split["documents"] for split in index["splits"].values()), card["documents"])
    expect("counts in the index", index["corpus"]["steps"], card["steps"])
    jobs = sorted(account.processing_jobs(run), key=lambda job: job["CreationTime"])
    said = " ".join(line for lines in account.lines("Processing", jobs[1]["ProcessingJobName"]).values() for line in lines)
    expect_words(said, "tasks were finished by an earlier attempt")
    yield Row(
        injected="kill -9 of everything that cleans a corpus with every text twice, after its first task",
        happened=f"ContainerKilled: the second job went on with the tasks that were left; {card['read'] - card['documents']} of "
        f"{card['read']} documents taken out, the rest tokenised",
        attempts=len(jobs),
        lost="nothing: finished tasks were kept",
        seconds=ended.seconds,
    )
    again = account.run(run_input(f"{run}-again", data=data))
    succeeded(again)
    expect("stages of preparation", [name for name in again.states if name in ("Build image", "Prepare corpus", "Prepare data")], [])
    yield Row(
        injected="another run of the same corpus",
        happened="neither image, corpus nor tokens were made again",
        attempts=len(account.processing_jobs(f"{run}-again")),
        lost="nothing was paid for twice",
        seconds=again.seconds,
    )


def _upload(account: Account) -> None:
    """Half of Python's library, twice, in objects that each plan as a part: blank lines before the text."""
    s3 = account.client("s3")
    for number in range(PARTS):
        text = gzip.decompress(account.read(f"{MANY}{number % 2}.jsonl.gz"))
        s3.put_object(Bucket=account.bucket, Key=f"{TWICE}{number}.jsonl.gz", Body=gzip.compress(b" " * (3 << 20) + b"\n" + text, 0))
        again = gzip.compress(b" " * (3 << 20) + b"\n" + text.replace(b"  ", b" "), 0)
        s3.put_object(Bucket=account.bucket, Key=f"{TWICE}{number}-again.jsonl.gz", Body=again)


PROOFS = (corpus_resumed,)
