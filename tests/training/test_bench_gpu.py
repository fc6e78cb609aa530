"""The GPU bench's own decisions, which need no GPU: how many layers, which settings exist, what is combined, what the page says."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from contracts.config import merge, parse, to_json
from infra.run.recipes import RECIPES
from training.spec import TrainingSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import gpu
import gpu_document
import gpu_measure
import gpu_runs
import gpu_settings
from gpu_settings import CHANGES, LAST_LEG, LEGS, changes_for

H100 = 80 << 30
ONE = merge(to_json(RECIPES["llama3_8b"].training), {"processes_per_host": 1, "device": "cuda"})
MACHINE = {"device": "NVIDIA H100 80GB HBM3", "memory_gib": 79.2, "peak_flops": 989.4e12, "cuda": "13.0"}
VERSIONS = {"torch": "2.14.1", "torchtitan": "0.3.0", "torchao": "0.18.0"}


def row(tokens_per_second: float, loss: float = 2.0) -> dict[str, Any]:
    return {
        "tokens_per_second": tokens_per_second,
        "mfu": 40.0,
        "memory_gib": 60.0,
        "loss": loss,
        "machine": MACHINE | VERSIONS,
    }


def described(config: Any) -> str:
    return re.sub(r"0x[0-9a-f]+", "", repr(config))


def test_as_many_layers_as_fit_every_leg_and_no_more() -> None:
    layers = gpu_settings.layers_that_fit(ONE, H100)
    assert 0 < layers < 32
    assert gpu_settings.layers_that_fit(ONE, 2 * H100) > layers
    with pytest.raises(SystemExit, match="Not one layer"):
        gpu_settings.layers_that_fit(ONE, 4 << 30)


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_a_valid_leg_that_torchtitan_takes(name: str, channel: Path, tmp_path: Path) -> None:
    """With CUDA's settings, all but the device: torchtitan builds the configuration and its own checks pass."""
    parse(TrainingSpec, merge(merge(gpu_settings.base_settings("cuda", H100), LEGS[LAST_LEG]), CHANGES[name].training))
    (tmp_path / "input" / "data").mkdir(parents=True)
    (tmp_path / "input" / "data" / "tokens").symlink_to(channel)
    settings = merge(gpu_settings.base_settings("cpu", 0), LEGS[LAST_LEG])
    plain, changed = (described(gpu_measure.trainer_config(tmp_path, settings, names, 20)) for names in ([], [name]))
    assert (changed != plain) != bool(CHANGES[name].environment)


class Fake(gpu_runs.Bench):
    """A device on which changes multiply."""

    factors: ClassVar = {"batch 4": 1.2, "batch 1": 0.9, "blocks checkpointed, batch 8": 1.25, "CUDA graphs": 1.1, "max-autotune": 1.005}
    seconds_each: ClassVar = 0.0

    def _measured(self, request: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        self.deadline -= min(seconds, self.seconds_each)
        if seconds < self.seconds_each:
            return None
        if "loss in one piece" in request["names"]:
            return {"failed": "out of memory"}
        speed = 1000.0 * (1.4 if request["settings"]["float8"] != "off" else 1.0)
        for name in request["names"]:
            speed *= self.factors.get(name, 1.0)
        if {"blocks checkpointed, batch 8", "CUDA graphs"} <= set(request["names"]):
            speed /= 1.2  # they do not get on
        return row(speed)


BASE = gpu_settings.base_settings("cuda", H100)


def fake(folder: Path, seconds: float | None = None, each: float = 0.0) -> Fake:
    runs = Fake(BASE, folder, rounds=2, steps=20, warmup=5, seconds=seconds)
    runs.seconds_each = each  # type: ignore[misc]
    return runs


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Any]:
    """What the bench finds on that device."""
    return gpu.bench(fake(tmp_path), changes_for(1))


def test_what_helped_is_added_where_it_helps_on_top_and_one_of_a_group(found: dict[str, Any]) -> None:
    assert found["combination"]["kept"] == ["blocks checkpointed, batch 8"]
    assert [name for name, _ in found["combination"]["tries"]] == [
        "blocks checkpointed, batch 8",
        "blocks checkpointed, batch 8 + CUDA graphs",
    ]
    assert (found["fp8_over_eager"], found["best_over_eager"]) == (1.4, 1.75)


def test_the_page_has_every_row_a_failure_is_one_and_says_whether_the_aims_are_met(found: dict[str, Any]) -> None:
    page = gpu_document.document(found)
    assert "1 x NVIDIA H100 80GB HBM3 (79 GiB): torch 2.14.1, CUDA 13.0, torchtitan 0.3.0, torchao 0.18.0." in page
    assert all(f"| {name} |" in page for name in (*LEGS, *changes_for(1)))
    assert "Not finished" not in page
    assert "| loss in one piece | out of memory |" in page
    assert re.search(r"\| float8_allgather \| 1400 \| 1.400 \| 40.0 \| 60.0 \| \d+\.\d \| 2.0000 \| \+0.00 % \|", page)
    assert re.search(r"\| batch 4 \| 1680 \| 1.200 \| 40.0 \| 60.0 \| \d+\.\d \| 2.0000 \| - \|", page)  # other samples, so no parity
    # A change of torchtitan's own configuration, which the estimate does not know.
    assert "| loss in 4 chunks | 1400 | 1.000 | 40.0 | 60.0 | - | 2.0000 | +0.00 % |" in page
    assert "989.4 TFLOP/s" in page
    assert "- Best setting over eager BF16: 1.750; the aim is 1.6 at least: met." in page
    assert "- `float8_allgather` over eager BF16: 1.400; the aim is 1.38 at least: met." in page


