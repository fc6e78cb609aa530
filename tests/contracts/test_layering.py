"""The order of the packages: each imports what stands below it and nothing above, and no modules import each other in a circle."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = ("infra.admit", "infra.triage", "infra.report", "infra.monitor", "infra.quota_check")
JOBS = ("contracts", "data_prep", "training")
BELOW_CDK = (*JOBS, "infra.sagemaker", "infra.run", "infra.edge", *STAGES)
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "contracts": (),
    "data_prep": ("contracts",),
    "corpus": ("contracts", "data_prep"),
    "training": ("contracts", "data_prep"),
    "container": ("contracts",),
    "infra.sagemaker": JOBS,
    "infra.run": (*JOBS, "infra.sagemaker"),
    "infra.edge": (*JOBS, "infra.run"),
    **dict.fromkeys(STAGES, (*JOBS, "infra.sagemaker", "infra.run", "infra.edge", *STAGES)),
    "infra.settings": (*JOBS, "infra.sagemaker", "infra.run"),
    "infra.roles": (*BELOW_CDK, "infra.settings", "infra.constructs"),
    "infra.constructs": (*BELOW_CDK, "infra.settings", "infra.roles"),
    "infra.stacks": (*BELOW_CDK, "infra.settings", "infra.roles", "infra.constructs"),
    "infra.cli": (*BELOW_CDK, "infra.settings", "infra.constructs", "infra.stacks", "local_aws"),
    "local_aws": ("contracts", "infra.sagemaker", "infra.run", "container"),
}
"""Part of the project -> the parts that it may import beside itself; docs/architecture.md draws the same."""
TOP = tuple(dict.fromkeys(part.split(".")[0] for part in MAY_IMPORT))
CDK = {"aws_cdk", "constructs", "cdk_nag", "jsii"}


@functools.cache
def sources() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found: dict[str, Path] = {}
    for folder in TOP:
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(text: str) -> Iterator[str]:
    """What a source file imports, at its top or inside functions: modules of the project by their names, others by their first name."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, "a relative import; name the package"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            own = next((known for known in (name, name.rpartition(".")[0]) if known in sources()), None)
            yield own or name.split(".")[0]


@functools.cache
def graph() -> dict[str, frozenset[str]]:
    """Module -> what it imports."""
    return {module: frozenset(imported(path.read_text())) for module, path in sources().items()}


def part_of(module: str) -> str:
    """``infra.run.recipes.local`` -> ``infra.run``; outside infra the first name."""
    return ".".join(module.split(".")[: 2 if module.startswith("infra.") else 1])


def against_the_order(part: str, names: frozenset[str]) -> set[str]:
    return {name for name in names if name in sources() and part_of(name) not in (part, *MAY_IMPORT[part])}


def circles(edges: dict[str, frozenset[str]]) -> list[set[str]]:
    """Strongly connected components of more than one module, and modules that import themselves (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for following in edges[node] & edges.keys():
            if following not in index:
                visit(following)
                low[node] = min(low[node], low[following])
            elif following in stack:
                low[node] = min(low[node], index[following])
        if low[node] == index[node]:
            component = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(component) > 1 or node in edges[node]:
                found.append(component)

    for node in edges:
        if node not in index:
            visit(node)
    return found


def test_every_module_has_its_place_in_the_order() -> None:
    assert {module for module in sources() if part_of(module) not in MAY_IMPORT} == {"infra"}


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_imports_point_one_way(part: str) -> None:
    modules = {module: names for module, names in graph().items() if part_of(module) == part}
    assert modules
    assert {module: bad for module, names in modules.items() if (bad := against_the_order(part, names))} == {}


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("training", "from infra.run.recipes import RECIPES"),
        ("infra.sagemaker", "def late():\n    import infra.run.run_spec"),
        ("infra.run", "from infra.admit import handler"),
        ("infra.admit", "from infra.stacks.pipeline_stack import PipelineStack"),
        ("infra.stacks", "from local_aws import embedded"),
        ("local_aws", "from infra.admit.plan import Planner"),
    ],
)
def test_an_import_against_the_order_is_noticed(part: str, text: str) -> None:
    assert against_the_order(part, frozenset(imported(text)))


def test_jobs_functions_and_the_embedded_aws_import_no_cdk() -> None:
    below = {module: names for module, names in graph().items() if part_of(module) in (*BELOW_CDK, "local_aws")}
    assert {module: names & CDK for module, names in below.items() if names & CDK} == {}


def test_contracts_import_the_standard_library_only() -> None:
    modules = {module: names for module, names in graph().items() if part_of(module) == "contracts"}
    assert {m: bad for m, names in modules.items() if (bad := names - sources().keys() - sys.stdlib_module_names)} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(graph()) == []


def test_a_circle_is_found() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"json"}, "e": {"e"}}
    assert circles({node: frozenset(names) for node, names in edges.items()}) == [{"a", "b", "c"}, {"e"}]


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


def test_no_file_has_a_name_that_says_nothing() -> None:
    vague = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py"}
    listing = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = [Path(line) for line in listing.splitlines()]
    assert tracked and not [p for p in tracked if p.name in vague]
