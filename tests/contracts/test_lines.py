"""The metrics line and the failure sentence: written in one place, read everywhere."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.failure import MAX_FAILURE_BYTES, BadInput, read_failure, write_failure
from contracts.metric_line import (
    LARGEST,
    METRICS,
    NAMES,
    SOURCE_NAMES,
    format_line,
    last_value,
    metric_definitions,
    parse_line,
    regex,
    source_metric,
)
from training.failure_classes import FAILURE_CLASSES, CollectiveHang

numbers = st.floats(-LARGEST, LARGEST) | st.integers(-(10**15), 10**15)


@given(st.dictionaries(st.sampled_from(sorted(NAMES)), numbers), st.integers(0, 10**7))
def test_every_metric_is_found_by_its_regex_and_by_no_other(values: dict[str, float], step: int) -> None:
    line = format_line(step, 1.0, dict(values))
    for metric in METRICS:
        found = re.findall(regex(metric.name), line)
        assert [float(x) for x in found] == ([float(values[metric.name])] if metric.name in values else [])
    parsed = parse_line(line)
    assert parsed is not None
    assert {k: v for k, v in parsed.items() if k in NAMES} == {k: float(v) for k, v in values.items()}


def test_not_a_number_becomes_null_and_matches_nothing() -> None:
    line = format_line(3, 1.0, {"loss": math.nan, "grad_norm": math.inf, "mfu": None})
    assert json.loads(line)["loss"] is None
    assert not re.findall(regex("loss"), line)


def test_unknown_metric_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="no such metric: los"):
        format_line(1, 1.0, {"los": 1.0})


@pytest.mark.parametrize(
    "line",
    [
        '{"step": null, "loss": 1.0}',
        '{"step": "3", "loss": 1.0}',
        '{"step": 2.5, "loss": 1.0}',
        '{"step": -1, "loss": 1.0}',
        '{"step": 1e300, "loss": 1.0}',
        '{"step": true, "loss": 1.0}',
        '{"step": 3, "loss": NaN}',
        '{"step": 3, "loss": -Infinity}',
        '{"step": 3, "loss": 1e999}',
        '{"step": 3, "tokens": 1' + "0" * 400 + "}",
        '{"step": 3, "tokens": 1' + "0" * 5000 + "}",
        '{"step": 3, "loss": "2.5"}',
        '{"step": 3, "loss": [2.5]}',
        '{"step": 3, "loss": ' + "[" * 5000 + "}",
    ],
)
def test_a_damaged_metrics_line_is_none(line: str) -> None:
    assert parse_line(line) is None


@pytest.mark.parametrize("line", ["", "step 3", '{"step": 3, "lo', '{"stage": "prepare"}'])
def test_other_log_lines_are_no_metrics(line: str) -> None:
    assert parse_line(line) is None


def test_metric_definitions_fit_sagemakers_limits() -> None:
    definitions = metric_definitions()
    assert len(definitions) <= 40
    assert all(len(d["Name"]) <= 255 and len(d["Regex"]) <= 500 for d in definitions)


def test_sentence_survives_what_sagemaker_wraps_around_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    write_failure(CollectiveHang("no step for 120 s\n(limit 60 s)"))
    text = (tmp_path / "output/failure").read_text()
    assert text == (tmp_path / "output/message").read_text() == "CollectiveHang (retry): no step for 120 s (limit 60 s)"
    found = read_failure(f"AlgorithmError: {text}, exit code: 1")
    assert found is not None
    assert (found.name, found.retry, found.sentence) == ("CollectiveHang", "retry", "no step for 120 s (limit 60 s)")


def test_long_sentence_is_cut_to_what_sagemaker_keeps(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    write_failure(BadInput("ü" * 2000))
    assert len((tmp_path / "output/failure").read_bytes()) <= MAX_FAILURE_BYTES


def test_unclassed_text_is_no_sentence() -> None:
    assert read_failure("Traceback (most recent call last): ValueError") is None


def test_failure_classes_have_distinct_names_and_docstrings() -> None:
    names = [c.__name__ for c in FAILURE_CLASSES]
    assert len(set(names)) == len(names)
    assert all(c.__doc__ for c in FAILURE_CLASSES)


def test_a_sentence_holds_no_letter_that_a_terminal_obeys_or_utf_8_cannot_carry() -> None:
    failure = BadInput("a\x00b \x1b[31m\n\u202ec \ud800 é 😀")
    assert failure.sentence == r"a\x00b \x1b[31m \u202ec \ud800 é 😀"
    assert str(failure).encode()


def test_a_mixtures_values_come_back_under_names_of_their_own_and_no_definition_finds_them() -> None:
    assert not NAMES & SOURCE_NAMES
    sources = {"web": {"share": 0.75, "epochs": None}, "loss": {"share": 0.25, "held_out_loss": math.nan}}
    line = format_line(7, 1.0, {"validation_loss": 2.0}, sources)
    assert json.loads(line)["sources"]["loss"] == {"share": 0.25, "held_out_loss": None}
    assert parse_line(line) == {"step": 7, "time": 1.0, "validation_loss": 2.0, "sources.web.share": 0.75, "sources.loss.share": 0.25}
    assert [name for name in NAMES if re.findall(regex(name), line)] == ["validation_loss"]
    with pytest.raises(ValueError, match="no such metric: loss"):
        format_line(7, 1.0, {}, {"web": {"loss": 1.0}})
    rows = [{"step": 1.0, source_metric("web", "share"): 0.5}, {"step": 2.0}]
    assert last_value(rows, "sources.web.share") == 0.5
    assert last_value(rows, "sources.code.share") is None


@pytest.mark.parametrize(
    "sources", ['"x"', "[1]", '{"web": 3}', '{"web": {"share": "0.5"}}', '{"web": {"share": [1]}}', '{"web": {"share": 1e99}}']
)
def test_a_line_whose_sources_are_damaged_is_damaged(sources: str) -> None:
    line = '{"step": 1, "time": 1.0, "loss": 2.0, "sources": %s}'
    assert parse_line(line % '{"web": {"share": 0.5}}') is not None
    assert parse_line(line % sources) is None
