"""Every file of a run damaged in every way: the report is written, says in a line what could not be read, and is strict JSON."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_runs import ATTEMPT, START, FolderS3, event, metrics_lines, result_json, run_json, stored

from contracts.config import to_json
from contracts.metric_line import format_line
from infra.report.handler import write_report
from infra.report.read import read_run
from infra.report.series import MAX_ROWS, MetricsLog
from infra.run.run_record import ExecutionRecord
from infra.run.stored import LINE_BYTES, MAX_BYTES
from infra.sagemaker.prices import admitted_usd_per_hour

RUN, RESULT, METRICS, INDEX = (
    "runs/evening/run.json",
    f"runs/evening/main/{ATTEMPT}metrics/result.json",
    f"runs/evening/main/{ATTEMPT}metrics/metrics.jsonl",
    f"tokens/{'f' * 32}/index.json",
)
RECORD, LOCK = "runs/evening/executions/evening.json", "runs/evening/lock.json"
FILES = (RUN, RESULT, METRICS, INDEX, RECORD, LOCK)
TRAINED = event(legs=[{"name": "main", "outcome": "trained", "attempts": event()["legs"][0]["attempts"]}])
EXECUTION = ExecutionRecord(
    execution_arn=event()["execution_arn"],
    run_id="evening",
    started="2026-09-21T14:13:20Z",
    outcome="admitted",
    settings={"recipe": "local"},
    changes=({"path": "training.seed", "old": 1, "new": 2},),
)
INDEX_JSON = {"tokenizer": {"vocab_size": 512, "sha256": "a" * 64}, "splits": {"validation": {"tokens": 100, "unigram_entropy_nats": 6.2}}}


def whole_run() -> FolderS3:
    s3 = stored(run_json(), {"main": (metrics_lines(100, 5), result_json())})
    s3.objects[INDEX] = json.dumps(INDEX_JSON).encode()
    s3.objects[RECORD] = json.dumps(to_json(EXECUTION)).encode()
    s3.objects[LOCK] = json.dumps({"execution_arn": EXECUTION.execution_arn}).encode()
    return s3


def strict(body: bytes) -> Any:
    """The value, by a parser that takes no NaN, no lone surrogate and no second key of a name."""

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs)
        return dict(pairs)

    value = json.loads(body.decode("utf-8"), parse_constant=refuse, object_pairs_hook=unique)
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def report_of(s3: Any, state: dict[str, Any]) -> dict[str, Any]:
    """report.json, after everything that the function does."""
    facts = read_run(state, bucket="bucket", region="us-east-1", s3=s3, now=START + 400)
    output = write_report(facts, s3=s3, usd_per_hour=functools.partial(admitted_usd_per_hour, facts.run))
    folder = facts.folder
    found: dict[str, Any] = strict(s3.objects[folder + "report.json"])
    assert strict(json.dumps(output).encode())["outcome"] == found["outcome"]
    assert s3.objects[folder + "report.html"].decode().rstrip().endswith("</html>")
    assert all("\n" not in sentence and sentence.endswith(".") for sentence in found["unread"])
    return found


def every_scalar(value: Any, new: Any) -> Any:
    if isinstance(value, dict):
        return {key: every_scalar(item, new) for key, item in value.items()}
    return [every_scalar(item, new) for item in value] if isinstance(value, list) else new


def changed(new: Any) -> Callable[[bytes], bytes]:
    """Every scalar of every JSON value of the file replaced."""
    text = new if isinstance(new, str) else json.dumps(new)
    return lambda body: b"\n".join(
        json.dumps(every_scalar(json.loads(line), "@@")).replace('"@@"', text).encode() for line in body.splitlines() if line
    )


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda body: None,
    "empty": lambda body: b"",
    "cut": lambda body: body[: len(body) // 2],
    "not UTF-8": lambda body: b"\xff\xfe" + body,
    "not JSON": lambda body: b"<html>503</html>",
    "a list": lambda body: b"[1, 2]",
    "a number": lambda body: b"7",
    "null": lambda body: b"null",
    "only NaN": lambda body: b"NaN",
    "scalars NaN": changed("NaN"),
    "scalars Infinity": changed("-Infinity"),
    "scalars 1e999": changed("1e999"),
    "scalars 1e308": changed("1e308"),
    "scalars of 400 digits": changed("9" * 400),
    "scalars of 5,000 digits": changed("9" * 5000),
    "scalars text": changed("x"),
    "scalars numbers in text": changed('"12"'),
    "scalars negative": changed(-1),
    "scalars zero": changed(0),
    "scalars true": changed("true"),
    "scalars lists": changed([[]]),
    "scalars objects": changed({"a": {}}),
    "scalars lone surrogates": changed('"\\ud800"'),
    "nested 5,000 deep": lambda body: b'{"legs": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "nested 200 deep": lambda body: b'{"legs": ' + b"[" * 200 + b"]" * 200 + b"}",
    "objects lists": lambda body: body.replace(b"{", b"[").replace(b"}", b"]").replace(b":", b","),
    "twice": lambda body: body + b"\n" + body,
    "zeros": lambda body: bytes(len(body)),
}
NOT_DAMAGED = {
    *((METRICS, damage) for damage in ("missing", "empty", "twice", "scalars zero")),
    *((file, "missing") for file in (INDEX, RECORD)),
    *((LOCK, damage) for damage in DAMAGES),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_trained_run_has_a_report_that_says_what_is_damaged(file: str, damage: str) -> None:
    s3 = whole_run()
    body = DAMAGES[damage](s3.objects[file])
    if body is None:
        del s3.objects[file]
    else:
        s3.objects[file] = body
    found = report_of(s3, TRAINED)  # a lock that cannot be read names no other owner, so the report is the run's
    main = next(leg for leg in found["legs"] if leg["name"] == "main")
    assert found["outcome"] == "succeeded" and main["figures"]["finished"]
    assert bool(found["unread"]) is ((file, damage) not in NOT_DAMAGED), found["unread"]
    assert len(found["unread"]) <= 4
    if file == METRICS:
        assert main["figures"]["loss_last"] == 2.71  # result.json has it too
    if file == RESULT:
        assert main["series"]["steps"][-1] == 100


def test_a_whole_run_has_nothing_unread() -> None:
    assert report_of(whole_run(), TRAINED)["unread"] == []


@pytest.mark.parametrize("name", ["main/attempts/20260921T141320-aaaaaa-1/checkpoints/step-50/manifest.json", "main/export/README.md"])
def test_files_that_a_report_does_not_read_do_not_matter(name: str) -> None:
    s3 = whole_run()
    s3.objects[f"runs/evening/{name}"] = b"\xff{"
    assert report_of(s3, TRAINED)["unread"] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"legs": "x"}, {"legs": [[{"name": "main"}]]}, {"legs": [None, 7, {"name": 7}, {"outcome": "trained"}]}, {"image": []},
        {"data": "x"}, {"image": {"build": 7}}, {"data": {"prepared": True, "job": []}}, {"data": {"job": {"ProcessingResources": 7}}},
        {"started": "soon"}, {"started": 1e300}, {"started": float("nan")}, {"explanation": "x"}, {"outcome": 7}, {"execution_arn": 7},
        {"explanation": {"stage": 7, "sentence": ["x"]}}, {"run_id": None},
        {"legs": {"name": "main", "attempts": {"TrainingStartTime": {}, "ResourceConfig": "x"}}},
        {"legs": {"name": "main", "attempts": [{"BillableTimeInSeconds": "1", "ResourceConfig": {"InstanceType": 7}}]}},
        {"legs": {"name": "main", "attempts": [{"TrainingStartTime": -1e300, "TrainingEndTime": 1e300, "FailureReason": {"a": 1}}]}},
        {"legs": {"name": "\ud800", "attempts": [[[[]]]]}},
    ],
)  # fmt: skip
def test_values_of_the_state_machine_may_be_damaged(changes: dict[str, Any]) -> None:
    assert report_of(whole_run(), {**TRAINED, **changes})["legs"]


def test_an_event_that_names_no_run_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="neither run_id nor execution_arn"):
        read_run({"legs": []}, bucket="bucket", region="us-east-1", s3=whole_run(), now=START)


def test_bad_lines_are_counted_and_the_others_are_kept() -> None:
    s3 = whole_run()
    lines = s3.objects[METRICS].splitlines()
    bad = [
        b'{"step": 7, "lo',
        b'{"step": 8, "loss": NaN}',
        b"\xff\xfe",
        b'{"loss": 1.0}',
        b'{"step": 9, "loss": "2"}',
        b"x" * (3 * LINE_BYTES),
    ]
    s3.objects[METRICS] = b"\n".join([*lines[:3], *bad, b"", *lines[3:]])
    found = report_of(s3, TRAINED)
    assert found["legs"][0]["series"]["bad_lines"] == len(bad)
    assert found["unread"] == [f"s3://bucket/{METRICS}: 6 damaged lines are left out."]
    assert found["legs"][0]["series"]["steps"] == [1, *range(5, 101, 5)]


def test_steps_out_of_order_and_twice_count_once_and_are_sorted() -> None:
    s3 = whole_run()
    s3.objects[METRICS] = b"\n".join(reversed(s3.objects[METRICS].splitlines() * 2))
    steps = report_of(s3, TRAINED)["legs"][0]["series"]["steps"]
    assert steps == [1, *range(5, 101, 5)]


def test_a_million_lines_are_read_in_bounded_memory_with_their_spike_and_their_breaks() -> None:
    log = MetricsLog()
    for step in range(1, 1_000_001):
        log.add({"step": float(step), "loss": 99.0 if step == 700_003 else 2.0 + step % 7, "time": float(step)})
        if step == 400_000:
            log.add({"step": 390_000.0, "loss": 3.0, "time": step + 0.5})
    assert log.rows_logged == 1_000_001 and len(log.rows) <= 2 * MAX_ROWS
    assert max(row["loss"] for row in log.rows) == 99.0 and log.rows[-1]["step"] == 1_000_000
    breaks = [(int(a["step"]), int(b["step"])) for a, b in zip(log.rows, log.rows[1:], strict=False) if b["step"] < a["step"]]
    assert breaks == [(400_000, 390_000)]


def test_lines_that_thinning_would_all_keep_are_bounded_too() -> None:
    log = MetricsLog(max_rows=1000)
    for step in range(20_000):
        log.add({"step": float(step), "loss": 2.0, "validation_loss": 2.0})
    assert len(log.rows) <= 2000 and log.rows[-1]["step"] == 19_999


def test_a_report_of_a_thinned_file_says_how_many_lines_there_were() -> None:
    s3 = whole_run()
    many = 2 * MAX_ROWS + 2
    s3.objects[METRICS] = "\n".join(format_line(step, START + step, {"loss": 2.0}) for step in range(many)).encode()
    found = report_of(s3, TRAINED)
    assert found["legs"][0]["series"]["rows_logged"] == many and f"of {many:,}" in s3.objects["runs/evening/report.html"].decode()


def test_a_file_larger_than_any_of_ours_is_not_loaded() -> None:
    s3 = whole_run()
    s3.objects[RESULT] = b'{"sample": "' + b"x" * MAX_BYTES + b'"}'
    assert f"more than {MAX_BYTES} bytes" in report_of(s3, TRAINED)["unread"][0]


def test_an_object_that_may_not_be_read_is_told_and_a_throttled_call_is_tried_again() -> None:
    class Refusing(FolderS3):
        code = "AccessDenied"

        def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
            if Key == RESULT:
                raise ClientError({"Error": {"Code": self.code, "Message": "no"}}, "GetObject")
            return super().get_object(Bucket=Bucket, Key=Key)

    s3 = Refusing(whole_run().objects)
    assert "AccessDenied" in report_of(s3, TRAINED)["unread"][0]
    s3.code = "SlowDown"
    with pytest.raises(ClientError):
        report_of(s3, TRAINED)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.integers(10**30, 10**400) | st.floats() | st.text(max_size=8) | st.just("\ud800")
    | st.just("main") | st.just("2026-09-21T14:13:20Z")
)  # fmt: skip
KEYS = sorted(
    {"legs", "name", "training", "tokens", "fingerprint", "admitted", "estimate", "usd_per_hour", "compute", "instance_count", "steps",
     "loss_last", "sample", "environment", "checkpoints", "step", "splits", "validation", "attempts", "TrainingStartTime",
     "ResourceConfig", "InstanceCount"}
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4), max_leaves=12
)


def replaced(value: Any, path: list[int], new: Any) -> Any:
    """The value with one node, found by walking ``path``, replaced."""
    if not path or not isinstance(value, (dict, list)) or not value:
        return new
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[path[0] % len(keys)]
    return {**value, key: replaced(value[key], path[1:], new)} if isinstance(value, dict) else [
        replaced(item, path[1:], new) if i == key else item for i, item in enumerate(value)
    ]  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    st.sampled_from([*FILES, "event"]),
    st.lists(st.tuples(st.lists(st.integers(0, 40), max_size=5), VALUES), min_size=1, max_size=3),
    st.binary(max_size=3),
)
def test_any_damage_gives_a_report(file: str, changes: list[tuple[list[int], Any]], noise: bytes) -> None:
    s3, state = whole_run(), dict(TRAINED)
    if file == "event":
        for path, new in changes:
            state = replaced(state, path or [3], new)
        state = {**state, "run_id": "evening", "execution_arn": TRAINED["execution_arn"], "explanation": None}
    elif file == METRICS:
        lines = s3.objects[file].splitlines()
        for path, new in changes:
            lines.insert(
                sum(path) % len(lines), json.dumps(replaced(json.loads(lines[0]) if lines[0][:1] == b"{" else {}, path, new)).encode()
            )
        s3.objects[file] = noise + b"\n".join(lines) + noise
    else:
        value = json.loads(s3.objects[file])
        for path, new in changes:
            value = replaced(value, path, new)
        s3.objects[file] = json.dumps(value).encode() + (noise if len(changes) == 3 else b"")
    assert report_of(s3, state)["run_id"] == "evening"
