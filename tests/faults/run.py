"""Every bad input and every fault, in real executions of the real stacks on a separate embedded AWS.

    make faults             # ARGUMENTS="--docs docs/faults.md" puts the table into the document, too

Deploys with the real CDK command line into a temporary folder, injects each fault, and checks the outcome: states,
classed sentence, attempts, and what was lost, step by step against an uninterrupted run. Prints
a table (docs/faults.md shows one) and one JSON line; exit code 1 when any row is not as it should be.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import api
import begun
import canary
import capacity
import cleaned
import deployments
import evaluated
import killed
import operators
import polled
import redriven
import refusals
import rounds
import service
import sinks
import small_run
import stopped
from account import Account
from table import Proof, Row, markdown, proven, summary, title_of

from local_aws import embedded

BEGIN, END = "<!-- faults: make faults -->", "<!-- end of faults -->"
AT_ONCE = 3
"""Concurrent runs: most of a fault's time is spent waiting, whatever the number of cores."""


def side_by_side(proofs: Sequence[Proof], account: Account, at_once: int = AT_ONCE) -> list[Row]:
    """Rows of several proofs at once, in the proofs' order."""
    pool = ThreadPoolExecutor(at_once)
    try:
        return [row for rows in pool.map(lambda proof: proven(proof, account), proofs) for row in rows]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C waits for no run: they end with the embedded AWS


def every_fault(root: Path, only: str) -> list[Row]:
    """Deploy, inject every fault, and check the outcomes."""

    def chosen(*proofs: Proof) -> list[Proof]:
        return [proof for proof in proofs if re.search(only, title_of(proof), re.IGNORECASE)]

    aws = embedded.up(root)
    rows = side_by_side(chosen(deployments.first_deployment_without_quota), Account(aws=aws, outputs={}))
    account = Account(aws=aws, outputs=deployments.deploy(aws))
    small_run.upload_sources(account)
    rows += side_by_side(chosen(*service.FIRST), account, at_once=1)
    rows += proven(capacity.undisturbed, account)
    # One by one: each checks everything that is created and published meanwhile.
    rows += side_by_side(chosen(*refusals.PROOFS, deployments.schedule_without_quota, *api.PROOFS, *service.PROOFS), account, at_once=1)
    together = (
        *(
            *rounds.PROOFS,
            *capacity.PROOFS,
            *killed.PROOFS,
            *stopped.PROOFS,
            *redriven.PROOFS,
            *begun.PROOFS,
            *evaluated.PROOFS,
            *service.SYNC,
            *canary.PROOFS,
            *cleaned.PROOFS,
        ),
        *operators.SIDE_BY_SIDE,
    )
    rows += side_by_side(chosen(*together), account)
    rows += side_by_side(chosen(*stopped.RETURNED), account)
    rows += side_by_side(chosen(*service.LAST, *polled.PROOFS, *sinks.PROOFS, *operators.ALONE, *deployments.LIFE), account, at_once=1)
    return rows


def main() -> int:
    """Run everything; 1 when a row is not as expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, help="put the table into this document, too")
    parser.add_argument("--only", default="", help="only faults whose title holds this regular expression")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the embedded AWS must not outlive a terminated proof
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        try:
            rows = every_fault(Path(folder), options.only)
        except embedded.EmbeddedError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            embedded.clean(Path(folder))
    table = markdown(rows)
    print(f"\n{table}\n")
    if options.docs:
        before, _, rest = options.docs.read_text().partition(BEGIN)
        options.docs.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")
    print(summary(rows, time.monotonic() - began))
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
