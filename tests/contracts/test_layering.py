"""Imports point one way, specs need the standard library only, and no file has a name that says nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = ("infra.admit", "infra.triage", "infra.report", "infra.monitor", "infra.quota_check")
JOBS = ("contracts", "data_prep", "training")
BELOW_CDK = (*JOBS, "infra.sagemaker", "infra.run", *STAGES)
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "contracts": (),
    "data_prep": ("contracts",),
    "training": ("contracts", "data_prep"),
    "container": ("contracts",),
    "infra.sagemaker": JOBS,
    "infra.run": (*JOBS, "infra.sagemaker"),
    **dict.fromkeys(STAGES, (*JOBS, "infra.sagemaker", "infra.run", *STAGES)),
    "infra.settings": BELOW_CDK,
    "infra.roles": (*BELOW_CDK, "infra.settings", "infra.constructs"),
    "infra.constructs": (*BELOW_CDK, "infra.settings", "infra.roles"),
    "infra.stacks": (*BELOW_CDK, "infra.settings", "infra.roles", "infra.constructs"),
    "infra.cli": (*BELOW_CDK, "infra.settings", "infra.constructs", "infra.stacks", "local_aws"),
    "local_aws": (*BELOW_CDK, "container"),
}
"""Part of the project -> the parts that it may import; docs/architecture.md draws the same."""
PROJECT = {part.split(".")[0] for part in MAY_IMPORT}


def part_of(module: str) -> str | None:
    """The part that a module belongs to; None outside the project."""
    return (
        ".".join(module.split(".")[:2])
        if module.startswith("infra.")
        else module.split(".")[0]
        if module.split(".")[0] in PROJECT
        else None
    )


def imported(text: str) -> set[str]:
    """Modules that a source file imports, at its top or inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"infra.{alias.name}" for alias in node.names} if node.module == "infra" else {node.module}
    return names


def files_of(part: str) -> list[Path]:
    path = ROOT / part.replace(".", "/")
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def against_the_order(part: str, text: str) -> set[str]:
    return {module for module in imported(text) if (other := part_of(module)) is not None and other not in (part, *MAY_IMPORT[part])}


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_imports_point_one_way(part: str) -> None:
    files = files_of(part)
    assert files
    assert {str(f.relative_to(ROOT)): bad for f in files if (bad := against_the_order(part, f.read_text()))} == {}


def test_every_part_of_infra_has_its_place_in_the_order() -> None:
    parts = {
        f"infra.{p.stem}"
        for p in (ROOT / "infra").iterdir()
        if p.name != "__init__.py" and (p.suffix == ".py" or (p / "__init__.py").exists())
    }
    assert parts == {part for part in MAY_IMPORT if part.startswith("infra.")}


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("training", "from infra.run.recipes import RECIPES"),
        ("infra.sagemaker", "def late():\n    import infra.run.run_spec"),
        ("infra.run", "from infra import admit"),
        ("infra.admit", "from infra.stacks.pipeline_stack import PipelineStack"),
        ("infra.stacks", "from local_aws import embedded"),
    ],
)
def test_an_import_against_the_order_is_noticed(part: str, text: str) -> None:
    assert against_the_order(part, text)


@pytest.mark.parametrize("part", [part for part in BELOW_CDK if part.startswith("infra.")])
def test_what_runs_in_functions_imports_no_cdk(part: str) -> None:
    files = {f: {module.split(".")[0] for module in imported(f.read_text())} for f in files_of(part)}
    assert [f for f, names in files.items() if names & {"aws_cdk", "constructs", "cdk_nag"}] == []


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
