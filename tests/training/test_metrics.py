"""The metrics line: SageMaker's regexes, the file, peaks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contracts.accelerators import accelerator_of
from contracts.metric_line import METRICS, format_line, metric_definitions, parse_line
from training.metrics import MetricsFile

FULL = {metric.name: 1.5e-05 * (place + 1) for place, metric in enumerate(METRICS)}


@pytest.mark.parametrize("definition", metric_definitions(), ids=lambda item: item["Name"])
def test_each_metric_definition_finds_its_own_value_and_no_other(definition: dict[str, str]) -> None:
    line = format_line(7, 1795392000.0, FULL)
    found = re.findall(definition["Regex"], line)
    assert [float(value) for value in found] == [pytest.approx(FULL[definition["Name"]])]


def test_metric_definitions_find_nothing_for_a_value_that_is_not_known() -> None:
    line = format_line(1, 0.0, {"mfu": None, "loss": float("nan")})
    assert not any(re.search(item["Regex"], line) for item in metric_definitions())


def test_sagemaker_takes_no_more_than_40_definitions() -> None:
    assert len(metric_definitions()) <= 40


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics" / "metrics.jsonl")
    for step in (1, 2):
        file.append(format_line(step, 0.0, {"loss": float(step)}))
    with file.path.open("a") as handle:
        handle.write('{"step": 3, "time": 0.0, "lo')
    assert [(row["step"], row["loss"]) for row in file.rows()] == [(1, 1), (2, 2)]


def test_log_lines_that_are_no_metrics_are_passed_over() -> None:
    assert parse_line("[titan] step: 1") is None
    assert parse_line('{"stage": "prepare"}') is None


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA L4", 121e12),
        ("CPU (x86_64)", None),
    ],
)
def test_a_device_has_its_own_peak_or_none(device: str, peak: float | None) -> None:
    known = accelerator_of(device)
    assert (None if known is None else known.bf16_flops) == peak
