"""Where the time to the first step went, and what a leg did otherwise than asked: two sections of report.html, like tables.py."""

from __future__ import annotations

from infra.report.read import Json
from infra.report.tables import duration, escape, row, section, table


def starts(document: Json) -> str:
    """Seconds of each part of the start of every finished leg's last attempt, on the host of rank 0."""
    legs = [leg for leg in document["legs"] if leg["startup_seconds"]]
    if not legs:
        return ""
    parts = list(dict.fromkeys(part for leg in legs for part in leg["startup_seconds"]))
    head = "".join(f"<th scope=col>{escape(title)}</th>" for title in ("Leg", "In all", *(part.replace("_", " ") for part in parts)))
    rows = [
        row(
            escape(leg["name"]),
            [duration(sum(leg["startup_seconds"].values())), *(duration(leg["startup_seconds"].get(part)) for part in parts)],
        )
        for leg in legs
    ]
    note = "<p class=note>From the container's start to the end of the first step, which compiles; the last attempt of each leg.</p>"
    return section("Start-up", table(rows, head) + note)


def otherwise(document: Json) -> str:
    """What a leg did differently than its settings ask, and why; "" when nothing."""
    said = [f"{escape(leg['name'])}: {escape(text)}" for leg in document["legs"] for text in leg["otherwise"]]
    return section("Done differently", "<ul>" + "".join(f"<li>{line}</li>" for line in said) + "</ul>") if said else ""
