"""The text and tables of report.html: each function takes the report document and returns HTML, "" when there is nothing to say."""

from __future__ import annotations

import datetime as dt
import html
import json
from typing import Any

from infra.report.read import Json


def escape(value: Any) -> str:
    """Text of a value; a dash for what is not known."""
    return "–" if value is None or value == "" else html.escape(str(value))


def clock(seconds: float | None) -> str:
    """A moment, to the second, in UTC."""
    return "–" if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(seconds: float | None) -> str:
    """``1 h 05 min``, ``3 min 20 s``, ``12.3 s``."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def dollars(value: float | None) -> str:
    """Dollars and cents; more digits below a cent."""
    if value is None:
        return "not known"
    return f"${value:,.2f}" if value >= 0.01 or value == 0 else f"${value:.4f}"


def amount(value: float | None, digits: int = 0, unit: str = "") -> str:
    """A number with thousands separated, and its unit."""
    if value is None:
        return "–"
    return f"{value:,.{digits}f}" + (f' <span class="unit">{unit}</span>' if unit else "")


def facts_line(document: Json) -> str:
    """Recipe, times and cost, in one line."""
    parts = [f"recipe {escape(document['recipe'])}" if document.get("recipe") else ""]
    parts.append(f"started {clock(document['started'])}" if document.get("started") else "")
    parts.append(f"{duration(document['wall_seconds'])} in all" if document.get("wall_seconds") is not None else "")
    if document["legs"]:
        parts.append(f"cost {dollars(document['cost']['total_usd'])}")
    return ", ".join(part for part in parts if part)


def failure(document: Json) -> str:
    """The failure's sentence, with log and runbook links."""
    why = document.get("explanation")
    if not why:
        return ""
    rows = [
        ("Stage", why.get("stage")),
        ("Class", why.get("class")),
        ("Log", " / ".join(filter(None, (why.get("log_group"), why.get("log_stream"))))),
    ]
    if why.get("retry"):
        rows.append(("Trying again", "can help" if why["retry"] == "retry" else "fails the same way until the cause is removed"))
    rows.append(("Runbook", why.get("runbook")))
    body = "".join(f"<tr><th scope=row>{name}</th><td>{escape(value)}</td></tr>" for name, value in rows if value)
    return f'<section class="failure" role="alert"><p><strong>{escape(why.get("sentence"))}</strong></p><table>{body}</table></section>'


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
        rows.append(_row(title, cells))
    rows.insert(1, _row("Trained on", [f"{leg['figures']['devices']} x {escape(leg['figures']['device_name'])}" for leg in legs]))
    rows.extend(_row(escape(path), [escape(_plain(value)) for value in values]) for path, values in changed_settings(legs))
    head = "".join(f'<th scope="col" class="number">{escape(leg["name"])}</th>' for leg in legs)
    note = "<p class=note>The reference figures are 4 x ml.p5.48xlarge (32 H100), Llama-3 8B, sequence length 8192.</p>"
    told = note if any(leg["figures"].get("reference_tokens_per_second") for leg in legs) else ""
    return _section("Figures", _table(rows, f"<td></td>{head}") + told)


def exports(document: Json) -> str:
    """Where the finished legs' files are."""
    rows = [
        _row(escape(leg["name"]), [escape(leg["export"]), escape(leg["checkpoints"]), escape(leg["metrics"])], number=False)
        for leg in document["legs"]
    ]
    head = "".join(f"<th scope=col>{title}</th>" for title in ("Leg", "Exported model", "Checkpoints", "All metrics"))
    return _section("Files", _table(rows, head)) if rows else ""


def changed_settings(legs: list[Json]) -> list[tuple[str, list[Any]]]:
    """Dotted paths in which the legs' settings differ, with each leg's value."""
    flat = [dict(_flatten(leg["settings"])) for leg in legs]
    paths = sorted({path for settings in flat for path in settings})
    return [(path, [s.get(path) for s in flat]) for path in paths if len({json.dumps(s.get(path)) for s in flat}) > 1]


