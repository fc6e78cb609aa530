"""`pretrain compare` from report.json alone."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from infra.cli.compare import comparison, show_comparison


def report(run_id: str, sources: list[dict[str, Any]] | None, validation_loss: float) -> dict[str, Any]:
    leg: dict[str, Any] = {"name": "main", "figures": {"validation_loss": validation_loss}, "settings": {"steps": 10}}
    return {"run_id": run_id, "legs": [leg if sources is None else leg | {"sources": sources}]}


def source(name: str, share: float, loss: float | None) -> dict[str, Any]:
    return {"name": name, "asked_share": share, "share": share, "epochs": 1.25, "held_out_loss": loss}


def test_runs_of_other_mixtures_are_compared_source_by_source() -> None:
    mixed = report("mixture", [source("code", 0.25, 1.5), source("web", 0.75, 3.25)], 2.375)
    changed = report("mixture-code", [source("code", 0.5, 1.25), source("web", 0.5, None)], 1.25)
    before = report("before-mixtures", None, 3.0)  # its report.json has no sources
    value = comparison([mixed, changed, before])
    assert [found and found["share"] for found in value["sources"]["code"]] == [0.25, 0.5, None]
    console = Console(file=io.StringIO(), width=120)
    show_comparison(value, console)
    shown = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert ["code:", "share", "25.00%", "50.00%", "-"] in shown
    assert ["web:", "validation", "loss", "3.250", "-", "-"] in shown
    assert ["web:", "passes", "1.250", "1.250", "-"] in shown


def test_runs_of_one_source_say_nothing_of_sources() -> None:
    assert comparison([report("a", [], 1.0), report("b", None, 2.0)])["sources"] == {}
