"""`pretrain local ...`: the commands over infra/cli/local.py."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from infra.cli.options import NAMES, AsJson, echo, recipes
from infra.cli.screen import output, say
from infra.cli.where import checkout

local_app = typer.Typer(no_args_is_help=True, help="The embedded AWS of this checkout.")


@local_app.command("run", epilog="Example: pretrain local run --set training.steps=200 --run evening")
def run(
    recipe: Annotated[
        str | None, typer.Argument(help=f"Named starting point: {NAMES}; local when left out.", autocompletion=recipes)
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change one value.")] = None,
    run_id: Annotated[str | None, typer.Option("--run", metavar="ID", help="Name of the run.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live screen.")] = False,
    as_json: AsJson = False,
) -> None:
    """Deploy to the embedded AWS, train on real text, and show the results."""
    from infra.cli import local

    view = local.run(output(stderr=as_json), checkout(), recipe=recipe, settings=settings or [], run_id=run_id, plain=plain)
    if as_json:
        echo({"run_id": view.run_id, "execution_arn": view.execution_arn, "status": view.status, "output": view.output})


@local_app.command("up", epilog="Example: pretrain local up --port 4570")
def up(
    port: Annotated[int | None, typer.Option(min=1024, max=65535, help="Port; 4566 or the next free one when left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start the embedded AWS and deploy the stacks to it."""
    from infra.cli import local

    target = local.up(output(stderr=as_json), checkout(), port)
    if as_json:
        echo({"endpoint": target.endpoint, "region": target.region, "outputs": target.outputs})


@local_app.command("status", epilog="Example: pretrain local status")
def status(as_json: AsJson = False) -> None:
    """Show what runs on the embedded AWS."""
    from infra.cli import local
    from local_aws import embedded

    if as_json:
        echo(dataclasses.asdict(embedded.status(checkout())))
    else:
        local.show_status(output(), checkout())


@local_app.command("down", epilog="Example: pretrain local down")
def down(as_json: AsJson = False) -> None:
    """Stop the embedded AWS and everything that it started."""
    from local_aws import embedded

    ended = embedded.down(checkout())
    if as_json:
        echo({"was_running": ended})
    else:
        words = "is down" if ended else "was not running"
        say(output(), f"The embedded AWS {words}; its state stays under .local/ until pretrain local clean.")


@local_app.command("clean", epilog="Example: pretrain local clean")
def clean(as_json: AsJson = False) -> None:
    """Stop it and delete its state."""
    from local_aws import embedded

    embedded.clean(checkout())
    if as_json:
        echo({"deleted": True})
    else:
        say(output(), "The embedded AWS is down and its state is deleted.")
