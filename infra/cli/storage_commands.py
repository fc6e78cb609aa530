"""The commands that make images and delete what is stored: images, clean, empty."""

from __future__ import annotations

import datetime as dt
import os
from typing import Annotated

import typer

from infra.cli import clean as cleaning
from infra.cli.empty import buckets_to_empty, empty_buckets, refuse_while_runs_are_active, versions
from infra.cli.exits import CommandError, Exit
from infra.cli.images import build_images, build_variables, pin_images
from infra.cli.options import AsJson, echo
from infra.cli.screen import output
from infra.cli.target import Target
from infra.cli.where import on_target


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
            echo({"pinned": pinned})
            return
        for reference, digest in pinned.items():
            typer.echo(f"{reference}\n  {digest}")
        typer.echo("container/base-images.lock is written; commit it, and the next deployment's images start from exactly these.")
        return
    variables = build_variables(target)
    build_images(variables, os.environ, quiet=as_json)
    if as_json:
        echo({"pushed": True, "repository": variables.get("REPOSITORY_URI"), "tag": variables.get("IMAGE_TAG")})
    else:
        typer.echo("The repository has both images; the next run skips the stage Build image.")


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
        echo({**cleaning.as_value(found), "deleted_bytes": deleted})
    elif deleted:
        typer.echo(f"{deleted / 1e9:,.2f} GB deleted; the bucket keeps their versions for a while")
    elif not found.can_go:
        typer.echo("Nothing can go without loss.")


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
        echo({"deleted": deleted})
    elif not buckets:
        typer.echo("Nothing to empty: the deployed stacks keep their buckets (retain_data).")
    else:
        for name, count in deleted.items():
            typer.echo(f"{name}: {count:,} deleted")
