"""What torch's profiler recorded (training.profile): a leg's part of report.json, and the section of report.html that links to it."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from infra.report.read import Json
from infra.report.tables import escape, row, section, table
from infra.run.layout import uri
from infra.run.leg_files import ProfilerFile


def profiles_value(files: Sequence[ProfilerFile], bucket: str, region: str) -> list[Json]:
    """Attempt, name, size and places of each file, the oldest attempt's first."""
    return [
        {
            "attempt": one.attempt,
            "name": one.name,
            "bytes": one.bytes,
            "uri": uri(bucket, one.key),
            "console": f"https://{region}.console.aws.amazon.com/s3/object/{bucket}?region={region}&prefix={quote(one.key)}",
        }
        for one in files
    ]


def profiles(document: Json) -> str:
    """The section of report.html; "" when nothing was recorded."""
    rows = [
        row(
            escape(leg["name"]),
            [f'<a href="{escape(one["console"])}">{escape(one["name"])}</a>', f"{one['bytes'] / 1e6:,.2f} MB", escape(one["uri"])],
            number=False,
        )
        for leg in document["legs"]
        for one in leg["profiles"]
    ]
    head = "".join(f"<th scope=col>{title}</th>" for title in ("Leg", "File, in the AWS console", "Size", "In S3"))
    note = (
        f"<p class=note><code>pretrain logs {escape(document['run_id'])} --to DIR</code> fetches all of them. A trace opens at "
        "ui.perfetto.dev, a memory snapshot at pytorch.org/memory_viz; neither page sends it anywhere.</p>"
    )
    return section("Profiles", table(rows, head) + note) if rows else ""
