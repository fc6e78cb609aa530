"""One line for each fault: what was injected, what happened, what was lost, how long it took."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from account import Account, Unexpected


@dataclass(frozen=True, kw_only=True)
class Row:
    """The outcome of one fault; every statement in it was asserted before the row was made."""

    injected: str
    happened: str
    attempts: int
    """Training or processing jobs that were created."""
    lost: str
    seconds: float
    """From the start of the execution to its end, pauses included."""
    good: bool = True


Proof = Callable[[Account], Iterable[Row]]
"""Injects faults and checks their outcome; raises Unexpected on any difference."""


def title_of(proof: Proof) -> str:
    """What it injects, in a line."""
    return (proof.__doc__ or "").strip().splitlines()[0].rstrip(".")


def proven(proof: Proof, account: Account) -> list[Row]:
    """The proof's rows, or one that says why it failed."""
    try:
        rows = list(proof(account))
    except Unexpected as error:
        rows = [_failed(title_of(proof), str(error))]
    except Exception as error:
        traceback.print_exc()
        rows = [_failed(title_of(proof), f"{type(error).__name__}: {error}")]
    for row in rows:
        print(f"{'ok  ' if row.good else 'BAD '}{row.seconds:6.1f} s  {row.injected}: {row.happened}", flush=True)
    return rows


def _failed(title: str, reason: str) -> Row:
    return Row(injected=title, happened=f"NOT AS EXPECTED: {reason}", attempts=0, lost="unknown", seconds=0.0, good=False)


def markdown(rows: Iterable[Row]) -> str:
    """The table as docs/faults.md shows it."""
    cells = [(row.injected, row.happened, row.attempts, row.lost, f"{row.seconds:.1f}") for row in rows]
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in cells]
    return "\n".join(["| injected | what happened | jobs | lost | seconds |", "|---|---|---|---|---|", *lines])


def summary(rows: list[Row], seconds: float) -> str:
    """The last line: one JSON object."""
    bad = [asdict(row) for row in rows if not row.good]
    return json.dumps({"faults": len(rows), "as_expected": len(rows) - len(bad), "seconds": round(seconds), "not_as_expected": bad})
