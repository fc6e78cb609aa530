"""Options that several commands share, and JSON on stdout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.run.recipes import RECIPES

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


def echo_line(value: Any) -> None:
    """One JSON line, at once."""
    typer.echo(json.dumps(value))


def echo(value: Any) -> None:
    """One JSON value on stdout."""
    typer.echo(json.dumps(value, indent=2))
