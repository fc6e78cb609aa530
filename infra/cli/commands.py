"""The commands that need a deployment, on AWS or on the embedded AWS."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import json
import os
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.config import suggestion
from infra.cli import clean as cleaning
from infra.cli import compare as comparing
from infra.cli.again import settings_of
from infra.cli.empty import buckets_to_empty, empty_buckets, refuse_while_runs_are_active, versions
from infra.cli.exits import CommandError, Exit
from infra.cli.find_run import describe, find_run, run_of_execution
from infra.cli.images import build_images, build_variables, pin_images
from infra.cli.job_logs import JobChoice
from infra.cli.logs import Stage, shown, stage_log
from infra.cli.observe import Observer
from infra.cli.plan_screen import plan_value, show_checks, show_plan, show_resolved
from infra.cli.preflight import changes_of, preflight
from infra.cli.results import download_export, fetch_report, show_outcome
from infra.cli.runs import STATUSES, cost_of, list_runs, show_cost, show_runs, starter
from infra.cli.saved_logs import INDEX, save_logs
from infra.cli.screen import output
from infra.cli.start import caller, read_input, resolve_input, start_execution, stop_execution
from infra.cli.target import Target
from infra.cli.watch import AWS_SECONDS, EMBEDDED_SECONDS, watch_lines
from infra.cli.watch import watch as watch_run
from infra.cli.where import on_target
from infra.run.layout import RunLayout
from infra.run.recipes import RECIPES
from infra.run.run_id import run_id_of
from infra.run.run_lock import ACTIVE

NAMES = ", ".join(RECIPES)


def recipes() -> list[str]:
    """Recipe names for shell completion."""
    return list(RECIPES)


Recipe = Annotated[
    str | None, typer.Argument(help=f"Named starting point: {NAMES}; the deployment's default when left out.", autocompletion=recipes)
]
Run = Annotated[str | None, typer.Argument(help="Run id, execution name or ARN; the newest run when left out.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change one value: training.steps=2000")]
RunId = Annotated[str | None, typer.Option("--run", metavar="ID", help="Name of the run.")]
InputFile = Annotated[
    Path | None, typer.Option("--input", metavar="FILE", help="JSON input, as in docs/runs/.", exists=True, dir_okay=False)
]
Again = Annotated[
    str | None, typer.Option("--again", metavar="RUN", help="Go on with a run that ended: its own settings, and what --set changes.")
]
Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of a live screen; the default when piped.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="JSON lines on stdout, one for each change, for scripts.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON value on stdout, for scripts.")]


@on_target
def doctor(target: Target, recipe: Recipe = None, settings: Settings = None, input_file: InputFile = None, as_json: AsJson = False) -> None:
    """Check account, stacks, image, data, token, quotas and budget for a run; a fix for each red line."""
    found = preflight(target, resolve_input(_input(recipe, settings, None, input_file), target))
    if as_json:
        _echo({"ready": found.ready, "checks": plan_value(found)["checks"]})
    else:
        show_checks(found.checks, output())
    if not found.ready:
        raise typer.Exit(int(Exit.FAILED))


@on_target
def plan(
    target: Target,
    recipe: Recipe = None,
    settings: Settings = None,
    run: RunId = None,
    input_file: InputFile = None,
    again: Again = None,
    full: Annotated[bool, typer.Option("--full", help="Also print the whole resolved run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a run would do, need and cost, and what it changes of a run that exists; starts nothing."""
    found = preflight(target, resolve_input(_input(recipe, settings, run, input_file, _before(target, again)), target))
    if as_json:
        _echo(plan_value(found))
        return
    console = output()
    if full:
        show_resolved(found.spec, console)
    show_plan(found, console)
    red = [check for check in found.checks if check.state == "bad"]
    if red:
        console.print(f"\nThe run would be refused or would fail now ({len(red)} red):", style="red")
        show_checks(tuple(red), console)


