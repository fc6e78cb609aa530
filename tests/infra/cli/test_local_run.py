"""`pretrain local run` over an embedded AWS in memory: order of steps, final output, and Ctrl-C."""

from __future__ import annotations

import http.server
import io
import json
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_aws import ATTEMPT, BEGAN, Deployed, entered, put_run
from report_runs import metrics_lines, run_json
from rich.console import Console

from infra.cli import local
from infra.cli.exits import CommandError, Exit
from local_aws import embedded, launcher_process
from local_aws.corpus import CorpusSummary
from local_aws.embedded import Embedded, EmbeddedError
from local_aws.launcher import write_identity

SAMPLE = {"prompt": "The name of the", "text": " bucket [optional] that holds it"}
LEG = {"name": "main", "steps": 100, "loss_first": 8.8, "loss_last": 4.8, "validation_loss": 5.1, "unigram_entropy": 6.5, "sample": SAMPLE}
SECOND = [entered("Admit", 1), entered("Image exists?", 2), entered("Data exists?", 2), entered("Train legs", 2), entered("Report", 60)]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """The embedded AWS's calls, noted in order; its stacks are a deployment in memory."""
    aws, calls = Deployed(embedded=True), []
    note = lambda name, value=None: lambda *arguments, **options: (calls.append(name), value)[1]  # noqa: E731
    made = SimpleNamespace(endpoint="http://127.0.0.1:4566")
    corpus = CorpusSummary(uri="s3://bucket/source/botocore/", files=4, documents=62_188, characters=9_700_000, uploaded=0)
    for name, value in (("up", made), ("deploy", {"pretrain-foundation": {}}), ("upload_corpus", corpus), ("down", True)):
        monkeypatch.setattr(local.embedded_aws, name, note(name, value))
    monkeypatch.setattr(local, "target_of", lambda embedded: aws)
    console = Console(file=io.StringIO(), width=100)
    return SimpleNamespace(aws=aws, calls=calls, console=console, root=tmp_path, said=lambda: console.file.getvalue())


def run(machine) -> None:
    local.run(machine.console, machine.root, recipe=None, settings=[], run_id="evening", plain=True)


def ends(machine, monkeypatch, status: str, events: list, **fields) -> None:
    """Every execution that is started has already ended like this."""
    put_run(machine.aws, run_json(training={"steps": 100}), {"main": metrics_lines(100, 5)})
    kept = machine.aws.states.add

    def add(name: str, **given) -> str:
        arn = kept(name, status, events, **{**given, **fields})
        machine.calls.append("start")
        return arn

    monkeypatch.setattr(machine.aws.states, "add", add)


def test_second_run_says_what_was_trained_and_what_was_skipped(machine, monkeypatch):
    attempt = f"runs/evening/main/{ATTEMPT}"
    machine.aws.s3.objects |= {"runs/evening/report.html": b"<html>", f"{attempt}export/config.json": b"{}"}
    machine.aws.s3.objects[f"{attempt}metrics/result.json"] = b'{"steps": 100}'
    output = json.dumps({"run_id": "evening", "headline": "100 steps trained, loss 8.800 to 4.800.", "legs": [LEG]})
    ends(machine, monkeypatch, "SUCCEEDED", [*SECOND, {"type": "ExecutionSucceeded", "timestamp": BEGAN}], output=output)
    run(machine)
    said = machine.said()
    assert machine.calls == ["up", "deploy", "upload_corpus", "start"]
    for words in (
        "does not execute the Dockerfile", "loss 8.800 to 4.800", "1.400 nats below the text's unigram entropy of 6.500",
        "Build image and Prepare data: already done", ".local/runs/evening/report.html", ".local/runs/evening/main/export/",
        'given "The name of the":\n  The name of the bucket [optional] that holds it\n', "stays up until make local-down",
    ):  # fmt: skip
        assert words in said
    assert (machine.root / ".local/runs/evening/main/export/config.json").read_bytes() == b"{}"


def test_failed_run_ends_with_the_sentence_and_exit_code_one(machine, monkeypatch):
    events = [*SECOND[:4], entered("Explain", 9), {"type": "ExecutionFailed", "timestamp": BEGAN}]
    ends(machine, monkeypatch, "FAILED", events, cause="LossDiverged (stop): the loss is NaN at step 7")
    with pytest.raises(CommandError) as error:
        run(machine)
    assert error.value.code == Exit.FAILED
    assert "LossDiverged (stop): the loss is NaN at step 7" in machine.said() and "down" not in machine.calls


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_stops_the_run_and_then_the_embedded_aws(machine, monkeypatch, number):
    def interrupted(*arguments, **options):
        os.kill(os.getpid(), number)
        raise AssertionError("the signal did not interrupt")

    monkeypatch.setattr(local, "watch", interrupted)
    before, kept = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGINT, signal.default_int_handler)
    try:  # a suite in the background of a script has SIGINT ignored
        with pytest.raises(KeyboardInterrupt):
            run(machine)
    finally:
        signal.signal(signal.SIGINT, kept)
    assert len(machine.aws.states.stopped) == 1 and machine.calls[-1] == "down"
    assert "Nothing is left running." in machine.said()
    assert signal.getsignal(signal.SIGTERM) == before


def test_wrong_setting_is_refused_before_anything_is_deployed(machine):
    with pytest.raises(CommandError) as error:
        local.run(machine.console, machine.root, recipe=None, settings=["training.stepz=1"], run_id=None, plain=True)
    assert error.value.code == Exit.REFUSED and machine.calls == ["up"]


def test_embedded_aws_that_died_is_told_from_one_that_is_busy(tmp_path):
    aws = Embedded(endpoint="http://127.0.0.1:4566", state_dir=tmp_path / ".local")
    assert "not running any more; its log is" in (local._gone(aws) or "")
    write_identity(folder(tmp_path), 4566)  # this very process stands for the launcher: it lives, and answers nothing
    assert local._gone(aws) is None
    write_identity(folder(tmp_path), 4567)
    assert "started anew at http://127.0.0.1:4567" in (local._gone(aws) or "")


def test_clean_leaves_a_strangers_local_folder_alone(tmp_path):
    (folder(tmp_path) / "share").mkdir()
    with pytest.raises(EmbeddedError, match="holds no embedded AWS"):
        embedded.clean(tmp_path)
    assert (tmp_path / ".local" / "share").is_dir()


def folder(root: Path) -> Path:
    home = root / ".local"
    home.mkdir(exist_ok=True)
    return home


def test_loopback_is_asked_past_a_proxy_of_the_shell(monkeypatch):
    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    with http.server.HTTPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert launcher_process._answers(server.server_port)
        server.shutdown()
