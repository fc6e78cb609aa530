"""One synthesis of each environment for all tests of the stacks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from synthesised import Synthesised, settings, synthesise


@pytest.fixture(scope="session")
def default(tmp_path_factory: pytest.TempPathFactory) -> Synthesised:
    return synthesise(tmp_path_factory.mktemp("default"), settings("default"))


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Synthesised:
    """Every option of the settings at once."""
    return synthesise(tmp_path_factory.mktemp("example"), settings("example"))
