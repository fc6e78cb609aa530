"""Whatever lies in a run's folder or an execution's record: every command answers with its result or one sentence, never a traceback."""

from __future__ import annotations

import json

import pytest
from botocore.exceptions import ClientError, TokenRetrievalError, UnauthorizedSSOTokenError
from cli_aws import ATTEMPT, BEGAN, Deployed, entered, put_run
from report_runs import metrics_lines, run_json
from typer.testing import CliRunner

from infra.cli.exits import CommandError
from infra.cli.main import app
from infra.cli.target import read_settings, unreachable
from local_aws import launcher_process

BODIES = [
    *(b"", b"{", b"null", b"[]", b"7", b'"x"', b"{}", b"\xff\xfe", b"NaN", b"[" * 60_000, b'{"a": 1e999, "b": "\\ud800"}'),
    *(b'{"legs": 5}', b'{"legs": [5, {}, {"name": 7}]}', b'{"legs": null, "run_id": "evening"}'),
    b'{"legs": [{"name": "main", "training": 3}], "run_id": "evening", "links": 3}',
    b'{"legs": [{"name": "main", "training": {"steps": "x", "model": []}}], "compute": 4, "admitted": [], "tokens": 9, "data": "x"}',
    b'{"legs": [{"name": "main", "training": {}}], "compute": {"instance_count": "many"}, "tokens": {"sources": [1]}, "data": {}}',
    b'{"run_id": "evening", "legs": [{"name": "main", "figures": {"steps": "x"}, "settings": [], "sources": [{}], "evaluation": 1}]}',
    b'{"run_id": "evening", "legs": [{"name": "main", "figures": {}, "settings": {"a": 1}, "evaluation": {"tasks": {"x": 5}}}]}',
    b'{"execution_arn": 5, "confirmed": "x", "steps": "many", "export": {"files": {}, "manifest_sha256": 5}}',
]
WATCH, LIST, EXPORT = ("watch", "evening", "--json"), ("list", "--cost", "--json"), ("export", "DIR/model", "--run", "evening")
REPORT, COMPARE = ("report", "evening", "--to", "DIR", "--json"), ("compare", "evening", "--json")
READERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "run.json": (WATCH, LIST, EXPORT, ("watch", "evening", "--plain"), ("plan", "--again", "evening", "--json")),
    "lock.json": (WATCH, REPORT),
    "report.json": (REPORT, COMPARE),
    f"main/{ATTEMPT}metrics/result.json": (EXPORT,),
    f"main/{ATTEMPT}metrics/metrics.jsonl": (WATCH, LIST),
}
"""File of a run -> the commands that read it."""
JSON_ON_STDOUT = ("list", "compare", "report", "plan")


def said(words: tuple[str, ...], folder: str) -> str:
    """What a command did that it must not do; empty when it answered."""
    found = CliRunner().invoke(app, [word.replace("DIR", folder) for word in words])
    error = found.exception
    if isinstance(error, CommandError):
        sentence, code = error.sentence, int(error.code)
        return "" if sentence and "Error" not in sentence.split(":")[0] and code in (1, 3, 4) else f"{code}: {sentence}"
    if error is not None and not isinstance(error, SystemExit):
        return f"{type(error).__name__}: {error}"
    if "--json" in words and found.exit_code == 0:
        lines = [found.stdout] if words[0] in JSON_ON_STDOUT else found.stdout.splitlines()
        for line in lines:
            json.loads(line, parse_constant=lambda name: pytest.fail(f"{words}: {name} is no JSON"))
    return ""


def ended(aws: Deployed) -> None:
    put_run(aws, run_json("evening"), {"main": metrics_lines(20, 5)})
    events = [entered("Admit", 0), entered("Train legs", 1), {"type": "ExecutionSucceeded", "timestamp": BEGAN}]
    aws.states.add("evening", "SUCCEEDED", events, input='{"run_id": "evening"}', stopDate=BEGAN)


