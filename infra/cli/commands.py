"""The commands that need a deployment, on AWS or on the embedded AWS."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.config import suggestion
from infra.cli.again import settings_of
from infra.cli.exits import CommandError, Exit
from infra.cli.find_run import describe, find_run, run_of_execution
from infra.cli.job_logs import JobChoice
from infra.cli.logs import Stage, shown, stage_log
from infra.cli.observe import Observer
from infra.cli.options import Again, AsJson, AsJsonLines, InputFile, Plain, Recipe, Run, RunId, Settings, echo, echo_line
from infra.cli.plan_screen import plan_value, show_checks, show_plan, show_resolved
from infra.cli.preflight import changes_of, preflight
from infra.cli.result_commands import compare, export, report
from infra.cli.results import show_outcome
from infra.cli.runs import STATUSES, cost_of, list_runs, show_cost, show_runs, starter
from infra.cli.saved_logs import INDEX, save_logs
from infra.cli.screen import output
from infra.cli.start import caller, read_input, resolve_input, start_execution, stop_execution
from infra.cli.storage_commands import clean, empty, images
from infra.cli.target import Target
from infra.cli.watch import AWS_SECONDS, EMBEDDED_SECONDS, watch_lines
from infra.cli.watch import watch as watch_run
from infra.cli.where import on_target
from infra.run.run_id import run_id_of
from infra.run.run_lock import ACTIVE


@on_target
def doctor(target: Target, recipe: Recipe = None, settings: Settings = None, input_file: InputFile = None, as_json: AsJson = False) -> None:
    """Check account, stacks, image, data, token, quotas and budget for a run; a fix for each red line."""
    found = preflight(target, resolve_input(_input(recipe, settings, None, input_file), target))
    if as_json:
        echo({"ready": found.ready, "checks": plan_value(found)["checks"]})
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
        echo(plan_value(found))
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
            echo_line({"event": "started", **started})
        else:
            echo(started)
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
            echo({"run_id": found.run_id, "folder": str(folder), "logs": [dataclasses.asdict(one) for one in saved]})
        else:
            typer.echo("\n".join([str(folder / INDEX), *map(str, saved)]))
        return
    say = functools.partial(typer.echo, err=True)
    for line in stage_log(target, found, stage, follow=follow, say=say, choice=JobChoice(leg=leg, attempt=attempt)):
        if as_json:
            echo_line({"host": line.host, "message": line.message})
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
        echo(cost_of(runs) if cost else runs)
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
        if not typer.confirm(question, err=as_json):  # on stderr, so that --json stays JSON
            if as_json:
                echo({"run_id": name, "execution_arn": execution, "stopping": False})
            raise typer.Exit(int(Exit.DONE))
    me = caller(target)
    stop_execution(target, execution, f"pretrain stop by {me}" if me else "pretrain stop")
    if as_json:
        echo({"run_id": name, "execution_arn": execution, "stopping": True})
    else:
        output().print(f"stopping {name}", highlight=False)


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
        view = watch_lines(observer, echo_line, every=every) if as_json else watch_run(observer, console, every=every, plain=plain)
    except KeyboardInterrupt:
        name = (run_of_execution(target, execution) or execution) + (" --local" if target.embedded else "")
        console.print(f"\nNo longer watching; the run goes on. Stop it with: pretrain stop {name}", highlight=False)
        raise
    if not as_json:
        show_outcome(view, console, local=target.embedded)
    if view.status != "SUCCEEDED":
        raise typer.Exit(int(Exit.FAILED))
