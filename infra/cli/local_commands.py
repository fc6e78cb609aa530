"""`pretrain local ...`: the commands over infra/cli/local.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

local_app = typer.Typer(no_args_is_help=True, help="The embedded AWS of this checkout.")


@local_app.command("run")
def run(
    recipe: Annotated[str | None, typer.Argument(help="Named starting point; local when left out.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change one value.")] = None,
    run_id: Annotated[str | None, typer.Option("--run", metavar="ID", help="Name of the run.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live screen.")] = False,
) -> None:
    """Deploy to the embedded AWS, train on real text, and show what came of it."""
    from infra.cli import local

    local.run(Console(), Path.cwd(), recipe=recipe, settings=settings or [], run_id=run_id, plain=plain)


@local_app.command("up")
def up(port: Annotated[int | None, typer.Option(help="Port; 4566 or the next free one when left out.")] = None) -> None:
    """Start the embedded AWS and deploy the stacks to it."""
    from infra.cli import local

    local.up(Console(), Path.cwd(), port)


@local_app.command("status")
def status() -> None:
    """Say what runs on the embedded AWS."""
    from infra.cli import local

    local.show_status(Console(), Path.cwd())


@local_app.command("down")
def down() -> None:
    """Stop the embedded AWS and everything that it started."""
    from infra.local import embedded

    embedded.down()
    Console().print("The embedded AWS is down; its state stays under .local/ (pretrain local clean deletes it).", highlight=False)


@local_app.command("clean")
def clean() -> None:
    """Stop it and delete its state."""
    from infra.local import embedded

    embedded.clean()
    Console().print("The embedded AWS is down and its state is deleted.", highlight=False)