def samples(document: Json) -> str:
    """Text samples of the finished models."""
    parts = []
    for leg in document["legs"]:
        sample = leg["sample"]
        if sample:
            name = f"<h3>{escape(leg['name'])}</h3>" if len(document["legs"]) > 1 else ""
            prompt, text = str(sample.get("prompt") or ""), str(sample.get("text") or "")
            rest = text.removeprefix(prompt)
            parts.append(f'{name}<blockquote><span class="prompt">{html.escape(prompt)}</span>{html.escape(rest)}</blockquote>')
    return f"<section><h2>Sample, written by the exported model</h2>{''.join(parts)}</section>" if parts else ""


def stages(document: Json) -> str:
    """Stages in run order with their seconds."""
    rows = [
        _row(stage["name"], [escape(stage["state"]), "" if stage["seconds"] is None else duration(stage["seconds"])], number=False)
        for stage in document["stages"]
    ]
    return _section("Stages", _table(rows))


def cost(document: Json) -> str:
    """Cost by stage and leg."""
    value = document["cost"]
    rows = [("Prepare data", value["prepare_data_usd"]), *((f"Train {name}", usd) for name, usd in value["legs_usd"].items())]
    rows += [("Total", value["total_usd"])] + ([("Budget", value["budget_usd"])] if value["budget_usd"] is not None else [])
    note = "<p class=note>Billable seconds x instances x on-demand price. Storage, build and functions are not in it.</p>"
    return _section("Cost", _table([_row(escape(name), [dollars(usd)]) for name, usd in rows]) + note)


def attempts(document: Json) -> str:
    """Every training job with its end status and reason."""
    rows = [_attempt(leg["name"], job) for leg in document["legs"] for job in leg["attempts"]]
    titles = ("Leg", "Training job", "Status", "Instances", "Started", "Billable", "What ended it")
    return _section("Training jobs", _table(rows, "".join(f"<th scope=col>{title}</th>" for title in titles))) if rows else ""


def _attempt(leg: str, job: Json) -> str:
    spot = " (spot)" if job["spot"] else ""
    instances = f"{job['instance_count']} x {escape(job['instance_type'])}{spot}"
    cells = [
        escape(job["job_name"]),
        escape(job["status"]),
        instances,
        clock(job["started"]),
        duration(job["billable_seconds"]),
        escape(job["failure"]),
    ]
    return _row(escape(leg), cells, number=False)


def data(document: Json) -> str:
    """What was trained on."""
    value = document["data"]
    rows = [
        ("Source", value["source"]),
        ("Objects", value["objects"]),
        ("Bytes as stored", f"{value['bytes']:,}" if value["bytes"] else None),
    ]
    rows += [("Token shards", value["tokens"]), *value["shards"]]
    body = [_row(escape(name), [escape(item)], number=False) for name, item in rows if item not in (None, "")]
    return _section("Data", _table(body)) if body else ""


def lineage(document: Json) -> str:
    """Lineage of the model: image, versions, configuration, and the whole run.json."""
    value = document["lineage"]
    rows = [("Image", value["image"]), ("Image tag (hash of the build context)", value["image_tag"]), ("Execution", value["execution"])]
    if isinstance(value["environment"], dict):
        rows += list(value["environment"].items())
    body = [_row(escape(name), [escape(item)], number=False) for name, item in rows if item]
    if not body and not value["run"]:
        return ""
    run = html.escape(json.dumps(value["run"], indent=2))
    details = f"<details><summary>run.json, the resolved configuration</summary><pre>{run}</pre></details>" if value["run"] else ""
    return _section("Lineage", _table(body) + details)


def links(document: Json) -> str:
    """Links to pages of the AWS console."""
    titles = (("execution", "Execution"), ("logs", "Logs of the training jobs"), ("dashboard", "Dashboard"))
    found = [(title, document["links"].get(key)) for key, title in titles]
    rows = [_row(title, [f'<a href="{escape(address)}">{escape(address)}</a>'], number=False) for title, address in found if address]
    note = "<p class=note>A run on the embedded AWS has no pages there.</p>"
    return _section("In the AWS console", _table(rows) + note) if rows else ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _table(rows: list[str], head: str = "") -> str:
    top = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{top}<tbody>{"".join(rows)}</tbody></table></div>'


def _row(name: str, cells: list[str], number: bool = True) -> str:
    kind = ' class="number"' if number else ""
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td{kind}>{cell}</td>" for cell in cells)}</tr>'


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _flatten(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in _flatten(item, f"{path}.{key}" if path else key)]
    return [(path, value)]
