"""Fixtures of the command line's tests: a deployment in memory, and a runner of whole commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "report"))

from botocore.exceptions import ClientError
from cli_aws import Deployed
from typer.testing import CliRunner

from infra.cli import where
from infra.cli.exits import CommandError
from infra.cli.main import app
from infra.cli.target import unreachable


@dataclass(frozen=True)
class Result:
    code: int
    out: str


@pytest.fixture
def aws(monkeypatch) -> Deployed:
    deployed = Deployed()
    monkeypatch.setattr(where, "choose_target", lambda **options: deployed)
    return deployed


@pytest.fixture
def pretrain(monkeypatch) -> Callable[..., Result]:
    """Run a command line; an expected error becomes its sentence and its code, as in main()."""

    def run(*words: str, columns: int = 80) -> Result:
        monkeypatch.setenv("COLUMNS", str(columns))
        found = CliRunner().invoke(app, list(words))
        if isinstance(found.exception, CommandError):
            return Result(int(found.exception.code), found.output + found.exception.sentence)
        if isinstance(found.exception, ClientError):
            explained = unreachable(found.exception, "AWS")
            return Result(int(explained.code), found.output + explained.sentence)
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        return Result(found.exit_code, found.output)

    return run
