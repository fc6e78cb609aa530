"""What a reader of report.html sees first: what could not be read, the run in a few lines, every leg's figures. HTML, like tables.py."""

from __future__ import annotations

import json
from typing import Any

from infra.report.read import Json
from infra.report.tables import amount, dollars, duration, escape, row, section, table
from infra.run.run_record import shown

FIGURES: tuple[tuple[str, str, int, str], ...] = (
    ("Steps", "steps", 0, ""),
    ("Training tokens", "tokens", 0, ""),
    ("Parameters", "parameters", 0, ""),
    ("First loss", "loss_first", 3, "nats"),
    ("Last loss", "loss_last", 3, "nats"),
    ("Validation loss", "validation_loss", 3, "nats"),
    ("Unigram entropy", "unigram_entropy", 3, "nats"),
    ("Tokens/s per device", "tokens_per_second_per_device", 0, ""),
    ("Against first leg", "ratio_to_baseline", 3, ""),
    ("Reference tokens/s", "reference_tokens_per_second", 0, ""),
    ("MFU (BF16 peak)", "mfu", 1, "%"),
    ("Memory", "memory_gib", 2, "GiB"),
    ("Attempts", "attempts", 0, ""),
    ("Cost", "usd", 2, "$"),
)


def overview(document: Json) -> str:
    """The run in a few lines, beside every leg's figures."""
    if not document["legs"]:
        return section("Summary", links(document)) if links(document) else ""
    said = "".join(f"<li>{line}</li>" for line in summary_lines(document))
    summary = f'<section class="summary"><h2>Summary</h2><ul>{said}</ul>{links(document)}</section>'
    return f'<div class="overview">{summary}{figures(document)}</div>'


BEST: tuple[tuple[str, str, int, str, int], ...] = (
    ("loss_last", "lowest last loss", 3, "nats", 1),
    ("validation_loss", "lowest validation loss", 3, "nats", 1),
    ("tokens_per_second_per_device", "highest tokens/s per device", 0, "", -1),
    ("mfu", "highest MFU", 1, "%", -1),
)


def summary_lines(document: Json) -> list[str]:
    """What a reader wants to know first, as HTML: progress, loss, speed, interruptions, money."""
    legs = [leg["figures"] for leg in document["legs"]]
    several = len(legs) > 1
    lines = [f"{leg['steps']:,} of {leg['steps_planned']:,} steps trained" for leg in legs if not several and leg["steps_planned"]]
    if several:
        lines.append(f"{sum(leg['finished'] for leg in legs)} of {len(legs)} legs trained all their steps")
    for key, words, digits, unit, sign in BEST:
        ranked = [(sign * leg[key], i) for i, leg in enumerate(legs) if leg[key] is not None]
        if ranked:
            leg = legs[min(ranked)[1]]
            named = words if several else words.partition(" ")[2]
            lines.append(f"{named} {amount(leg[key], digits, unit)}" + (f", {escape(leg['name'])}" if several else ""))
    breaks, lost = sum(leg["interruptions"] for leg in legs), sum(leg["lost_seconds"] for leg in legs)
    if breaks:
        lines.append(f"went back to a checkpoint {breaks} {'time' if breaks == 1 else 'times'}, {duration(lost)} lost")
    money, budget = document["cost"]["total_usd"], document["cost"]["budget_usd"]
    lines.append(f"cost {dollars(money)}" + (f" of a budget of {dollars(budget)}" if budget else ""))
    return [line[:1].upper() + line[1:] for line in lines]


def unread(document: Json) -> str:
    """What was damaged and left out of the report."""
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in document["unread"])
    title = "<p><strong>Not everything could be read.</strong></p>"
    return f'<section class="unread" role="note">{title}<ul>{said}</ul></section>' if said else ""


def figures(document: Json) -> str:
    """Every leg's figures side by side, one column a leg."""
    legs = document["legs"]
    if not legs:
        return ""
    rows = []
    for title, key, digits, unit in FIGURES:
        values = [leg["figures"].get(key) for leg in legs]
        if all(value is None for value in values) or (key == "ratio_to_baseline" and len(legs) == 1):
            continue
        cells = [dollars(value) if unit == "$" else amount(value, digits, unit) for value in values]
        rows.append(row(title, cells))
    rows.insert(1, row("Trained on", [f"{leg['figures']['devices']} x {escape(leg['figures']['device_name'])}" for leg in legs]))
    rows.extend(row(escape(path), [escape(shown(value)) for value in values]) for path, values in changed_settings(legs))
    head = "".join(f'<th scope="col" class="number">{escape(leg["name"])}</th>' for leg in legs)
    note = "<p class=note>The reference figures are 4 x ml.p5.48xlarge (32 H100), Llama-3 8B, sequence length 8192.</p>"
    told = note if any(leg["figures"].get("reference_tokens_per_second") for leg in legs) else ""
    return section("Figures", table(rows, f"<td></td>{head}") + told)


def links(document: Json) -> str:
    """Links to pages of the AWS console."""
    titles = (("execution", "Execution"), ("logs", "Logs of the training jobs"), ("dashboard", "Dashboard"))
    found = [(title, document["links"].get(key)) for key, title in titles]
    items = "".join(f'<li><a href="{escape(address)}">{title}</a></li>' for title, address in found if address)
    note = "A run on the embedded AWS has no pages there."
    return f'<p class="note">In the AWS console: </p><ul class="links">{items}</ul><p class="note">{note}</p>' if items else ""


def changed_settings(legs: list[Json]) -> list[tuple[str, list[Any]]]:
    """Dotted paths in which the legs' settings differ, with each leg's value."""
    flat = [dict(_flatten(leg["settings"])) for leg in legs]
    paths = sorted({path for settings in flat for path in settings})
    return [(path, [s.get(path) for s in flat]) for path in paths if len({json.dumps(s.get(path)) for s in flat}) > 1]


def _flatten(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in _flatten(item, f"{path}.{key}" if path else key)]
    return [(path, value)]
