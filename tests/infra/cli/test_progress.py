"""Stages and legs from history events and metrics lines; screens at 80 and 140 columns."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import subprocess
import sys

import pytest
from cli_aws import BEGAN, entered
from report_runs import metrics_lines
from rich.console import Console

from contracts.metric_line import parse_line
from infra.cli.progress import LegView, RunView, failure_sentence, read_leg, read_stages
from infra.cli.screen import LiveScreen, PlainLines, duration

START = BEGAN.timestamp()
FIRST_RUN = [
    entered("Admit", 1), entered("Image exists?", 3), entered("Build image", 3), entered("Data exists?", 40), entered("Prepare data", 40),
    entered("Prepared?", 60), entered("Train legs", 60),
]  # fmt: skip
SECOND_RUN = [entered("Admit", 1), entered("Image exists?", 3), entered("Data exists?", 3), entered("Train legs", 3)]


def states(events, status="RUNNING"):
    return [stage.state for stage in read_stages(events, status)]


def test_stages_follow_the_states_in_run_order():
    assert states(FIRST_RUN) == ["done", "done", "done", "running", "waiting"]
    build = read_stages(FIRST_RUN, "RUNNING")[1]
    assert (build.started, build.ended) == (START + 3, START + 40)


def test_image_and_data_that_exist_are_skipped_not_done():
    assert states(SECOND_RUN) == ["done", "skipped", "skipped", "running", "waiting"]


def test_explain_marks_the_stage_that_failed():
    failed = [*FIRST_RUN, entered("Explain", 70), entered("Report failure", 71), {"type": "ExecutionFailed", "timestamp": BEGAN}]
    assert states(failed, "FAILED") == ["done", "done", "done", "failed", "waiting"]


def test_finished_run_has_every_stage_closed():
    done = [*SECOND_RUN, entered("Report", 90), entered("Announce", 91), {"type": "ExecutionSucceeded", "timestamp": BEGAN}]
    assert states(done, "SUCCEEDED") == ["done", "skipped", "skipped", "done", "done"]


def test_stopped_run_stops_the_stage_it_was_in():
    assert states([*FIRST_RUN, {"type": "ExecutionAborted", "timestamp": BEGAN}], "ABORTED")[3] == "stopped"


def test_refused_run_shows_admit_as_refused_once_that_is_known():
    events = [entered("Admit", 1), entered("Explain", 2)]
    assert read_stages(events, "RUNNING")[0].state == "running"
    ended = [*events, {"type": "ExecutionFailed", "timestamp": BEGAN}]
    assert read_stages(ended, "FAILED", "Refused")[0].state == "refused"
    assert read_stages(ended, "FAILED", "Unexpected")[0].state == "failed"


def test_leg_shows_the_last_values_and_the_time_left():
    rows = [row for row in map(parse_line, metrics_lines(100)[:50]) if row]
    leg = read_leg("main", 100, rows, usd=1.25)
    assert (leg.step, leg.steps) == (50, 100)
    assert leg.eta_seconds == 50 * 0.5
    assert leg.validation_loss is not None and leg.loss_first == rows[0]["loss"]
    assert leg.usd == 1.25


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        (
            {"status": "FAILED", "error": "LossDiverged", "cause": "LossDiverged (stop): the loss is NaN"},
            "LossDiverged (stop): the loss is NaN",
        ),
        ({"status": "FAILED", "cause": '{"errorMessage": "no such recipe"}'}, "no such recipe"),
        ({"status": "ABORTED", "cause": "pretrain stop"}, "Stopped: pretrain stop."),
        ({"status": "TIMED_OUT"}, "The run ended TIMED_OUT."),
    ],
)
def test_failure_sentence_is_the_jobs_own(description, sentence):
    assert failure_sentence(description) == sentence


def view(legs=1):
    names = ("baseline", "float8_allgather", "compile", "float8")[:legs]
    made = tuple(
        LegView(
            name=name,
            steps=10_000,
            step=4_500,
            loss=5.1234,
            validation_loss=5.2,
            tokens_per_second_per_device=8950.2,
            mfu=41.2,
            step_seconds=1.1,
            usd=15.82,
            started=START,
            updated=START + 900,
        )
        for name in names
    )
    return RunView(
        run_id="evening", execution_arn="arn", status="RUNNING", now=START + 960, stages=read_stages(FIRST_RUN, "RUNNING"), legs=made
    )


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("legs", [0, 1, 4])
def test_live_screen_fits_and_cuts_no_figure(width, legs):
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(LiveScreen().render(view(legs)))
    lines = console.file.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert "…" not in console.file.getvalue()
    assert sum("5.123" in line for line in lines) == legs
    if legs:
        assert all(word in console.file.getvalue() for word in ("8,950", "41.2%", "1 h 40 min", "15.82"))


def rendered(console: Console, legs: int, **options: bool) -> str:
    console.print(LiveScreen(**options).render(view(legs)))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 79])
@pytest.mark.parametrize("legs", [1, 4])
def test_narrow_terminal_wraps_and_cuts_no_figure(width, legs):
    text = rendered(Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None), legs)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width and "\u2026" not in text
    words = " ".join(text.split())
    assert all(words.count(word) == legs for word in ("5.123", "8,950", "41.2%", "1 h 40 min left", "$15.82")), text


def test_no_color_is_obeyed(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = rendered(Console(width=80, file=io.StringIO(), force_terminal=True, color_system="truecolor"), 1)
    codes = [code for sequence in re.findall(r"\x1b\[([\d;]*)m", text) for code in sequence.split(";")]
    assert not [code for code in codes if code.isdigit() and (30 <= int(code) <= 49 or 90 <= int(code) <= 107)]
    assert "5.123" in text and "41.2%" in text


@pytest.mark.parametrize("width", [60, 100])
def test_terminal_without_utf8_sees_ascii_only(width):
    text = rendered(Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None), 4, ascii_only=True)
    assert text.isascii() and "+  Admit" in text and ("###-----" in text) == (width >= 80)


def test_c_locale_counts_as_ascii_whatever_python_writes():
    code = "from rich.console import Console; from infra.cli.screen import ascii_only; print(ascii_only(Console()))"
    for name, wanted in (("C", "True"), ("C.UTF-8", "False")):
        environment = {**os.environ, "LC_ALL": name, "PYTHONUTF8": "1"}
        found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == wanted


def test_plain_lines_say_each_change_once():
    lines = PlainLines()
    first = lines.lines(view())
    assert first[0].endswith("Admit done (2 s)")
    assert first[-1].endswith(
        "Train baseline: step 4500/10000, loss 5.123, validation 5.200, 8,950 tokens/s/device, MFU 41.2%, 1 h 40 min left"
    )
    assert lines.lines(view()) == []
    further = dataclasses.replace(view(), legs=(dataclasses.replace(view().legs[0], step=4_510),))
    assert len(lines.lines(further)) == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (4.4, "4 s"), (59.7, "1 min 00 s"), (3599, "59 min 59 s"), (7260, "2 h 01 min")]
)
def test_durations_read_like_words(seconds, text):
    assert duration(seconds) == text
