"""`pretrain local`: the embedded AWS of this checkout. `run` is what `make local` calls."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TypeVar

from rich.console import Console
from rich.markup import escape

from infra.cli.exits import CommandError, Exit
from infra.cli.observe import Observer
from infra.cli.progress import RunView
from infra.cli.results import download_export, fetch_report, show_outcome, show_samples
from infra.cli.screen import duration, say
from infra.cli.start import read_input, resolve_input, start_execution, stop_execution
from infra.cli.target import Target, embedded_target, explained, read_settings
from infra.cli.watch import EMBEDDED_SECONDS, watch
from local_aws import embedded as embedded_aws
from local_aws.corpus import CorpusSummary
from local_aws.embedded import Embedded

T = TypeVar("T")

ENVIRONMENT = "local"
NOTE = "The embedded build snapshots the build context; it does not execute the Dockerfile (there is no Docker engine here)."


def target_of(embedded: Embedded) -> Target:
    """The embedded AWS as a command's target; ambient AWS credentials are dropped."""
    return embedded_target(
        endpoint=embedded.endpoint,
        region=embedded.region,
        environment=embedded.environment(),
        settings=read_settings(ENVIRONMENT, embedded_aws.PROJECT),
        gone=lambda: _gone(embedded),
    )


def _gone(embedded: Embedded) -> str | None:
    """Why this embedded AWS will not answer any more; None while its process is alive, even when it is too busy to answer."""
    now = embedded_aws.endpoint(embedded.state_dir.parent)
    if now == embedded.endpoint:
        return None
    if now is not None:
        return f"the embedded AWS was started anew at {now}; give the command again"
    log = embedded.state_dir / "launcher.log"
    return f"the embedded AWS is not running any more; its log is {log}, start it again: make local, or pretrain local up"


def running_target(root: Path) -> Target | None:
    """The embedded AWS that is up in this checkout, or None."""
    found = embedded_aws.status(root)
    return target_of(Embedded(endpoint=found.endpoint, state_dir=root / embedded_aws.STATE_FOLDER)) if found.running else None


def run(console: Console, root: Path, *, recipe: str | None, settings: list[str], run_id: str | None, plain: bool) -> RunView:
    """Start, deploy, upload the corpus, run once, and print the results; returns the run's last view. Ctrl-C stops all of it.

    Raises:
        CommandError: the run failed, or a step before it.
    """
    began = time.monotonic()
    execution: str | None = None
    target: Target | None = None
    with _terminate_like_interrupt():
        try:
            embedded = _step(
                console, "Embedded AWS", lambda: embedded_aws.up(root), lambda made: f"at {made.endpoint}, state under .local/"
            )
            target = target_of(embedded)
            value = read_input(recipe, settings, run_id, None)
            resolve_input(value, target)
            with explained(target):
                _deploy(console, embedded)
                full = os.environ.get("LOCAL_CORPUS") == "full"
                _step(console, "Text", lambda: embedded_aws.upload_corpus(embedded, target.bucket, full=full), _corpus_words)
                say(console, NOTE, style="dim")
                execution = start_execution(target, value)
                view = watch(Observer(target, execution), console, every=EMBEDDED_SECONDS, plain=plain)
                _finish(console, target, view, root, time.monotonic() - began)
                return view
        except KeyboardInterrupt:
            _take_down(console, root, target, execution)
            raise


def up(console: Console, root: Path, port: int | None) -> Target:
    """Start the embedded AWS and deploy the stacks to it; both are idempotent."""
    embedded = _step(console, "Embedded AWS", lambda: embedded_aws.up(root, port), lambda made: f"at {made.endpoint}, state under .local/")
    target = target_of(embedded)
    _deploy(console, embedded)
    return target


