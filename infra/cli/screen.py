"""A run on the terminal: a live screen for people, one line per change for a pipe."""

from __future__ import annotations

import datetime as dt
import locale
import os
import sys

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from infra.cli.progress import LegView, RunView, StageView

MARKS = {
    "waiting": ("·", "dim"), "running": (" ", ""), "done": ("✓", "green"), "skipped": ("✓", "dim green"),
    "failed": ("✗", "bold red"), "refused": ("✗", "bold red"), "stopped": ("■", "yellow"),
}  # fmt: skip
ASCII_MARKS = {"waiting": ".", "running": " ", "done": "+", "skipped": "+", "failed": "x", "refused": "x", "stopped": "#"}
BAR_WIDTH = 16
NARROW_BAR_WIDTH = 8
PIPE_WIDTH = 1000
TABLE_WIDTH = 80
"""Columns that the table of legs needs."""


def duration(seconds: float | None) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 10 min``; a dash when not known."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def output(*, stderr: bool = False) -> Console:
    """The console that commands print to: as wide as the terminal; in a pipe lines are not wrapped, unless COLUMNS gives a width."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False)


def say(console: Console, text: str, *, style: str = "", indent: int = 0) -> None:
    """Print a sentence without markup: wrapped between words on a terminal, one line in a pipe."""
    if console.is_terminal:
        console.print(Padding(Text(text, style=style), (0, 0, 0, indent)))
    else:
        console.print(" " * indent + text, highlight=False, markup=False, soft_wrap=True)


def ascii_only(console: Console) -> bool:
    """Whether the terminal shows ASCII only: its encoding says so, or the locale is C, in which Python writes UTF-8 all the same."""
    return console.options.ascii_only or locale.setlocale(locale.LC_CTYPE) in ("C", "POSIX")


class LiveScreen:
    """Renders views; one spinner for all of them, so that its animation is continuous."""

    def __init__(self, *, ascii_only: bool = False) -> None:
        self._ascii = ascii_only
        self._spinner = Spinner("line" if ascii_only else "dots")

    def render(self, view: RunView) -> RenderableType:
        """The whole screen: a table of legs from 80 columns on, below that a sentence for each."""
        parts: list[RenderableType] = [
            Text.assemble(("run ", "dim"), (view.run_id, "bold"), ("  " + _state_word(view), _state_style(view)))
        ]
        parts.append(self._stages(view))
        shown = [leg for leg in view.legs if leg.step]
        if shown:
            parts.append(_Legs(shown, len(view.legs) > 1, self._ascii))
        if view.sentence:
            parts.append(Text(view.sentence, style="yellow" if view.status == "ABORTED" else "red"))
        return Group(*parts)

    def _stages(self, view: RunView) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(ratio=1)
        for stage in view.stages:
            mark, style = MARKS[stage.state]
            mark = ASCII_MARKS[stage.state] if self._ascii else mark
            table.add_row(
                self._spinner if stage.state == "running" and not view.ended else Text(mark, style=style),
                Text(stage.name, style="dim" if stage.state == "waiting" else ""),
                Text(_took(stage, view.now)),
                Text(_note(stage, view), style="dim"),
            )
        return table


class _Legs:
    """The legs, as wide as the terminal allows."""

    def __init__(self, legs: list[LegView], several: bool, ascii_only: bool) -> None:
        self._legs, self._several, self._ascii = legs, several, ascii_only

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width >= TABLE_WIDTH:
            yield _legs(self._legs, self._several, self._ascii)
        else:  # a table would cut its figures
            yield from (Text(_leg_line(leg, validated=True) + (f", ${leg.usd:,.2f}" if leg.usd is not None else "")) for leg in self._legs)


def _bar(leg: LegView, width: int, ascii_only: bool) -> RenderableType:
    if not ascii_only:
        return ProgressBar(total=max(1, leg.steps), completed=leg.step, width=width)
    done = min(width, width * leg.step // max(1, leg.steps))
    return Text("#" * done + "-" * (width - done))


def _legs(legs: list[LegView], several: bool, ascii_only: bool) -> Table:
    """One row a leg; with several legs narrow enough for 80 columns."""
    gap = 1 if several else 2
    table = Table(box=None, padding=(0, gap, 0, 0), show_edge=False, header_style="dim", pad_edge=False)
    if several:
        table.add_column("leg", no_wrap=True, max_width=16)
    for title in ("progress", "step", "loss", "valid", "tok/s/dev", "MFU", "left", "USD"):
        table.add_column(title, no_wrap=True, justify="left" if title == "progress" else "right")
    for leg in legs:
        cells: list[RenderableType] = [
            _bar(leg, NARROW_BAR_WIDTH if several else BAR_WIDTH, ascii_only),
            f"{leg.step / max(1, leg.steps):.0%}" if several else f"{leg.step}/{leg.steps}",
            _number(leg.loss, 3),
            _number(leg.validation_loss, 3),
            _number(leg.tokens_per_second_per_device, 0),
            "-" if leg.mfu is None else f"{leg.mfu:.1f}%",
            duration(leg.eta_seconds),
            _number(leg.usd, 2),
        ]
        table.add_row(*([leg.name] if several else []), *cells)
    return table


class PlainLines:
    """One line for each change since the last view."""

    def __init__(self) -> None:
        self._stages: dict[str, tuple[str, str]] = {}
        self._steps: dict[str, int] = {}
        self._validations: dict[str, float | None] = {}

    def lines(self, view: RunView) -> list[str]:
        """New lines, each with the time of day in UTC."""
        clock = dt.datetime.fromtimestamp(view.now, dt.UTC).strftime("%H:%M:%S")
        found: list[str] = []
        for stage in view.stages:
            now = (stage.state, stage.note if stage.state == "running" else "")
            new = stage.state != "waiting" and self._stages.get(stage.name) != now
            self._stages[stage.name] = now
            line = [_stage_line(stage, view)] if new else []
            steps = self._leg_lines(view) if stage.name == "Train" else []
            found += line + steps if stage.state == "running" else steps + line  # the last step comes before the stage's end
        return [f"{clock}  {line}" for line in found]

    def _leg_lines(self, view: RunView) -> list[str]:
        found: list[str] = []
        for leg in view.legs:
            if leg.step and self._steps.get(leg.name) != leg.step:
                self._steps[leg.name] = leg.step
                new = leg.validation_loss != self._validations.get(leg.name)
                self._validations[leg.name] = leg.validation_loss
                found.append(_leg_line(leg, validated=new))
        return found


def _stage_line(stage: StageView, view: RunView) -> str:
    took = f" ({_took(stage, view.now)})" if stage.state in ("done", "failed", "stopped") else ""
    note = f": {stage.note}" if stage.note else ""
    return f"{stage.name} {stage.state}{took}{note}"


def _leg_line(leg: LegView, *, validated: bool) -> str:
    parts = [f"Train {leg.name}: step {leg.step}/{leg.steps}"]
    parts += [f"loss {leg.loss:.3f}"] if leg.loss is not None else []
    parts += [f"validation {leg.validation_loss:.3f}"] if validated and leg.validation_loss is not None else []
    parts += [f"{leg.tokens_per_second_per_device:,.0f} tokens/s/device"] if leg.tokens_per_second_per_device is not None else []
    parts += [f"MFU {leg.mfu:.1f}%"] if leg.mfu is not None else []
    parts += [f"{duration(leg.eta_seconds)} left"] if leg.eta_seconds is not None and leg.step < leg.steps else []
    return ", ".join(parts)


def _took(stage: StageView, now: float) -> str:
    if stage.started is None or stage.state == "skipped":
        return ""
    return duration((stage.ended if stage.ended is not None else now) - stage.started)


def _note(stage: StageView, view: RunView) -> str:
    if stage.state == "skipped":
        return "recognised and skipped"
    if stage.name == "Train" and stage.state == "running" and not any(leg.step for leg in view.legs):
        return "starting"
    return stage.note


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _state_word(view: RunView) -> str:
    words = {"RUNNING": "running", "SUCCEEDED": "succeeded", "ABORTED": "stopped", "TIMED_OUT": "timed out"}
    return "refused" if view.refused else words.get(view.status, view.status.lower())


def _state_style(view: RunView) -> str:
    return {"RUNNING": "cyan", "SUCCEEDED": "green", "ABORTED": "bold yellow"}.get(view.status, "bold red")


def counted(number: float) -> str:
    """A large number in three digits: ``12.3 B``."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:,.0f}"
