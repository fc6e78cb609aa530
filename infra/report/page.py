"""report.html: one self-contained page of the report document. Pure.

All content is in the HTML itself, as text and tables; the script only draws the curves. The page loads no
resource: its Content-Security-Policy forbids it.
"""

from __future__ import annotations

import html
import json
from importlib.resources import files
from string import Template
from typing import Any

from infra.report import overview, profiles, sinks, starts, tables
from infra.report.read import Json
from infra.report.series import SOURCE_CURVE

CHARTS: tuple[tuple[str, str, tuple[Json, ...]], ...] = (
    ("Loss", "nats per token", ({"name": "loss", "label": "training"}, {"name": "validation_loss", "label": "validation", "points": True})),
    ("Tokens per second and device", "tokens/s", ({"name": "tokens_per_second_per_device", "label": "tokens/s"},)),
    ("Model FLOPs utilisation, over the BF16 peak", "%", ({"name": "mfu", "label": "MFU (BF16 peak)"},)),
    ("Memory", "GiB, largest on a device", ({"name": "memory_gib", "label": "GiB"},)),
    ("Waiting for data", "s per step", ({"name": "data_wait_seconds", "label": "seconds"},)),
    ("Step time", "s", ({"name": "step_seconds", "label": "seconds"},)),
    ("Learning rate", "", ({"name": "lr", "label": "rate"},)),
    ("Gradient norm", "before clipping", ({"name": "grad_norm", "label": "norm"},)),
)
TABLE_ROWS = 12
"""Rows of the table under each chart: enough to follow the curve without seeing it."""


def render(document: Json) -> str:
    """The page, a few hundred kilobytes."""
    asset = files("infra.report") / "assets"
    values = {
        "title": html.escape(f"{document['run_id']} - {document['outcome']}"),
        "run_id": html.escape(document["run_id"]),
        "outcome": html.escape(document["outcome"]),
        "outcome_class": html.escape(document["outcome"].replace(" ", "-")),
        "headline": html.escape(document["headline"]),
        "facts": tables.facts_line(document),
        "body": "\n".join(part for part in _parts(document) if part),
        "footer": f"Written {tables.clock(document['written'])}. The same as data: report.json beside this page.",
        "data": _embedded(_chart_data(document)),
        "page_css": (asset / "page.css").read_text(),
        "uplot_css": (asset / "uPlot.min.css").read_text(),
        "uplot_js": (asset / "uPlot.iife.min.js").read_text(),
        "charts_js": (asset / "charts.js").read_text(),
    }
    return Template((asset / "page.html").read_text()).substitute(values)


def _parts(document: Json) -> list[str]:
    return [
        tables.failure(document),
        overview.unread(document),
        overview.overview(document),
        tables.evaluations(document),
        _charts(document),
        tables.sources(document),
        tables.samples(document),
        f'<div class="pair">{tables.stages(document)}{tables.cost(document)}</div>',
        tables.exports(document),
        profiles.profiles(document),
        sinks.delivered(document),
        tables.attempts(document),
        starts.starts(document),
        starts.otherwise(document),
        tables.executions(document),
        tables.data(document),
        tables.lineage(document),
    ]