def show_status(console: Console, root: Path) -> None:
    """Print the endpoint, and executions and jobs in progress."""
    found = embedded_aws.status(root)
    size = f"{found.state_bytes / 1e6:,.0f} MB of state under {embedded_aws.STATE_FOLDER}/"
    if not found.running:
        console.print(f"The embedded AWS is not running; {size}. Start it: pretrain local up", highlight=False, soft_wrap=True)
        return
    console.print(
        f"Embedded AWS at {found.endpoint}, process {found.pid}, up for {duration(found.up_seconds)}, {size}",
        highlight=False,
        soft_wrap=True,
    )
    for arn in found.executions:
        console.print(f"  run  {arn.rsplit(':', 1)[-1]}", highlight=False)
    for job in found.jobs:
        console.print(f"  job  {job}", highlight=False)
    if not found.executions:
        console.print("  no run under way", highlight=False)


def _deploy(console: Console, embedded: Embedded) -> None:
    began = time.monotonic()
    with console.status("Deploying the stacks (cdk bootstrap, cdk deploy) ...") as status:

        def on_line(line: str) -> None:
            status.update(f"Deploying the stacks: {escape(line.strip()[: max(20, console.width - 30)])}")

        outputs = embedded_aws.deploy(embedded, on_line)
    names, took = ", ".join(sorted(outputs)), duration(time.monotonic() - began)
    console.print(f"[green]✓[/] Stacks deployed by the CDK: {names}, {took}", highlight=False, soft_wrap=True)


def _step(console: Console, name: str, work: Callable[[], T], say: Callable[[T], str]) -> T:
    """Do one step with a spinner, then print its result."""
    began = time.monotonic()
    with console.status(f"{name} ..."):
        made = work()
    console.print(f"[green]✓[/] {name} {escape(say(made))}, {duration(time.monotonic() - began)}", highlight=False, soft_wrap=True)
    return made


def _finish(console: Console, target: Target, view: RunView, root: Path, seconds: float) -> None:
    show_outcome(view, console, local=True)
    folder = root / ".local" / "runs" / view.run_id
    page: Path | None = None
    with contextlib.suppress(CommandError):
        page = fetch_report(target, view.run_id, folder)
    if page is not None:
        console.print(f"\nReport          {_shown(page, root)}", highlight=False, soft_wrap=True)
    if view.status != "SUCCEEDED":
        raise CommandError("the embedded AWS stays up, for pretrain logs --local, until make local-down", Exit.FAILED)
    for leg in view.legs:
        export = folder / leg.name / "export"
        if download_export(target, view.run_id, leg.name, export):
            console.print(f"Exported model  {_shown(export, root)}/", highlight=False, soft_wrap=True)
    skipped = [stage.name for stage in view.stages if stage.state == "skipped"]
    if skipped:
        console.print(f"Skipped         {' and '.join(skipped)}: already done", highlight=False)
    show_samples(view, console)
    console.print()
    say(console, f"{duration(seconds)} in all. The embedded AWS stays up until make local-down or 60 idle minutes.", style="dim")


def _corpus_words(corpus: CorpusSummary) -> str:
    had = "uploaded" if corpus.uploaded else "there already"
    return f"{had}: {corpus.documents:,} paragraphs of botocore's documentation, {corpus.characters / 1e6:.1f} MB"


def _shown(path: Path, root: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(root))
    return str(path)


def _take_down(console: Console, root: Path, target: Target | None, execution: str | None) -> None:
    """After Ctrl-C: stop the run, then the embedded AWS. A second Ctrl-C must not leave half of it running, so it is ignored."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        console.print("\nStopping: the run first, then the embedded AWS ...", highlight=False)
        if target is not None and execution is not None:
            with contextlib.suppress(Exception):  # ignored: the launcher is stopped next, and ends its jobs itself
                stop_execution(target, execution, "Ctrl-C in pretrain local run")
        embedded_aws.down(root)
        console.print("Nothing is left running.", highlight=False)
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def _terminate_like_interrupt() -> Iterator[None]:
    """SIGTERM (from make in a closed terminal, or a CI runner's time limit) is handled like Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
