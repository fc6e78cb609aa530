"""The text and tables of report.html: each function takes the report document and returns HTML, "" when there is nothing to say."""

from __future__ import annotations

import datetime as dt
import html
import json
from typing import Any

from infra.report.evaluation import evaluated_numbers, failures
from infra.report.read import Json
from infra.run.run_record import shown


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


def percent(share: float | None) -> str:
    """A share, to a thousandth of a percent where it is small."""
    return "–" if share is None else f"{share:.3%}" if share < 0.01 else f"{share:.2%}"


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
    rows += [("Runbook", why.get("runbook")), ("Go on with", document["go_on"])]
    body = "".join(f"<tr><th scope=row>{name}</th><td>{escape(value)}</td></tr>" for name, value in rows if value)
    kind, sentence = document["outcome"].replace(" ", "-"), escape(why.get("sentence"))
    return f'<section class="failure {kind}" role="alert"><p><strong>{sentence}</strong></p><table>{body}</table></section>'


def exports(document: Json) -> str:
    """Where the finished legs' files are."""
    rows = [
        row(escape(leg["name"]), [escape(leg["export"]), _checkpoints(leg), escape(leg["metrics"])], number=False)
        for leg in document["legs"]
    ]
    head = "".join(f"<th scope=col>{title}</th>" for title in ("Leg", "Exported model", "Checkpoints", "All metrics"))
    return section("Files", table(rows, head)) if rows else ""


def _checkpoints(leg: Json) -> str:
    """The whole checkpoints that are left, newest first; of an old run, which may have none any more, their folder."""
    kept = [f"step {one['step']:,}, {one['bytes'] / 1e9:,.2f} GB: {escape(one['uri'])}" for one in leg["kept_checkpoints"]]
    return "<br>".join(kept) or escape(leg["checkpoints"])


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
        row(stage["name"], [escape(stage["state"]), "" if stage["seconds"] is None else duration(stage["seconds"])], number=False)
        for stage in document["stages"]
    ]
    return section("Stages", table(rows))


def cost(document: Json) -> str:
    """Cost by stage and leg."""
    value = document["cost"]
    rows = [("Prepare data", value["prepare_data_usd"]), *((f"Train {name}", usd) for name, usd in value["legs_usd"].items())]
    rows += [(f"Evaluate {name}", usd) for name, usd in value["evaluations_usd"].items()]
    rows += [("Total", value["total_usd"])] + ([("Budget", value["budget_usd"])] if value["budget_usd"] is not None else [])
    what = "Billable seconds x instances x on-demand price, of all executions' jobs, each once."
    note = f"<p class=note>{what} Storage, build and functions are not in it.</p>"
    return section("Cost", table([row(escape(name), [dollars(usd)]) for name, usd in rows]) + note)


def attempts(document: Json) -> str:
    """Every job with its place in time, its end status, its cost and its reason."""
    jobs = [("Prepare data", job) for job in document["preparations"]]
    jobs += [(leg["name"], job) for leg in document["legs"] for job in leg["attempts"]]
    if not jobs:
        return ""
    moments = [moment for _, job in jobs for moment in (job["started"], job["ended"]) if moment is not None]
    span = (min(moments), max(max(moments), min(moments) + 1)) if moments else None
    rows = [_attempt(leg, job, span) for leg, job in jobs]
    titles = ("Leg", "Job", "Status", "Time line", "Instances", "Started", "Billable", "Cost", "What ended it")
    note = f"<p class=note>Time line: {clock(span[0])} to {clock(span[1])}.</p>" if span else ""
    return section("Jobs", table(rows, "".join(f"<th scope=col>{title}</th>" for title in titles)) + note)


def _attempt(leg: str, job: Json, span: tuple[float, float] | None) -> str:
    spot = " (spot)" if job["spot"] else ""
    name = f'<a href="{escape(job["log"])}">{escape(job["job_name"])}</a>' if job["log"] else escape(job["job_name"])
    cells = [
        name,
        escape(job["status"]),
        _bar(job, span),
        f"{job['instance_count']} x {escape(job['instance_type'])}{spot}",
        clock(job["started"]),
        duration(job["billable_seconds"]),
        dollars(job["usd"]),
        escape(job["failure"]),
    ]
    return row(escape(leg), cells, number=False)


def _bar(job: Json, span: tuple[float, float] | None) -> str:
    """The job's place between the first start and the last end of all jobs, 0 to 100."""
    if span is None or job["started"] is None:
        return "–"
    end = job["ended"] if job["ended"] is not None else span[1]
    left, right = (100 * (moment - span[0]) / (span[1] - span[0]) for moment in (job["started"], max(end, job["started"])))
    kind = "whole" if job["status"] == "Completed" else "broken"
    return (
        f'<svg class="bar {kind}" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label="{duration(end - job["started"])}">'
        f'<rect x="{left:.2f}" width="{max(right - left, 0.8):.2f}" height="8"/></svg>'
    )


