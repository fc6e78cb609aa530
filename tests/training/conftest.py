"""Fixtures of the training tests: one tiny tokens channel, one server that forks CPU ranks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from job_runs import tiny_channel
from rank_group import RankServer

from training.cpu_device import select_cpu

select_cpu()  # before any test module imports torchtitan


@pytest.fixture(scope="session")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_channel(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankServer]:
    with RankServer() as server:
        yield server