def test_the_aims_are_those_of_the_all_gather_leg_the_fastest_and_the_farthest_memory(found: dict[str, Any]) -> None:
    assert [aim.met for aim in gpu_document.aims(found)][:2] == [True, True]
    rows = [*found["legs"].values(), *found["changes"].values()]
    far = max(abs(60.0 / row["estimate_gib"] - 1) for row in rows if row.get("estimate_gib"))
    assert abs(found["memory_error"]) == pytest.approx(far, abs=1e-3)
    slow = {**found, "fp8_over_eager": 1.379, "best_over_eager": 1.599, "memory_error": -0.101}
    assert [aim.met for aim in gpu_document.aims(slow)] == [False, False, False]
    good = {**found, "fp8_over_eager": 1.38, "best_over_eager": 1.6, "memory_error": -0.1}
    assert [aim.met for aim in gpu_document.aims(good)] == [True, True, True]


def test_pieces_of_ten_minutes_come_to_what_one_call_finds(tmp_path: Path, found: dict[str, Any]) -> None:
    """Nothing is begun that would not end, nothing is measured twice, and each piece leaves a page that says what is missing."""
    pages, calls = [], 0
    while not pages or pages[-1]["missing"]:
        runs = fake(tmp_path / "pieces", seconds=590, each=100)
        pages.append(gpu.bench(runs, changes_for(1)))
        assert runs.deadline - time.monotonic() > -1  # no piece is longer than its time
        calls += 1
        assert calls < 30
    assert calls > 5
    assert "Not finished" in gpu_document.document(pages[0])
    assert "| batch 4 | not measured yet |" in gpu_document.document(pages[0])
    assert pages[0]["combination"]["kept"] == []
    assert pages[-1] == found


def test_what_does_not_end_in_a_piece_of_its_own_is_a_row_and_keeps_nothing_else_waiting(tmp_path: Path) -> None:
    for _ in range(2):
        gpu.bench(fake(tmp_path, seconds=290, each=100), changes_for(1))
    slow = fake(tmp_path, seconds=290, each=600)
    assert gpu.bench(slow, changes_for(1))["legs"]["baseline"] != gpu_runs.NOT_YET
    rows = [json.loads(path.read_text())["row"] for path in (tmp_path / "pieces").iterdir()]
    assert [row["failed"] for row in rows if "failed" in row] == ["not done in 5 minutes"]


def test_a_call_without_time_writes_the_page_of_the_pieces_there_are(tmp_path: Path) -> None:
    gpu.bench(fake(tmp_path, seconds=290, each=100), changes_for(1))
    before = sorted(path.name for path in (tmp_path / "pieces").iterdir())
    again = gpu.bench(Fake(BASE, tmp_path, rounds=2, steps=20, warmup=5, seconds=0), changes_for(1))
    assert "tokens_per_second" in again["legs"]["baseline"]
    assert again["missing"]
    assert sorted(path.name for path in (tmp_path / "pieces").iterdir()) == before


def test_a_measurement_that_hangs_ends_with_all_that_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    script = f"import subprocess, time; p = subprocess.Popen(['sleep', '60']); open({str(child)!r}, 'w').write(str(p.pid)); time.sleep(60)"
    code, _, _ = gpu_runs.run_group([sys.executable, "-c", script], dict(os.environ), 2.0)
    assert code is None
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid := int(child.read_text())) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"{pid} is still there"


def test_of_several_ranks_a_failure_is_the_answer() -> None:
    good, bad = '{"tokens_per_second": 1.0}', '{"failed": "out of memory"}'
    assert gpu_runs.last_answer(f"log\n{good}\n") == {"tokens_per_second": 1.0}
    assert gpu_runs.last_answer(f"{bad}\n{good}\n") == {"failed": "out of memory"}
    assert gpu_runs.last_answer('log {\n{"step": 3, "loss": 2.0}\n') is None  # a rank that died after a metrics line


def test_docs_say_of_every_change_what_it_should_bring() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "speed.md").read_text()
    assert [name for name in CHANGES if f'"{name}"' not in page] == []


def test_changes_that_need_several_devices_wait_for_them() -> None:
    assert "FSDP in symmetric memory" not in changes_for(1)
    assert set(changes_for(8)) == set(CHANGES)
    assert gpu_settings.base_settings("cuda", H100, 8)["model"]["layers"] == 32


def test_a_first_leg_that_does_not_fit_leaves_a_page(found: dict[str, Any]) -> None:
    found["legs"] = {name: {"failed": "out of memory"} if name == "baseline" else row(900.0) for name in LEGS}
    found |= {"fp8_over_eager": None, "best_over_eager": None}
    page = gpu_document.document(found)
    assert "| baseline | out of memory | | | | | | |" in page
    assert "`float8_allgather` over eager BF16: not known; the aim is 1.38 at least: not known." in page