def executions(document: Json) -> str:
    """The run's executions: Admit's answer, and what each changed or why it was refused."""
    found = document.get("executions") or []
    rows, settings = [], []
    for one in found:
        changes = [f"{change['path']} {shown(change['old'])} -> {shown(change['new'])}" for change in one["changes"]]
        told = "; ".join([*one["reasons"], *changes]) or ("as before" if one is not found[0] else "")
        rows.append(row(escape(one["execution"]), [escape(one["started"]), escape(one["outcome"]), escape(told)], number=False))
        content = html.escape(json.dumps(one["settings"], indent=2))
        settings.append(f"<details><summary>Settings of {escape(one['execution'])}</summary><pre>{content}</pre></details>")
    head = "".join(f"<th scope=col>{title}</th>" for title in ("Execution", "Started", "Admit", "Changed, or why not"))
    return section("Executions", table(rows, head) + "".join(settings)) if rows else ""


def sources(document: Json) -> str:
    """What each source of a mixture gave to each leg."""
    rows = []
    for leg in document["legs"]:
        for source in leg["sources"]:
            name = f"{leg['name']}: {source['name']}" if len(document["legs"]) > 1 else source["name"]
            shares = [percent(source["asked_share"]), percent(source["share"])]
            rows.append(row(escape(name), [*shares, amount(source["epochs"], 3), amount(source["held_out_loss"], 3, "nats")]))
    titles = ("Asked share", "Share", "Passes", "Validation loss")
    head = "<td></td>" + "".join(f'<th scope="col" class="number">{title}</th>' for title in titles)
    note = (
        "<p class=note>Shares are of the samples up to the last step logged; what the input asks for, and what was read. "
        "The leg's validation loss is the plain mean of its sources'.</p>"
    )
    return section("Sources of the mixture", table(rows, head) + note) if rows else ""


def data(document: Json) -> str:
    """What was trained on."""
    value = document["data"]
    rows = [
        ("Source", value["source"]),
        ("Objects", value["objects"]),
        ("Bytes as stored", f"{value['bytes']:,}" if value["bytes"] else None),
    ]
    rows += [("Token shards", value["tokens"]), *value["shards"]]
    body = [row(escape(name), [escape(item)], number=False) for name, item in rows if item not in (None, "")]
    return section("Data", _sources(value["sources"]) + table(body)) if body or value["sources"] else ""


def _sources(sources: list[Json]) -> str:
    """One row for each source of a mixture."""
    counts = {"objects": "Objects", "bytes": "Bytes as stored", "train_tokens": "Training tokens", "validation_tokens": "Validation tokens"}
    titles = ("Source", "Text", "Asked", *counts.values(), "Token shards")
    rows = []
    for source in sources:
        numbers = [f"{source[key]:,}" if isinstance(source[key], int) else "" for key in counts]
        place = " ".join([source["uri"] or "", *(source["include"] or ())])
        cells = [escape(item) for item in (place, _asked(source), *numbers, source["tokens"])]
        rows.append(row(escape(source["name"]), cells, number=False))
    return table(rows, "".join(f"<th scope=col>{title}</th>" for title in titles)) if rows else ""


def _asked(source: Json) -> str:
    """``weight 3, from step 51 1``, or ``2 epochs``."""
    if source["epochs"] is not None:
        return f"{source['epochs']:g} epochs"
    changes = [f"from step {change.get('from_step')} {change.get('weight')}" for change in source["curriculum"] or ()]
    return ", ".join([f"weight {source['weight']}", *changes])


def evaluations(document: Json) -> str:
    """The section of report.html: one column a leg, as the figures."""
    legs = [leg for leg in document["legs"] if leg.get("evaluation")]
    if not legs:
        return ""
    found = [dict(evaluated_numbers(leg["evaluation"])) for leg in legs]
    names = list(dict.fromkeys(name for numbers in found for name in numbers))
    rows = [row(escape(name), [amount(numbers.get(name), 4) for numbers in found]) for name in names]
    head = "".join(f'<th scope="col" class="number">{escape(leg["name"])}</th>' for leg in legs)
    told = "".join(f"<li>{escape(sentence)}</li>" for sentence in failures(legs))
    places = "".join(f"<p class=note>{escape(leg['evaluation']['results'])}</p>" for leg in legs if leg["evaluation"]["results"])
    return section("Evaluation", (f"<ul>{told}</ul>" if told else "") + (table(rows, f"<td></td>{head}") if rows else "") + places)


def lineage(document: Json) -> str:
    """Lineage of the model: image, versions, configuration, and the whole run.json."""
    value = document["lineage"]
    rows = [("Image", value["image"]), ("Image tag (hash of the build context)", value["image_tag"])]
    rows += [("Image's bill of materials and provenance", value["image_records"]), ("Execution", value["execution"])]
    rows += [(f"Leg {leg} began from", start) for leg, start in value["began_from"].items()]
    if isinstance(value["environment"], dict):
        rows += list(value["environment"].items())
    body = [row(escape(name), [escape(item)], number=False) for name, item in rows if item]
    if not body and not value["run"]:
        return ""
    run = html.escape(json.dumps(value["run"], indent=2))
    details = f"<details><summary>run.json, the resolved configuration</summary><pre>{run}</pre></details>" if value["run"] else ""
    return section("Lineage", table(body) + details)


def section(title: str, body: str) -> str:
    """A section with its heading."""
    return f"<section><h2>{title}</h2>{body}</section>"


def table(rows: list[str], head: str = "") -> str:
    """A table that scrolls where it is wider than the page."""
    top = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{top}<tbody>{"".join(rows)}</tbody></table></div>'


def row(name: str, cells: list[str], number: bool = True) -> str:
    """A row with its heading."""
    kind = ' class="number"' if number else ""
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td{kind}>{cell}</td>" for cell in cells)}</tr>'
