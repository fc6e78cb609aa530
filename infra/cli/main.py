"""The `pretrain` command: parses arguments, calls one function, and turns errors into a sentence and an exit code."""

from __future__ import annotations

import importlib.metadata
import io
import sys
from typing import Annotated

import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from infra.cli.commands import register
from infra.cli.exits import CommandError, Exit
from infra.cli.local_commands import local_app
from infra.cli.target import unreachable
from local_aws.embedded import EmbeddedError

EXIT_CODES = (
    "Exit codes: 0 done (watch: the run succeeded), 1 the run failed or a check is red, 2 wrong command line, "
    "3 the input cannot work, 4 not found, 5 AWS does not answer or refuses, 130 Ctrl-C."
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
    help="Pre-train Llama-3-like models with torchtitan on SageMaker: look, start, follow, compare.",
)
register(app)
app.add_typer(local_app, name="local")


def print_version(asked: bool) -> None:
    """--version: from the installed package's metadata."""
    if asked:
        typer.echo(f"pretrain {importlib.metadata.version('pretrain')}")
        raise typer.Exit


@app.callback()
def common(
    local: Annotated[bool, typer.Option("--local", help="The embedded AWS of this checkout; also after the command.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=print_version)] = False,
) -> None:
    """Pre-train Llama-3-like models with torchtitan on SageMaker: look, start, follow, compare."""


def main() -> None:
    """Entry point of the `pretrain` script; typer itself ends wrong command lines with 2 and Ctrl-C with 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows ? for other characters
    try:
        app()
    except CommandError as error:
        fail(error.sentence, error.code)
    except EmbeddedError as error:
        fail(str(error), Exit.UNREACHABLE)
    except (BotoCoreError, ClientError) as error:
        explained = unreachable(error, "AWS")
        fail(explained.sentence, explained.code)
    except OSError as error:  # a folder that may not be written, a full disk
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error), Exit.FAILED)


def fail(sentence: str, code: Exit) -> None:
    """Print a sentence on stderr and exit with a code."""
    Console(stderr=True).print(sentence, style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(int(code))
