"""One embedded AWS for the tests of this folder, with the small example pipeline."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_aws import embedded

sys.path.insert(0, str(Path(__file__).parent))  # example_machine
from example_machine import Example, deploy_example


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    root = tmp_path_factory.mktemp("example")
    try:
        yield deploy_example(embedded.up(root))
    finally:
        embedded.clean(root)


@pytest.fixture(autouse=True)
def _no_faults_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "example" in request.fixturenames:
        request.getfixturevalue("example").aws.inject()
