"""`pretrain list`: runs, the newest first; `--cost` sums them by run and month."""

from __future__ import annotations

import collections
import datetime as dt
import functools
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra.cli.find_run import describe, executions, run_of
from infra.cli.observe import Observer
from infra.cli.progress import REFUSED, RunView, failure_sentence
from infra.cli.screen import duration
from infra.cli.target import Target
from infra.run.run_lock import ACTIVE

STYLES = {"trained": "green", "running": "cyan", "waiting for capacity": "cyan", "failed": "red", "timed out": "red", "refused": "red"}
STATUSES = ("running", "waiting for capacity", "trained", "failed", "refused", "stopped", "timed out", "gave way")
READERS = 8  # runs are read side by side: each takes about ten calls
REASON = 60  # letters of a reason in the table; --json has all
EACH = 5  # executions looked at for each run asked for: one run may have many


def list_runs(target: Target, limit: int, *, status: str | None = None, started_by: str | None = None) -> list[dict[str, Any]]:
    """The newest runs, newest first; only those of a status or a person where they are given.

    A run's row is that of its active execution, else of the newest that Admit admitted, else of its newest.
    """
    with ThreadPoolExecutor(READERS) as pool:
        listed = [str(execution["executionArn"]) for execution in executions(target, limit * EACH)]
        described = [one for one in pool.map(functools.partial(describe, target), listed) if one is not None]
        grouped: dict[str, list[dict[str, Any]]] = {}
        for one in described:
            grouped.setdefault(run_of(one), []).append(one)
        chosen = [_telling(group) for group in grouped.values()]
        mine = [one for one in chosen if started_by is None or starter(one) == started_by]
        wanted = mine if status else mine[:limit]
        rows = list(pool.map(lambda one: _row(target, one, len(grouped[run_of(one)])), wanted))
    return [row for row in rows if status in (None, row["status"])][:limit]


def _telling(group: list[dict[str, Any]]) -> dict[str, Any]:
    """The execution, of those of a run, newest first, that says how the run stands: one that was refused or gave way changes nothing."""
    active = (one for one in group if one["status"] in ACTIVE)
    admitted = (one for one in group if one.get("error") != REFUSED and not _skipped(one))
    return next(active, None) or next(admitted, group[0])


def _skipped(description: dict[str, Any]) -> bool:
    try:
        return "skipped" in json.loads(description.get("output") or "{}")
    except (ValueError, TypeError, RecursionError):
        return False


def starter(description: dict[str, Any]) -> str | None:
    """Who started an execution, as its input says: a person through `pretrain start`, or a schedule."""
    try:
        value = json.loads(description.get("input") or "{}")
        who = value.get("started_by") or (f"schedule {value['schedule']['name']}" if value.get("schedule") else None)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return None
    return who if isinstance(who, str) else None  # a refused input may hold anything


def _row(target: Target, description: dict[str, Any], count: int) -> dict[str, Any]:
    arn, began = str(description["executionArn"]), description["startDate"].astimezone(dt.UTC)
    ended = description.get("stopDate") or dt.datetime.now(dt.UTC)
    observer = Observer(target, arn)
    view = observer.look()
    status = _status(description, view)
    return {
        "run": run_of(description),
        "status": status,
        "reason": failure_sentence(description) if status in ("failed", "refused", "stopped", "timed out") else None,
        "step": sum(leg.step for leg in view.legs) if view.legs else None,
        "steps": sum(leg.steps for leg in view.legs) if view.legs else None,
        "usd": view.usd,
        "usd_by_month": observer.usd_by_month(),
        "started": began.isoformat(timespec="seconds"),
        "seconds": round((ended - began).total_seconds(), 1),
        "started_by": starter(description),
        "executions": count,
        "execution_arn": arn,
    }


def _status(description: dict[str, Any], view: RunView) -> str:
    if description["status"] in ACTIVE:
        return "waiting for capacity" if view.waiting_for_capacity else "running"
    if description["status"] == "SUCCEEDED":
        return "gave way" if view.output.get("skipped") else "trained"
    return {"ABORTED": "stopped", "TIMED_OUT": "timed out"}.get(str(description["status"]), "refused" if view.refused else "failed")


def show_runs(runs: list[dict[str, Any]], console: Console) -> None:
    """A table, or the sentence that there is none."""
    if not runs:
        console.print("no run yet; pretrain start starts one", highlight=False)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("run", overflow="fold")
    table.add_column("status")
    for title in ("steps", "USD", "started (UTC)", "took"):
        table.add_column(title, no_wrap=True, justify="right" if title in ("steps", "USD") else "left")
    for title in ("by", "reason"):
        table.add_column(title, overflow="fold")
    for run in runs:
        table.add_row(
            Text(run["run"]),
            Text(run["status"], style=STYLES.get(run["status"], "yellow")),
            "-" if run["step"] is None else f"{run['step']:,}/{run['steps']:,}",
            "-" if run["usd"] is None else f"{run['usd']:,.2f}",
            run["started"][:16].replace("T", " "),
            duration(run["seconds"]),
            Text(run["started_by"] or "-"),
            Text(_short(run["reason"] or "")),
        )
    console.print(table)


def cost_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Dollars by run, by month (of the jobs' creation, UTC) and in all; None where a price is not known."""
    months: dict[str, float] = collections.defaultdict(float)
    for run in runs:
        for month, usd in run["usd_by_month"].items():
            months[month] += usd
    return {
        "runs": {run["run"]: run["usd"] for run in runs},
        "months": {month: round(usd, 4) for month, usd in sorted(months.items())},
        "total_usd": round(sum(months.values()), 4),
    }


def show_cost(cost: dict[str, Any], console: Console) -> None:
    """The sums, one a line."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("", overflow="fold")
    table.add_column("USD", justify="right", no_wrap=True)
    for name, usd in [*cost["runs"].items(), *cost["months"].items(), ("in all", cost["total_usd"])]:
        table.add_row(Text(name), "-" if usd is None else f"{usd:,.2f}")
    console.print(table)


def _short(text: str) -> str:
    return text if len(text) <= REASON else text[: REASON - 3] + "..."
