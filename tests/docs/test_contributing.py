"""What contributors rely on: named files exist, CI runs `make test`, hooks use the project's own tools, every folder is described."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
ARCHITECTURE = (PROJECT / "docs/architecture.md").read_text()
README = (PROJECT / "README.md").read_text()
YAML_FILES = [PROJECT / ".pre-commit-config.yaml", *sorted((PROJECT / ".github").rglob("*.yml"))]


def tracked() -> list[Path]:
    """Files of the project, new ones included, without what git ignores."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    return [Path(line) for line in listing.splitlines() if (PROJECT / line).is_file()]


def folders() -> set[str]:
    return {f"{parent}/" for path in tracked() for parent in path.parents if str(parent) != "."}


def described(text: str) -> list[str]:
    return re.findall(r"^\| `([^`]+/)` \| \S", text, re.M)


def drawn(text: str) -> set[str]:
    """Folders of the README's file tree."""
    tree = text.split("## Files")[1].split("```")[1]
    found, outer = set(), ""
    for indent, name in re.findall(r"^( *)(\S+/) ", tree, re.M):
        outer = outer if indent else name
        found.add(outer + name if indent else name)
    return found


def test_architecture_describes_every_folder_once_and_no_other():
    rows = described(ARCHITECTURE)
    assert len(rows) == len(set(rows))
    assert set(rows) == folders()


def test_a_missing_folder_and_one_that_is_gone_are_noticed():
    text = ARCHITECTURE.replace("| `infra/triage/` |", "| `infra/gone/` |")
    assert set(described(text)) ^ folders() == {"infra/triage/", "infra/gone/"}


def test_readmes_tree_has_the_top_level_and_the_two_folders_of_many_parts():
    every = {folder for folder in folders() if not folder.startswith(".")}
    wanted = {f for f in every if f.count("/") == 1} | {f for f in every if f.count("/") == 2 and f.startswith(("infra/", "local_aws/"))}
    assert drawn(README) == wanted


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md", "docs/decisions.md"])
def test_no_line_is_cut_off(name):
    assert [line for line in (PROJECT / name).read_text().splitlines() if line.rstrip(" |`").endswith(("...", "…"))] == []


def test_every_file_that_contributing_and_architecture_name_exists():
    text = (PROJECT / "CONTRIBUTING.md").read_text() + ARCHITECTURE.split("## Where to find it")[1].split("## Imports")[0]
    names = re.findall(r"(?<![\w./])(?:[a-z_]+/)+(?:[\w.-]|\\_)*", text)
    assert len(names) > 30
    assert [name for name in names if not (PROJECT / name.replace("\\", "").rstrip(".")).exists()] == []


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_yaml_parses(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_workflow_runs_make_test_with_actions_pinned_to_commits():
    text = (PROJECT / ".github/workflows/ci.yml").read_text()
    workflow = yaml.safe_load(text)
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step] == ["make test"]
    assert all(re.search(r"uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line) for line in text.splitlines() if "uses:" in line)
    assert workflow["permissions"] == {"contents": "read"}


def test_hooks_use_the_projects_own_tools():
    config = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    assert all(hook["entry"].startswith((".venv/bin/", "make ")) for hook in hooks)
    for needed in ("ruff format", "ruff check", "mypy", "container.lock --check", "make docs"):
        assert any(needed in hook["entry"] for hook in hooks), needed


def test_issue_forms_have_what_github_requires():
    for path in sorted((PROJECT / ".github/ISSUE_TEMPLATE").glob("*.yml")):
        form = yaml.safe_load(path.read_text())
        if path.name == "config.yml":
            continue
        assert form["name"] and form["description"] and form["body"]
        ids = [item["id"] for item in form["body"] if item["type"] != "markdown"]
        assert len(ids) == len(set(ids)) and all(item["attributes"] for item in form["body"])


def test_dependabot_looks_at_every_lock_and_tool():
    updates = yaml.safe_load((PROJECT / ".github/dependabot.yml").read_text())["updates"]
    found = {(update["package-ecosystem"], d) for update in updates for d in update.get("directories", [update.get("directory")])}
    inputs = {path.parent for path in tracked() if path.suffix == ".in"}
    assert {folder for ecosystem, folder in found if ecosystem == "pip"} == {"/" if str(p) == "." else f"/{p}" for p in inputs}
    assert {("npm", "/"), ("github-actions", "/")} <= found


def test_every_package_of_the_readmes_table_is_a_dependency():
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| [^|]+ \|$", README.split("## Dependencies")[1], re.M)[2:]
    named = {name.removesuffix("(npm)").strip() for row in rows if "vendored" not in row for name in row.split(",")}
    wanted = set(json.loads((PROJECT / "package.json").read_text())["devDependencies"])
    for path in tracked():
        if path.suffix == ".in":
            lines = [line for line in (PROJECT / path).read_text().splitlines() if not line.startswith(("#", "-"))]
            wanted |= {match[0] for line in lines if (match := re.match(r"[A-Za-z0-9_.-]+", line))}
    assert len(named) > 20 and named - wanted == set()


def test_package_cannot_be_uploaded_by_mistake():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert "Private :: Do Not Upload" in project["classifiers"]
