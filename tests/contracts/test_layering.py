"""Imports point one way (infra -> training -> data_prep), and specs stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {"data_prep": {"training", "infra"}, "training": {"infra"}}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_no_job_imports_what_stands_above_it(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    assert {str(f.relative_to(ROOT)): bad for f in files if (bad := imported(f) & FORBIDDEN[package])} == {}


@pytest.mark.parametrize(
    "module", ["data_prep.spec", "training.spec", "infra.run.recipes", "contracts.metric_line", "infra.run.run_spec", "infra.run.layout"]
)
def test_specs_need_the_standard_library_only(module: str) -> None:
    code = (
        f"import sys; before = set(sys.modules); import {module}; "
        "extra = {m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names) "
        "- {'contracts', 'data_prep', 'training', 'infra'}; "
        "sys.exit(', '.join(sorted(extra)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{module} imports {done.stderr}"


def test_no_file_is_a_drawer_without_a_name() -> None:
    drawers = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py"}
    listing = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = [Path(line) for line in listing.splitlines()]
    assert tracked and not [p for p in tracked if p.name in drawers]
