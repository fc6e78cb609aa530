"""`pretrain list`: the newest runs."""

from __future__ import annotations

import datetime as dt
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra.cli.find_run import executions
from infra.cli.screen import duration
from infra.cli.target import Target

STYLES = {"SUCCEEDED": "green", "RUNNING": "cyan", "FAILED": "red", "TIMED_OUT": "red", "ABORTED": "yellow"}


def list_runs(target: Target, limit: int) -> list[dict[str, Any]]:
    """Name, status, start and seconds of the newest executions, newest first."""
    now = dt.datetime.now(dt.UTC)
    return [
        {
            "run": str(execution["name"]),
            "status": str(execution["status"]).lower(),
            "started": execution["startDate"].astimezone(dt.UTC).isoformat(timespec="seconds"),
            "seconds": round(((execution.get("stopDate") or now) - execution["startDate"]).total_seconds(), 1),
            "execution_arn": str(execution["executionArn"]),
        }
        for execution in executions(target, limit)
    ]


def show_runs(runs: list[dict[str, Any]], console: Console) -> None:
    """A table, or the sentence that there is none."""
    if not runs:
        console.print("no run yet; pretrain start starts one", highlight=False)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("run", overflow="fold")
    for title in ("status", "started (UTC)", "took"):
        table.add_column(title, no_wrap=True)
    for run in runs:
        status = Text(run["status"], style=STYLES.get(run["status"].upper(), ""))
        table.add_row(run["run"], status, run["started"][:16].replace("T", " "), duration(run["seconds"]))
    console.print(table)
