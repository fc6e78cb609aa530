"""The commands that read what runs left: compare, report, export."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from infra.cli import compare as comparing
from infra.cli.exits import CommandError, Exit
from infra.cli.find_run import find_run
from infra.cli.options import AsJson, Run, echo
from infra.cli.report_again import write_again
from infra.cli.results import download_export, fetch_report
from infra.cli.screen import output
from infra.cli.target import Target
from infra.cli.where import on_target
from infra.run.layout import REPORT_JSON, RunLayout


@on_target
def compare(
    target: Target, runs: Annotated[list[str], typer.Argument(help="Two or more run ids, or one of several legs.")], as_json: AsJson = False
) -> None:
    """Compare runs: figures side by side, ratios to the first, and the settings that differ."""
    value = comparing.comparison(comparing.read_reports(target, runs))
    if as_json:
        echo(value)
    else:
        comparing.show_comparison(value, output())


@on_target
def report(
    target: Target,
    run: Run = None,
    folder: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Target folder; runs/<run>/ when left out.")] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Write it anew first; trackers and Model Registry get what they lack.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a run's report.html and report.json; on AWS, also print the links to the run's console pages."""
    found = find_run(target, run)
    for sentence in write_again(target, found) if again else ():
        typer.echo(sentence, err=True)
    run_id, execution = found.run_id, found.execution_arn.rsplit(":", 1)[-1] if found.execution_arn else None
    page = fetch_report(target, run_id, folder or Path.cwd() / "runs" / run_id, execution)
    links = _links(page)
    if as_json:
        echo({"run_id": run_id, "report": str(page), "links": links})
    else:
        typer.echo(str(page))
        if not target.embedded:  # which has no console
            for name in ("execution", "logs", "dashboard"):
                typer.echo(f"{name:9}  {links.get(name, '-')}", err=True)  # on stderr, so that $(pretrain report) is the path only
    if open_it:
        webbrowser.open(page.resolve().as_uri())


def _links(page: Path) -> dict[str, str]:
    """The links to the run's console pages; none where report.json is damaged: the page is there all the same."""
    try:
        return {str(name): str(link) for name, link in json.loads(page.with_name(REPORT_JSON).read_text())["links"].items() if link}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        typer.echo(f"{page.with_name(REPORT_JSON)} cannot be read, so there are no links; the bucket keeps its older versions", err=True)
        return {}


@on_target
def export(
    target: Target,
    directory: Annotated[Path, typer.Argument(help="Folder for the model.", file_okay=False)],
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="The run; the newest when left out.")] = None,
    leg: Annotated[str | None, typer.Option("--leg", metavar="NAME", help="The leg, when there are several.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a run's exported model: Hugging Face safetensors, config and tokenizer."""
    run_id = find_run(target, run).run_id
    legs = _legs(target, run_id)
    if (leg is None and len(legs) > 1) or (leg is not None and legs and leg not in legs):
        raise CommandError(f"run {run_id} has the legs {', '.join(legs)}: choose one with --leg", Exit.USAGE)
    name = leg or (legs[0] if legs else "main")
    model = download_export(target, run_id, name, directory)
    if model is None:
        raise CommandError(f"run {run_id} has no exported model for leg {name}; it is written when the leg ends", Exit.NOT_FOUND)
    size = sum(path.stat().st_size for path in model.files)
    if as_json:
        found = {"run_id": run_id, "leg": name, "folder": str(directory), "files": [str(path) for path in model.files], "bytes": size}
        echo(found | {"verified": model.verified})
        return
    checked = "as the training job wrote it (SHA-256)" if model.verified else "compared by size only"
    typer.echo(f"{directory}: leg {name} of run {run_id}, {len(model.files)} files, {size / 1e6:,.1f} MB, {checked}")
    if not model.verified:
        typer.echo("The model was exported by an older version, which left no checksums.", err=True)


def _legs(target: Target, run_id: str) -> list[str]:
    s3 = target.client("s3")
    try:
        body = s3.get_object(Bucket=target.bucket, Key=RunLayout(run_id).run_json)["Body"].read()
    except s3.exceptions.NoSuchKey:
        return []
    try:
        return [str(leg["name"]) for leg in json.loads(body)["legs"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        key = RunLayout(run_id).run_json
        raise CommandError(f"s3://{target.bucket}/{key} cannot be read; restore its version before (the bucket keeps versions)") from None
