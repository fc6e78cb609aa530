"""The GPU bench's own decisions, which need no GPU: how many layers, which settings exist, what is combined, what the page says."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from contracts.config import merge, parse, to_json
from infra.run.recipes import RECIPES
from training.spec import TrainingSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import gpu
import gpu_document
import gpu_measure
import gpu_settings
from gpu_settings import CHANGES, LAST_LEG, LEGS

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


class Fake(gpu.Bench):
    """A device on which changes multiply."""

    factors: ClassVar = {"batch 4": 1.2, "batch 1": 0.9, "blocks checkpointed, batch 8": 1.25, "CUDA graphs": 1.1, "max-autotune": 1.005}

    def _measured(self, request: dict[str, Any]) -> dict[str, Any]:
        if "loss in one piece" in request["names"]:
            return {"failed": "out of memory"}
        speed = 1000.0 * (1.4 if request["settings"]["float8"] != "off" else 1.0)
        for name in request["names"]:
            speed *= self.factors.get(name, 1.0)
        if {"blocks checkpointed, batch 8", "CUDA graphs"} <= set(request["names"]):
            speed /= 1.2  # they do not get on
        return row(speed)


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the bench finds on that device."""
    monkeypatch.setattr(gpu, "Bench", Fake)
    base = gpu_settings.base_settings("cuda", H100)
    return gpu.bench(base, tmp_path, rounds=2, steps=20, warmup=5, only=list(CHANGES))


def test_what_helped_is_added_where_it_helps_on_top_and_one_of_a_group(found: dict[str, Any]) -> None:
    assert found["combination"]["kept"] == ["blocks checkpointed, batch 8"]
    assert [name for name, _ in found["combination"]["tries"]] == [
        "blocks checkpointed, batch 8",
        "blocks checkpointed, batch 8 + CUDA graphs",
    ]
    assert (found["fp8_over_eager"], found["best_over_eager"]) == (1.4, 1.75)


def test_the_page_has_every_row_a_failure_is_one_and_says_whether_the_aims_are_met(found: dict[str, Any]) -> None:
    page = gpu_document.document(found)
    assert "one NVIDIA H100 80GB HBM3 (79 GiB): torch 2.14.1, CUDA 13.0, torchtitan 0.3.0, torchao 0.18.0." in page
    assert all(f"| {name} |" in page for name in (*LEGS, *CHANGES))
    assert "| loss in one piece | out of memory |" in page
    assert re.search(r"\| float8_allgather \| 1400 \| 1.400 \| 40.0 \| 60.0 \| \d+\.\d \| 2.0000 \| \+0.00 % \|", page)
    assert re.search(r"\| batch 4 \| 1680 \| 1.200 \| 40.0 \| 60.0 \| \d+\.\d \| 2.0000 \| - \|", page)  # other samples, so no parity
    assert "| CUDA graphs | 1540 | 1.100 | 40.0 | 60.0 | - | 2.0000 | +0.00 % |" in page  # which the estimate does not know
    assert "989.4 TFLOP/s" in page
    assert "Best setting over eager BF16: 1.750; the aim is 1.6, met." in page


def test_a_first_leg_that_does_not_fit_leaves_a_page(found: dict[str, Any]) -> None:
    found["legs"] = {name: {"failed": "out of memory"} if name == "baseline" else row(900.0) for name in LEGS}
    found["fp8_over_eager"] = None
    page = gpu_document.document(found)
    assert "| baseline | out of memory | | | | | | |" in page
    assert "not known, since baseline did not run" in page


def test_an_interrupted_bench_goes_on_from_what_it_measured(tmp_path: Path) -> None:
    base = gpu_settings.base_settings("cuda", H100)
    first = Fake(base, tmp_path, rounds=1, steps=20, warmup=5)
    measured = first.run(LAST_LEG, ["CUDA graphs"], 0)
    again = gpu.Bench(base, tmp_path, rounds=1, steps=20, warmup=5)  # the real one would start a process here
    assert again.run(LAST_LEG, ["CUDA graphs"], 0) == measured
    assert json.loads((tmp_path / "results.json").read_text())
