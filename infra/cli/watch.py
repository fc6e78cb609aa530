"""The watch loop: read, show, wait; a lost connection is reported and retried."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.live import Live

from infra.cli.exits import CommandError, Exit
from infra.cli.observe import Observer
from infra.cli.progress import RunView
from infra.cli.screen import LiveScreen, PlainLines, ascii_only
from infra.cli.target import CREDENTIALS_LOST, EXPIRED

EMBEDDED_SECONDS = 1.0
AWS_SECONDS = 5.0  # GetExecutionHistory allows 20 calls a second per account; five seconds leave room for many watchers
LOST_SECONDS = 15.0
THROTTLED = frozenset(
    {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded", "ServiceUnavailable", "InternalServerError"}
)


RENEW_SECONDS = 3600.0
"""How long fresh credentials are waited for: a person at lunch, not a pipeline that nobody looks at."""


def _expired(observer: Observer) -> CommandError:
    again = f"pretrain watch {observer.run_id}"
    return CommandError(f"your credentials have expired; the run goes on. Renew them (aws sso login), then: {again}", Exit.UNREACHABLE)


def watch(
    observer: Observer, console: Console, *, every: float, plain: bool = False, pause: Callable[[float], None] = time.sleep
) -> RunView:
    """Show the run until it ends; returns its last view.

    A lost connection or a throttled call is shown and retried without limit; expired credentials are waited for, an hour at
    most; every other error is raised.

    Raises:
        CommandError: the embedded AWS has ended, or the credentials were not renewed.
    """
    if plain or not console.is_terminal or console.is_dumb_terminal:  # a dumb terminal would show a live screen at its end only
        return _follow(observer, every, pause, _plain_show(console), lambda text: console.print(text, highlight=False, soft_wrap=True))
    screen = LiveScreen(ascii_only=ascii_only(console))
    with Live(console=console, refresh_per_second=8, transient=False) as live:
        return _follow(
            observer, every, pause, lambda view: live.update(screen.render(view)), lambda text: live.console.print(text, style="yellow")
        )


def watch_lines(
    observer: Observer, write: Callable[[dict[str, Any]], None], *, every: float, pause: Callable[[float], None] = time.sleep
) -> RunView:
    """Write one JSON object for each change of the run until it ends; ``event`` is progress, message or ended."""
    before: list[dict[str, Any]] = [{}]

    def show(view: RunView) -> None:
        value = {key: item for key, item in dataclasses.asdict(view).items() if key not in ("now", "output")}
        if value != before[0]:
            before[0] = value
            outcome = {"output": view.output} if view.ended else {}
            write({"event": "ended" if view.ended else "progress", "time": view.now, **value, **outcome})

    return _follow(observer, every, pause, show, lambda text: write({"event": "message", "time": time.time(), "message": text}))


def _plain_show(console: Console) -> Callable[[RunView], None]:
    lines = PlainLines()

    def show(view: RunView) -> None:
        for line in lines.lines(view):
            console.print(line, highlight=False, soft_wrap=True, markup=False)

    return show


def _follow(
    observer: Observer, every: float, pause: Callable[[float], None], show: Callable[[RunView], None], say: Callable[[str], None]
) -> RunView:
    lost, credentials = False, _Credentials()
    while True:
        view = None
        try:
            view = observer.look()
        except CREDENTIALS_LOST as error:
            credentials.renew(observer, say, error)
        except (BotoCoreError, ConnectionError) as error:
            if ended := observer.target.gone():
                raise CommandError(ended, Exit.UNREACHABLE) from error
            if not lost:
                say(f"connection lost ({error}); the run goes on, trying again every {LOST_SECONDS:.0f} s")
            lost = True
        except ClientError as error:
            if error.response["Error"]["Code"] in EXPIRED:
                credentials.renew(observer, say, error)
            elif error.response["Error"]["Code"] not in THROTTLED:
                raise
        if view is not None:
            if lost or credentials.lost:
                say("connected again")
                lost, credentials = False, _Credentials()
            with contextlib.suppress(BrokenPipeError):
                show(view)
            if view.ended:
                return view
        pause(LOST_SECONDS if lost or credentials.lost else every)


class _Credentials:
    """Waits for fresh credentials, by reading the chain again at every look."""

    def __init__(self) -> None:
        self.lost = 0
        """Looks since they expired."""

    def renew(self, observer: Observer, say: Callable[[str], None], error: Exception) -> None:
        """Let the observer look with credentials read anew.

        Raises:
            CommandError: none can come, or none came within ``RENEW_SECONDS``; it names the command that goes on.
        """
        try:
            target = observer.target.renewed()
        except BotoCoreError:  # the profile itself is gone for a moment, while its file is written
            target = observer.target
        if target is None or self.lost * LOST_SECONDS >= RENEW_SECONDS:
            raise _expired(observer) from error
        if not self.lost:
            say("your credentials have expired; the run goes on. Renew them (aws sso login): this goes on as soon as they are there")
        self.lost += 1
        observer.target = target
