"""ministack's private names: an upgrade that moves one must fail here, in one place."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from local_aws.services import ministack_internals
from local_aws.services.ministack_internals import TABLE

PYTHON = Path(__file__).parents[2] / ".venv-aws/bin/python"


def check(change: str = "pass") -> dict[str, object]:
    script = f"from local_aws.services import ministack_internals; {change}; raise SystemExit(ministack_internals.main())"
    result = subprocess.run([PYTHON, "-c", script], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    found: dict[str, object] = json.loads(result.stdout)
    assert result.returncode == (1 if found["problems"] else 0)
    return found


def test_every_patched_name_is_in_the_installed_ministack_with_its_parameters() -> None:
    assert check() == {"version": ministack_internals.MINISTACK_VERSION, "problems": []}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ('ministack_internals.TABLE["ministack.app"]["_moved"] = None', "ministack.app._moved is gone"),
        ('ministack_internals.MINISTACK_VERSION = "1.5.34"', "ministack is 1.5.33, the table was checked against 1.5.34"),
        (
            'ministack_internals.TABLE["ministack.services.stepfunctions"]["_scaled_sleep"] = ("seconds", "scale")',
            "ministack.services.stepfunctions._scaled_sleep takes ('seconds',), the table expects ('seconds', 'scale')",
        ),
    ],
)
def test_a_difference_is_named(change: str, problem: str) -> None:
    assert check(change)["problems"] == [problem]


def test_a_name_outside_the_table_is_refused() -> None:
    script = "from local_aws.services import ministack_internals; ministack_internals.private('stepfunctions', '_tags')"
    result = subprocess.run([PYTHON, "-c", script], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (
        "stepfunctions._tags is not in the table of local_aws/services/ministack_internals.py; add it there so that upgrades are checked"
        in result.stderr
    )


def test_only_the_table_imports_private_ministack_names() -> None:
    for path in (Path(__file__).parents[2] / "local_aws").rglob("*.py"):
        if path.name != "ministack_internals.py":
            assert "from ministack" not in path.read_text(), path
            assert "ministack.services" not in path.read_text(), path


def test_every_name_of_the_table_has_a_row_in_the_upgrade_guide_and_none_is_stale() -> None:
    guide = (Path(__file__).parents[2] / "docs/upgrade.md").read_text().partition("## ministack")[2].partition("\n## ")[0]
    cells = [line.split("|")[2] for line in guide.splitlines() if line.startswith("|")][2:]
    written = [name.rpartition(".")[2] for cell in cells for name in re.findall(r"`([\w.]+)`", cell)]
    listed = [name for names in TABLE.values() for name in names]
    assert sorted(written) == sorted(listed)
