"""The `pretrain` command: parses, calls one function, turns errors into a sentence and an exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from infra.cli.exits import CommandError, Exit
from infra.cli.local_commands import local_app
from infra.cli.observe import Observer
from infra.cli.results import fetch_report, show_outcome
from infra.cli.start import find_execution, read_input, resolve_input, start_execution, stop_execution
from infra.cli.target import Target, unreachable
from infra.cli.watch import AWS_SECONDS, EMBEDDED_SECONDS
from infra.cli.watch import watch as watch_run
from infra.cli.where import on_target
from infra.local.embedded import EmbeddedError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Pre-train Llama-3-like models with torchtitan on SageMaker.",
)
app.add_typer(local_app, name="local")

Recipe = Annotated[str | None, typer.Argument(help="Named starting point; the deployment's default when left out.")]
Run = Annotated[str | None, typer.Argument(help="Run id, execution name or ARN; the newest run when left out.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change one value, for example training.steps=2000.")
]
RunId = Annotated[str | None, typer.Option("--run", metavar="ID", help="Name of the run.")]
InputFile = Annotated[
    Path | None, typer.Option("--input", metavar="FILE", help="JSON input, as in docs/runs/.", exists=True, dir_okay=False)
]
Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of a live screen; the default when piped.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON value on stdout, for scripts.")]


@app.command()
@on_target
def start(
    target: Target,
    recipe: Recipe = None,
    settings: Settings = None,
    run: RunId = None,
    input_file: InputFile = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and watch; the exit code is the run's.")] = False,
    plain: Plain = False,
    as_json: AsJson = False,
) -> None:
    """Start a run."""
    value = read_input(recipe, settings or [], run, input_file.read_text() if input_file else None)
    resolve_input(value, target)
    execution = start_execution(target, value)
    if as_json and not watch:
        typer.echo(json.dumps({"execution_arn": execution, "run_id": run or execution.rsplit(":", 1)[-1]}))
    elif not watch:
        name = run or execution.rsplit(":", 1)[-1]
        Console().print(
            f"started {name}; watch it: pretrain watch {name}{' --local' if target.embedded else ''}", highlight=False, soft_wrap=True
        )
    else:
        follow(target, execution, plain=plain)


@app.command()
@on_target
def watch(target: Target, run: Run = None, plain: Plain = False) -> None:
    """Follow a run: stages, steps, loss, tokens/s, dollars so far."""
    follow(target, find_execution(target, run), plain=plain)


@app.command()
@on_target
def stop(target: Target, run: Run = None, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Stop a run; its training job writes a checkpoint first."""
    execution = find_execution(target, run)
    name = execution.rsplit(":", 1)[-1]
    if not yes and not typer.confirm(f"Stop {name}? Its training job writes a checkpoint first; starting the same run id again resumes."):
        raise typer.Exit(int(Exit.DONE))
    stop_execution(target, execution, "pretrain stop")
    Console().print(f"stopping {name}", highlight=False)


@app.command()
@on_target
def report(target: Target, run: Run = None) -> None:
    """Fetch a run's report.html."""
    view = Observer(target, find_execution(target, run)).look()
    page = fetch_report(target, view.run_id, Path.cwd() / "runs" / view.run_id)
    Console().print(str(page), highlight=False, soft_wrap=True)


def follow(target: Target, execution: str, *, plain: bool) -> None:
    """Watch to the end, say what came of it; a failed run ends with exit code 1."""
    console = Console()
    every = EMBEDDED_SECONDS if target.embedded else AWS_SECONDS
    try:
        view = watch_run(Observer(target, execution), console, every=every, plain=plain)
    except KeyboardInterrupt:
        where = " --local" if target.embedded else ""
        console.print(
            f"\nNo longer watching; the run goes on. Stop it with: pretrain stop {execution.rsplit(':', 1)[-1]}{where}", highlight=False
        )
        raise
    show_outcome(view, console)
    if view.status != "SUCCEEDED":
        raise typer.Exit(int(Exit.FAILED))


def main() -> None:
    """Entry point of the `pretrain` script; typer itself ends wrong command lines with 2 and Ctrl-C with 130."""
    try:
        app()
    except CommandError as error:
        fail(error.sentence, error.code)
    except EmbeddedError as error:
        fail(str(error), Exit.UNREACHABLE)
    except (BotoCoreError, ClientError) as error:
        explained = unreachable(error, "AWS")
        fail(explained.sentence, explained.code)


def fail(sentence: str, code: Exit) -> None:
    """Say it on stderr and leave."""
    Console(stderr=True).print(sentence, style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(int(code))