@on_target
def start(
    target: Target,
    recipe: Recipe = None,
    settings: Settings = None,
    run: RunId = None,
    input_file: InputFile = None,
    again: Again = None,
    watch: Annotated[bool, typer.Option("--watch", help="Watch the run until it ends; the exit code tells whether it succeeded.")] = False,
    plain: Plain = False,
    as_json: AsJson = False,
) -> None:
    """Start a run."""
    value = _input(recipe, settings, run, input_file, _before(target, again))
    changes = changes_of(target, resolve_input(value, target))
    for line in changes:
        typer.echo(line, err=True)  # on stderr, so that --json stays JSON
    execution = start_execution(target, value)
    name = execution.rsplit(":", 1)[-1]
    run_id = run_id_of(value, name)
    if as_json:
        started = {"execution": name, "execution_arn": execution, "run_id": run_id}
        if watch:
            _line({"event": "started", **started})
        else:
            _echo(started)
    else:
        where = " --local" if target.embedded else ""
        hint = "" if watch else f"; watch it: pretrain watch {run_id}{where}"
        output().print(f"started run {run_id} (execution {name}){hint}", highlight=False, soft_wrap=True)
    if watch:
        _follow(target, execution, plain=plain, as_json=as_json)


@on_target
def watch(target: Target, run: Run = None, plain: Plain = False, as_json: AsJsonLines = False) -> None:
    """Follow a run: stages, steps, loss, tokens/s, MFU, dollars so far. Ctrl-C ends watching, not the run."""
    _follow(target, find_run(target, run).execution, plain=plain, as_json=as_json)


@on_target
def logs(
    target: Target,
    run: Run = None,
    stage: Annotated[Stage, typer.Option("--stage", help="Stage whose log to print.")] = "train",
    leg: Annotated[str | None, typer.Option("--leg", metavar="NAME", help="The leg, when there are several.")] = None,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, metavar="N", help="Its Nth job over all executions; the newest when left out.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the log until the stage has ended.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Print the lines unformatted.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", file_okay=False, help="Write every log of the run into this folder instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line; with --to, the index.")] = False,
) -> None:
    """Print the log of a run's stage or of one of its jobs, or save all logs of the run."""
    found = find_run(target, run)
    if folder is not None:
        if follow or leg is not None or attempt is not None:
            raise CommandError("--to saves every log of the run; leave out --follow, --leg and --attempt", Exit.USAGE)
        saved = save_logs(target, found, folder)
        if as_json:
            _echo({"run_id": found.run_id, "folder": str(folder), "logs": [dataclasses.asdict(one) for one in saved]})
        else:
            typer.echo("\n".join([str(folder / INDEX), *map(str, saved)]))
        return
    say = functools.partial(typer.echo, err=True)
    for line in stage_log(target, found, stage, follow=follow, say=say, choice=JobChoice(leg=leg, attempt=attempt)):
        if as_json:
            _line({"host": line.host, "message": line.message})
        else:
            typer.echo(line.text(shown(line.message, raw)))


