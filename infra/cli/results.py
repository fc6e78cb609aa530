"""Results of a finished run: printed on the terminal, and fetched from S3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from rich.console import Console
from rich.markup import escape

from infra.cli.exits import CommandError, Exit
from infra.cli.model_folder import PART, Model, Source, fetch_model
from infra.cli.progress import RunView
from infra.cli.screen import say
from infra.cli.target import Target
from infra.run.layout import REPORT_HTML, REPORT_JSON, RunLayout
from infra.run.leg_files import export_of


def download_export(target: Target, run_id: str, leg: str, folder: Path) -> Model | None:
    """A leg's exported model into ``folder``; None while no attempt has reached the last step."""
    found = export_of(target.client("s3"), target.bucket, RunLayout(run_id), leg)
    return fetch_model(target, Source(run_id=run_id, leg=leg, folder=found), folder) if found is not None else None


def download_file(target: Target, key: str, path: Path) -> Path | None:
    """One object, or None when it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        body = target.client("s3").get_object(Bucket=target.bucket, Key=key)["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
            return None
        raise
    partial = path.with_name(path.name + PART)
    partial.write_bytes(body)
    partial.replace(path)
    return path


def fetch_report(target: Target, run_id: str, folder: Path, execution: str | None = None) -> Path:
    """report.html and report.json of a run; of one that was always refused, those of its newest execution.

    Args:
        target: the deployment.
        run_id: the run.
        folder: where they go.
        execution: name of the execution whose own report is taken where the run has none.

    Raises:
        CommandError: the run has written none.
    """
    layout = RunLayout(run_id)
    for prefix in (layout.prefix, *([layout.execution_folder(execution)] if execution else [])):
        page = download_file(target, prefix + REPORT_HTML, folder / REPORT_HTML)
        if page is not None:
            download_file(target, prefix + REPORT_JSON, folder / REPORT_JSON)
            return page
    raise CommandError(f"run {run_id} has no report yet; it is written when the run ends (pretrain watch {run_id})", Exit.NOT_FOUND)


def show_outcome(view: RunView, console: Console, *, local: bool = False) -> None:
    """What was trained, from the execution's output; why it failed, otherwise. ``local``: on the embedded AWS."""
    if view.status != "SUCCEEDED":
        what = "was refused" if view.refused else {"ABORTED": "was stopped", "TIMED_OUT": "took too long"}.get(view.status, "failed")
        style = "yellow" if view.status == "ABORTED" else "red"
        console.print(f"\n[bold {style}]The run {what}.[/] {escape(view.sentence or '')}", highlight=False, soft_wrap=True)
        if not view.refused:
            command = f"pretrain start --again {view.run_id}" + (" --local" if local else "")
            console.print(f"Go on from its last checkpoint: {command}", highlight=False, soft_wrap=True)
        return
    console.print()
    say(console, str(view.output.get("headline", "The run succeeded.")), style="bold")
    legs = view.output.get("legs") or []
    for leg in legs:
        for line in leg_lines(leg, several=len(legs) > 1):
            say(console, f"{leg['name'] + ': ' if len(legs) > 1 else ''}{line}", indent=2)


def leg_lines(leg: dict[str, Any], *, several: bool) -> list[str]:
    """A leg's results, one sentence a line; the headline has the losses of a leg alone."""
    lines = []
    if several and leg.get("loss_first") is not None and leg.get("loss_last") is not None:
        lines.append(f"loss {leg['loss_first']:.3f} at first, {leg['loss_last']:.3f} at last, {leg['steps']:,} steps")
    if leg.get("validation_loss") is not None:
        line = f"validation loss {leg['validation_loss']:.3f}"
        if leg.get("unigram_entropy") is not None:
            below = leg["unigram_entropy"] - leg["validation_loss"]
            line += f", {below:.3f} nats below the text's unigram entropy of {leg['unigram_entropy']:.3f}"
        lines.append(line)
    if leg.get("tokens_per_second_per_device") is not None:
        lines.append(
            f"{leg['tokens_per_second_per_device']:,.0f} tokens/s per device" + (f", MFU {leg['mfu']:.1f} %" if leg.get("mfu") else "")
        )
    return lines


def show_samples(view: RunView, console: Console) -> None:
    """The short text that each finished model wrote."""
    for leg in view.output.get("legs") or []:
        sample = leg.get("sample") or {}
        text = str(sample.get("text") or "")
        if text:
            prompt = str(sample.get("prompt") or "")
            writer = "the model" if len(view.output["legs"]) == 1 else f"leg {leg['name']}"
            console.print()
            say(console, f"A sample that {writer} wrote" + (f', given "{prompt}":' if prompt else ":"))
            say(console, prompt + text.removeprefix(prompt), indent=2)
