"""`pretrain compare`: legs of several runs side by side, from their report.json."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from infra.cli.exits import CommandError, Exit
from infra.cli.find_run import find_run
from infra.cli.target import Target
from infra.report.evaluation import evaluated_numbers
from infra.report.overview import changed_settings
from infra.run.expected import NUMBER, OBJECT, TEXT, Each, fitting
from infra.run.layout import RunLayout, uri
from infra.run.stored import Unreadable, read_json

FIGURES = (
    ("steps", "steps", "{:,.0f}"),
    ("tokens", "tokens", "{:,.0f}"),
    ("first loss", "loss_first", "{:.3f}"),
    ("last loss", "loss_last", "{:.3f}"),
    ("validation loss", "validation_loss", "{:.3f}"),
    ("tokens/s/device", "tokens_per_second_per_device", "{:,.0f}"),
    ("MFU % (BF16 peak)", "mfu", "{:.1f}"),
    ("memory GiB", "memory_gib", "{:.2f}"),
    ("attempts", "attempts", "{:.0f}"),
    ("USD", "usd", "{:,.2f}"),
)

SOURCE_FIGURES = (("share", "share", "{:.2%}"), ("passes", "epochs", "{:.3f}"), ("validation loss", "held_out_loss", "{:.3f}"))
"""Of each source of a mixture."""
_LEG = {
    "name": TEXT,
    "figures": dict.fromkeys((key for _, key, _ in FIGURES), NUMBER),
    "sources": [{"name": TEXT, **dict.fromkeys((key for _, key, _ in SOURCE_FIGURES), NUMBER)}],
    "settings": OBJECT,
    "evaluation": {
        "held_out": Each(dict.fromkeys(("loss", "perplexity", "bits_per_byte"), NUMBER)),
        "tasks": Each({"results": Each({"metrics": Each(NUMBER)})}),
    },
}
_REPORT = {"run_id": TEXT, "legs": [_LEG]}
"""What is read of report.json."""


def read_reports(target: Target, runs: list[str]) -> list[dict[str, Any]]:
    """report.json of each run, named in any way that `find_run` understands.

    Raises:
        CommandError: a run has none.
    """
    return [_report(target, run_id) for run_id in dict.fromkeys(find_run(target, run).run_id for run in runs)]


def _report(target: Target, run_id: str) -> dict[str, Any]:
    key, misfits = RunLayout(run_id).report_json, list[str]()
    try:
        stored = read_json(target.client("s3"), target.bucket, key)
        if not stored:
            raise CommandError(f'run "{run_id}" has no report; pretrain list shows the runs', Exit.NOT_FOUND)
        report: dict[str, Any] = fitting(stored, _REPORT, misfits)
        whole = not misfits and bool(report["run_id"]) and all(leg["name"] and leg["figures"] and leg["settings"] for leg in report["legs"])
    except (Unreadable, KeyError, TypeError):
        whole = False
    if not whole:
        raise CommandError(f"{uri(target.bucket, key)} is damaged; restore its version before (the bucket keeps versions)")
    return report


def comparison(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Legs in order, each with its figures, its ratio to the first leg of all, and the settings that differ."""
    legs = [
        (f"{report['run_id']}/{leg['name']}" if len(report["legs"]) > 1 else report["run_id"], leg)
        for report in reports
        for leg in report["legs"]
    ]
    if not legs:
        return {"legs": [], "sources": {}, "settings": {}}
    base = legs[0][1]["figures"].get("tokens_per_second_per_device")
    rows = []
    for name, leg in legs:
        speed = leg["figures"].get("tokens_per_second_per_device")
        rows.append(
            {
                "name": name,
                **{key: leg["figures"].get(key) for _, key, _ in FIGURES},
                "ratio": speed / base if speed and base else None,
                "evaluation": dict(evaluated_numbers(leg.get("evaluation"))),
            }
        )
    changed = changed_settings([leg for _, leg in legs])
    of_leg = [{source["name"]: source for source in leg.get("sources") or ()} for _, leg in legs]
    sources = {name: [of.get(name) for of in of_leg] for name in sorted({name for of in of_leg for name in of})}
    return {"legs": rows, "sources": sources, "settings": {f"training.{path}": values for path, values in changed}}


def show_comparison(value: dict[str, Any], console: Console) -> None:
    """One column a leg."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for leg in value["legs"]:
        name = leg["name"] if console.width > 80 else leg["name"].replace("/", "/\n")  # run over leg, where it is narrow
        table.add_column(name, justify="right", overflow="fold")
    for title, key, pattern in (*FIGURES, ("ratio", "ratio", "{:.3f}")):
        cells = ["-" if leg[key] is None else pattern.format(leg[key]) for leg in value["legs"]]
        if any(cell != "-" for cell in cells):
            table.add_row(title, *cells)
    for name, found in value["sources"].items():
        for title, key, pattern in SOURCE_FIGURES:
            cells = ["-" if source is None or source[key] is None else pattern.format(source[key]) for source in found]
            table.add_row(f"{name}: {title}", *cells)
    for name in dict.fromkeys(name for leg in value["legs"] for name in leg["evaluation"]):
        found = [leg["evaluation"].get(name) for leg in value["legs"]]
        table.add_row(name, *("-" if number is None else f"{number:.4g}" for number in found))
    for path, values in value["settings"].items():
        table.add_row(path, *(str(item) for item in values), style="dim")
    console.print(table)
