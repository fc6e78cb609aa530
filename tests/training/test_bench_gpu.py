"""The GPU bench's own decisions, which need no GPU: how many layers, which settings, what the table says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from data_prep.strict import merge, parse
from training.recipes import RECIPES
from training.spec import TrainingSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import gpu

H100 = 80 << 30
ONE = merge(RECIPES["llama3_8b"]["training"], {"processes_per_host": 1})


def test_as_many_layers_as_fit_and_no_more() -> None:
    layers = gpu.layers_that_fit(ONE, H100)
    assert 0 < layers < 32
    assert gpu.layers_that_fit(ONE, 2 * H100) > layers
    with pytest.raises(SystemExit, match="Not one layer"):
        gpu.layers_that_fit(ONE, 4 << 30)


def test_every_setting_of_the_bench_is_a_valid_leg() -> None:
    base = gpu.base_settings("cuda", H100)
    for changes in (*gpu.LEGS.values(), *gpu.CHANGES.values()):
        parse(TrainingSpec, merge(merge(base, gpu.LEGS["float8_allgather"]), changes))


def test_the_table_gives_ratios_to_its_first_setting() -> None:
    row = {"mfu": None, "memory_gib": 60.0, "loss": 2.0}
    rows = {"baseline": {**row, "tokens_per_second": 6000.0}, "compile": {**row, "tokens_per_second": 7200.0, "mfu": 40.0}}
    assert "| compile | 7200 | 1.200 | 40.0 | 60.0 | 2.0000 |" in gpu.table(rows, "baseline")
