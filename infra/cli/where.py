"""The options that choose the AWS to talk to, added to every command that needs one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar

import typer

from infra.cli.exits import CommandError, Exit
from infra.cli.target import PROJECT, Target, aws_target, explained

P = ParamSpec("P")
R = TypeVar("R")

PANEL = "Which AWS"
OPTIONS: dict[str, tuple[Any, Any]] = {
    "local": (Annotated[bool, typer.Option("--local", help="The embedded AWS of this checkout.", rich_help_panel=PANEL)], False),
    "environment": (
        Annotated[str, typer.Option("--environment", metavar="NAME", help="Settings block of cdk.json.", rich_help_panel=PANEL)],
        "default",
    ),
    "profile": (Annotated[str | None, typer.Option("--profile", metavar="NAME", help="AWS profile.", rich_help_panel=PANEL)], None),
    "region": (Annotated[str | None, typer.Option("--region", metavar="NAME", help="AWS region.", rich_help_panel=PANEL)], None),
}


def on_target(command: Callable[Concatenate[Target, P], R]) -> Callable[..., R]:
    """Turn ``command(target, ...)`` into a command with the options above; they choose the target."""
    signature = inspect.signature(command, eval_str=True)
    own = list(signature.parameters.values())[1:]
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    where = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for name, (annotation, default) in OPTIONS.items()
    ]

    @functools.wraps(command)
    def with_options(context: typer.Context, *args: Any, **kwargs: Any) -> R:
        choice = {name: kwargs.pop(name) for name in OPTIONS}
        choice["local"] |= bool(context.find_root().params.get("local"))  # pretrain --local watch
        target = choose_target(**choice)
        with explained(target):
            return command(target, *args, **kwargs)

    with_options.__signature__ = signature.replace(parameters=[context, *own, *where])  # type: ignore[attr-defined]
    with_options.__annotations__ = {}  # typer would look the names up in this module; the signature holds them resolved
    del with_options.__wrapped__
    return with_options


def checkout() -> Path:
    """The checkout around the working directory; outside of one, the checkout that this command belongs to."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "cdk.json").exists()), PROJECT)


def choose_target(*, local: bool, environment: str, profile: str | None, region: str | None) -> Target:
    """The target that the options mean.

    Raises:
        CommandError: --local and the embedded AWS is not up, or no credentials.
    """
    root = checkout()
    if not local:
        return aws_target(environment=environment, profile=profile, region=region, root=root)
    from infra.cli.local import running_target  # the embedded AWS's own code is needed only here

    target = running_target(root)
    if target is None:
        raise CommandError(f"the embedded AWS of {root} is not running; start it: make local, or pretrain local up", Exit.UNREACHABLE)
    return target