@on_target
def list_(
    target: Target,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many.")] = 20,
    status: Annotated[str | None, typer.Option("--status", metavar="STATUS", help=f"Only these: {', '.join(STATUSES)}.")] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Only runs that you started with pretrain start.")] = False,
    cost: Annotated[bool, typer.Option("--cost", help="Dollars by run and by month.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the newest runs: status, reason, steps, cost, who started them."""
    if status is not None and status not in STATUSES:
        raise CommandError(f"--status {status}: there is no such status{suggestion(status, STATUSES)}", Exit.USAGE)
    me = caller(target) if mine else None
    if mine and me is None:
        raise CommandError("--mine: who you are is not known (sts:GetCallerIdentity was refused)", Exit.UNREACHABLE)
    runs = list_runs(target, limit, status=status, started_by=me)
    if as_json:
        _echo(cost_of(runs) if cost else runs)
    elif cost:
        show_cost(cost_of(runs), output())
    else:
        show_runs(runs, output())


@on_target
def stop(
    target: Target,
    run: Run = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop a run; its training job writes a checkpoint first, and the same run id resumes from it."""
    found = find_run(target, run)
    execution, name = found.execution, found.run_id
    described = describe(target, execution) or {}
    status = described.get("status", "been forgotten by Step Functions")
    if status not in ACTIVE:
        raise CommandError(f"run {name} is not running, it has {str(status).lower()}", Exit.NOT_FOUND)
    if not yes:
        by = f", started by {who}" if (who := starter(described)) else ""
        question = f"Stop run {name}{by}? Its training job writes a checkpoint first; pretrain start --again goes on."
        if not typer.confirm(question):
            raise typer.Exit(int(Exit.DONE))
    me = caller(target)
    stop_execution(target, execution, f"pretrain stop by {me}" if me else "pretrain stop")
    if as_json:
        _echo({"run_id": name, "execution_arn": execution, "stopping": True})
    else:
        output().print(f"stopping {name}", highlight=False)


@on_target
def compare(
    target: Target, runs: Annotated[list[str], typer.Argument(help="Two or more run ids, or one of several legs.")], as_json: AsJson = False
) -> None:
    """Compare runs: figures side by side, ratios to the first, and the settings that differ."""
    value = comparing.comparison(comparing.read_reports(target, runs))
    if as_json:
        _echo(value)
    else:
        comparing.show_comparison(value, output())


@on_target
def report(
    target: Target,
    run: Run = None,
    folder: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Target folder; runs/<run>/ when left out.")] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a run's report.html and report.json; on AWS, also print the links to the run's console pages."""
    found = find_run(target, run)
    run_id, execution = found.run_id, found.execution_arn.rsplit(":", 1)[-1] if found.execution_arn else None
    page = fetch_report(target, run_id, folder or Path.cwd() / "runs" / run_id, execution)
    links = json.loads(page.with_name("report.json").read_text())["links"]
    if as_json:
        _echo({"run_id": run_id, "report": str(page), "links": links})
    else:
        typer.echo(str(page))
        if not target.embedded:  # which has no console
            for name in ("execution", "logs", "dashboard"):
                typer.echo(f"{name:9}  {links.get(name, '-')}", err=True)  # on stderr, so that $(pretrain report) is the path only
    if open_it:
        webbrowser.open(page.resolve().as_uri())


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
    files = download_export(target, run_id, name, directory)
    if not files:
        raise CommandError(f"run {run_id} has no exported model for leg {name}; it is written when the leg ends", Exit.NOT_FOUND)
    size = sum(path.stat().st_size for path in files)
    if as_json:
        _echo({"run_id": run_id, "leg": name, "folder": str(directory), "files": [str(path) for path in files], "bytes": size})
    else:
        typer.echo(f"{directory}: leg {name} of run {run_id}, {len(files)} files, {size / 1e6:,.1f} MB")


@on_target
def images(
    target: Target,
    pin: Annotated[bool, typer.Option("--pin", help="Build nothing: write the digests of base images and BuildKit.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build and push the deployment's two images from this machine; the next run skips its build stage."""
    if pin:
        pinned = pin_images(target.settings.training_base_image or "")
        if as_json:
            _echo({"pinned": pinned})
            return
        for reference, digest in pinned.items():
            typer.echo(f"{reference}\n  {digest}")
        typer.echo("container/base-images.lock is written; commit it, and the next deployment's images start from exactly these.")
        return
    variables = build_variables(target)
    build_images(variables, os.environ, quiet=as_json)
    if as_json:
        _echo({"pushed": True, "repository": variables.get("REPOSITORY_URI"), "tag": variables.get("IMAGE_TAG")})
    else:
        typer.echo("The repository has both images; the next run skips the stage Build image.")


@on_target
def empty(target: Target, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False, as_json: AsJson = False) -> None:
    """Delete every object and old version in the buckets that go with the stacks (retain_data: false); make destroy begins with it."""
    buckets = buckets_to_empty(target)
    if buckets:
        refuse_while_runs_are_active(target)
        held = {name: sum(len(batch) for batch in versions(target.client("s3"), name)) for name in buckets}
        what = ", ".join(f"{count:,} objects and versions in {name}" for name, count in held.items())
        question = f"Delete for good: {what}? Tokens, checkpoints, models and reports of every run are among them."
        if not yes and not typer.confirm(question, err=as_json):
            raise CommandError("nothing was deleted; the stacks are as they were", Exit.FAILED)
    deleted = empty_buckets(target, buckets) if buckets else {}
    if as_json:
        _echo({"deleted": deleted})
    elif not buckets:
        typer.echo("Nothing to empty: the deployed stacks keep their buckets (retain_data).")
    else:
        for name, count in deleted.items():
            typer.echo(f"{name}: {count:,} deleted")


@on_target
def clean(target: Target, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False, as_json: AsJson = False) -> None:
    """Show what costs storage and what of it can go without loss (old checkpoints, tokens of no run); ask, then delete that."""
    now = dt.datetime.now(dt.UTC)
    found = cleaning.look(target, now)
    if not as_json:
        cleaning.show(found, output())
    deleted = 0
    if found.can_go and (yes or (not as_json and typer.confirm(cleaning.question(found)))):
        deleted = cleaning.delete(target, found, dt.datetime.now(dt.UTC))
    if as_json:
        _echo({**cleaning.as_value(found), "deleted_bytes": deleted})
    elif deleted:
        typer.echo(f"{deleted / 1e9:,.2f} GB deleted; the bucket keeps their versions for a while")
    elif not found.can_go:
        typer.echo("Nothing can go without loss.")


EXAMPLES = {
    "doctor": (doctor, "pretrain doctor llama3_8b"),
    "plan": (plan, "pretrain plan llama3_8b --set training.steps=2000"),
    "start": (start, "pretrain start llama3_8b --set training.steps=2000 --run evening --watch"),
    "watch": (watch, "pretrain watch evening --plain"),
    "logs": (logs, "pretrain logs evening --leg main --attempt 2 --follow"),
    "list": (list_, "pretrain list --limit 5"),
    "stop": (stop, "pretrain stop evening --yes"),
    "compare": (compare, "pretrain compare evening morning"),
    "report": (report, "pretrain report evening --open"),
    "images": (images, "pretrain images"),
    "clean": (clean, "pretrain clean --json"),
    "empty": (empty, "pretrain empty --environment trial"),
    "export": (export, "pretrain export ./model --run evening"),
}
"""Every command with the example that its --help shows."""


def register(app: typer.Typer) -> None:
    """Add the commands to the application, in the order of use."""
    for name, (command, example) in EXAMPLES.items():
        app.command(name, epilog=f"Example: {example}", no_args_is_help=name in ("compare", "export"))(command)


def _before(target: Target, again: str | None) -> dict[str, Any] | None:
    return settings_of(target, find_run(target, again).run_id) if again is not None else None


def _input(
    recipe: str | None, settings: list[str] | None, run: str | None, file: Path | None, before: dict[str, Any] | None = None
) -> dict[str, Any]:
    given = {"a recipe": recipe, "--run": run, "--input": file}
    contradicting = [name for name, value in given.items() if before is not None and value is not None]
    if contradicting:
        raise CommandError(f"--again takes the run's own settings: leave out {' and '.join(contradicting)}", Exit.USAGE)
    return read_input(recipe, settings or [], run, file.read_bytes() if file else None, before)


def _follow(target: Target, execution: str, *, plain: bool, as_json: bool = False) -> None:
    """Watch to the end and print the outcome; a failed run ends with exit code 1."""
    console = output(stderr=as_json)
    every = EMBEDDED_SECONDS if target.embedded else AWS_SECONDS
    try:
        observer = Observer(target, execution)
        view = watch_lines(observer, _line, every=every) if as_json else watch_run(observer, console, every=every, plain=plain)
    except KeyboardInterrupt:
        name = (run_of_execution(target, execution) or execution) + (" --local" if target.embedded else "")
        console.print(f"\nNo longer watching; the run goes on. Stop it with: pretrain stop {name}", highlight=False)
        raise
    if not as_json:
        show_outcome(view, console)
    if view.status != "SUCCEEDED":
        raise typer.Exit(int(Exit.FAILED))


def _legs(target: Target, run_id: str) -> list[str]:
    s3 = target.client("s3")
    try:
        body = s3.get_object(Bucket=target.bucket, Key=RunLayout(run_id).run_json)["Body"].read()
    except s3.exceptions.NoSuchKey:
        return []
    try:
        return [str(leg["name"]) for leg in json.loads(body)["legs"]]
    except (ValueError, KeyError, TypeError):
        key = RunLayout(run_id).run_json
        raise CommandError(f"s3://{target.bucket}/{key} cannot be read; restore its version before (the bucket keeps versions)") from None


def _line(value: Any) -> None:
    """One JSON line, at once."""
    typer.echo(json.dumps(value))


def _echo(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))