@pytest.mark.parametrize("file", READERS)
def test_a_damaged_file_of_a_run_is_a_sentence_in_every_command(aws, tmp_path, file):
    ended(aws)
    aws.s3.objects["runs/evening/report.html"] = b"page"
    wrong = {}
    for number, body in enumerate(BODIES):
        aws.s3.objects[f"runs/evening/{file}"] = body
        found = {words: text for words in READERS[file] if (text := said(words, str(tmp_path / str(number))))}
        wrong |= {(body[:60], words): text for words, text in found.items()}
    assert wrong == {}


def test_an_execution_that_holds_anything_is_listed_and_watched(aws, tmp_path):
    """Anybody may start an execution from the console, with any input, and stop one with any cause."""
    odd = [body.decode(errors="replace") for body in BODIES] + [
        '{"started_by": 5}',
        '{"started_by": {"a": []}, "schedule": {"name": []}}',
        '{"run_id": ["x"], "schedule": 7}',
    ]
    wrong = {}
    for text in odd:
        for field, status in (("input", "FAILED"), ("cause", "FAILED"), ("cause", "ABORTED"), ("error", "FAILED")):
            aws.states.add(f"odd-{field}-{status}", status, stopDate=BEGAN, **{"input": "{}", field: text})
        for words in (("list",), ("list", "--json"), *(("watch", name.rsplit(":", 1)[-1]) for name in list(aws.states.executions))):
            if complaint := said(words, str(tmp_path)):
                wrong[text[:60], words] = complaint
        aws.states.executions.clear()
    assert wrong == {}


def test_a_question_and_a_no_leave_json_on_stdout(aws):
    aws.states.add("evening")
    found = CliRunner().invoke(app, ["stop", "evening", "--json"], input="n\n")
    assert json.loads(found.stdout[found.stdout.index("{") :]) == {
        "run_id": "evening",
        "execution_arn": next(iter(aws.states.executions)),
        "stopping": False,
    }
    assert aws.states.stopped == [] and "Stop run evening" in found.stderr and "Stop run" not in found.stdout


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"context": 5}', '{"context": {"environments": 5}}', "[" * 60_000])
def test_a_damaged_cdk_json_is_named(tmp_path, text):
    (tmp_path / "cdk.json").write_text(text)
    with pytest.raises(CommandError, match=r"cdk\.json"):
        read_settings("default", tmp_path)


@pytest.mark.parametrize("body", [*BODIES, b'{"pid": 4194303, "started": "", "port": 1, "time": 1.0}'])
def test_a_damaged_record_of_the_launcher_names_none(tmp_path, body):
    (tmp_path / launcher_process.IDENTITY).write_bytes(body)
    assert launcher_process.identity(tmp_path) is None


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("start", ""), 3, 'there is no recipe ""'),
        (("start", "--run", ""), 3, '"" is not a run id'),
        (("watch", ""), 4, 'there is no run ""'),
        (("plan", "--again", ""), 4, 'there is no run ""'),
        (("compare", "", "evening"), 4, 'there is no run ""'),
        (("export", "DIR", "--run", ""), 4, 'there is no run ""'),
    ],
)
def test_an_empty_name_is_no_name_that_was_left_out(aws, pretrain, tmp_path, words, code, sentence):
    """`pretrain start "$RECIPE"` with the variable unset must not start the default, nor `watch "$RUN"` mean the newest."""
    ended(aws)
    result = pretrain(*(word.replace("DIR", str(tmp_path / "model")) for word in words))
    assert result.code == code and sentence in result.out and len(aws.states.executions) == 1


@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": {"Code": "ExpiredToken", "Message": "The provided token has expired."}}, "ListObjectsV2"),
        ClientError({"Error": {"Code": "UnrecognizedClientException", "Message": "The security token is invalid."}}, "ListExecutions"),
        TokenRetrievalError(provider="sso", error_msg="Token has expired and refresh failed"),
        UnauthorizedSSOTokenError(),
    ],
)
def test_credentials_that_have_expired_are_named_with_the_fix(error):
    said = unreachable(error, "us-west-2")
    assert said.sentence.startswith("your credentials") and "aws sso login" in said.sentence and "answer" not in said.sentence