def _embedded(value: Any) -> str:
    """JSON inside a script element: "<" is escaped, so that the value cannot open a tag."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _chart_data(document: Json) -> Json:
    return {
        "legs": [
            {
                "name": leg["name"],
                "steps": leg["series"]["steps"],
                "columns": leg["series"]["columns"],
                "interruptions": leg["series"]["interruptions"],
                "checkpoints": leg["series"]["checkpoints"],
            }
            for leg in document["legs"]
        ]
    }


def _charts(document: Json) -> str:
    legs = [leg for leg in document["legs"] if leg["series"]["steps"]]
    if not legs:
        return ""
    first, *rest = CHARTS
    charts = (first, ("Validation loss by source", "nats per token", _by_source(legs)), *rest)
    figures = [_figure(title, unit, curves, legs) for title, unit, curves in charts]
    return f'<section><h2>Curves over steps</h2>{_key(legs)}<div class="charts">{"".join(figures)}</div>{_notes(legs)}</section>'


def _by_source(legs: list[Json]) -> tuple[Json, ...]:
    """A curve for each source of a mixture, coloured by source instead of by leg."""
    names = sorted({name for leg in legs for name in leg["series"]["columns"] if name.endswith(SOURCE_CURVE)})
    return tuple({"name": name, "label": name.split(".")[1], "points": True, "colour": i} for i, name in enumerate(names))


def _key(legs: list[Json]) -> str:
    if len(legs) < 2:
        return ""
    items = [
        f'<li><label><input type="checkbox" checked value="{html.escape(leg["name"])}"> '
        f'<span class="key" style="border-color: var(--leg-{i % 8})"></span>{html.escape(leg["name"])}</label></li>'
        for i, leg in enumerate(legs)
    ]
    return f'<ul class="legs-key" aria-label="Legs shown">{"".join(items)}</ul>'


def _figure(title: str, unit: str, curves: tuple[Json, ...], legs: list[Json]) -> str:
    drawn = [curve for curve in curves if any(_column(leg, curve["name"]) for leg in legs)]
    if not drawn:
        return ""
    attribute = html.escape(json.dumps(drawn), quote=True)
    said = "; ".join(filter(None, (_said(leg, curve, len(legs) > 1) for leg in legs for curve in drawn)))
    return (
        f'<figure data-curves="{attribute}"><h3>{html.escape(title)}{f" <small>({html.escape(unit)})</small>" if unit else ""}</h3>'
        f'<div class="chart"></div><figcaption>{html.escape(said)}.</figcaption>{_curve_table(title, drawn, legs)}</figure>'
    )


def _column(leg: Json, name: str) -> list[tuple[int, float]]:
    values = leg["series"]["columns"].get(name) or []
    return [(step, value) for step, value in zip(leg["series"]["steps"], values, strict=False) if value is not None]


def _said(leg: Json, curve: Json, several: bool) -> str:
    """A curve's first and last value as text; the table below the chart has more."""
    points = _column(leg, curve["name"])
    if not points:
        return ""
    name = f"{leg['name']} {curve['label']}" if several else curve["label"]
    first, last = points[0][1], points[-1][1]
    return f"{name} {first:.4g}" if len(points) == 1 else f"{name} {first:.4g} to {last:.4g}"


def _curve_table(title: str, curves: list[Json], legs: list[Json]) -> str:
    """The curve as a table for screen readers: ``TABLE_ROWS`` steps, evenly spaced."""
    columns = [(leg, curve, dict(_column(leg, curve["name"]))) for leg in legs for curve in curves]
    columns = [column for column in columns if column[2]]
    steps = sorted({step for _, _, values in columns for step in values})
    chosen = [steps[i * (len(steps) - 1) // max(1, TABLE_ROWS - 1)] for i in range(TABLE_ROWS)] if len(steps) > TABLE_ROWS else steps
    names = [f"{leg['name']} {curve['label']}" if len(legs) > 1 else curve["label"] for leg, curve, _ in columns]
    head = "".join(f'<th scope="col" class="number">{html.escape(name)}</th>' for name in names)
    rows = []
    for step in chosen:
        cells = "".join(f'<td class="number">{_cell(values.get(step))}</td>' for _, _, values in columns)
        rows.append(f'<tr><th scope="row">{step:,}</th>{cells}</tr>')
    table = f'<table><thead><tr><th scope="col">step</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<details><summary>{html.escape(title)} as a table</summary><div class="scroll">{table}</div></details>'


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _notes(legs: list[Json]) -> str:
    notes = [
        "Drag over a chart to zoom, double-click to go back. Short marks on the axis: steps whose checkpoint was saved. "
        "Dashed vertical lines: training went back to a checkpoint."
    ]
    thinned = [leg for leg in legs if leg["series"]["rows_shown"] < leg["series"]["rows_logged"]]
    if thinned:
        each = ", ".join(
            f"{html.escape(leg['name'])} {leg['series']['rows_shown']:,} of {leg['series']['rows_logged']:,}" for leg in thinned
        )
        notes.append(
            f"Thinned for this page, logged steps shown: {each}. Of each group of neighbours the ones with the smallest "
            "and the largest loss are kept, and every validation and checkpoint step. metrics.jsonl has all of them."
        )
    return "".join(f'<p class="note">{note}</p>' for note in notes)
