"""Checks of the documents: commands parse, inputs resolve, links have targets, generated parts are up to date."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.main

from infra.admit.estimate import estimate
from infra.cli import configuration_docs
from infra.cli.main import app
from infra.run.input_schema import input_schema
from infra.run.run_spec import resolve
from infra.sagemaker.prices import table_usd_per_hour
from local_aws import corpus

PROJECT = Path(__file__).parents[2]
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")])
INPUTS = sorted((PROJECT / "docs" / "runs").glob("*.json"))
COMMAND = re.compile(r"(?:^|`)pretrain ([^`\n#]*)", re.M)
TARGET = re.compile(r"(?:^|[ `])make ([a-z][a-z-]*)", re.M)
CODE = re.compile(r"```(?:\w*)\n(.*?)```|`([^`\n]+)`", re.S)


def named(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(PROJECT)))


def code(path: Path) -> str:
    """Everything in a document that is set as code."""
    return "\n".join(block or span for block, span in CODE.findall(path.read_text()))


def usd(value: dict) -> float:
    spec = resolve(value, default_recipe="llama3_8b")
    found = estimate(spec, lambda use, instance_type: table_usd_per_hour(instance_type), prepared=False).usd
    assert found is not None and found <= spec.budget.max_usd
    return found


@named(INPUTS)
def test_example_input_resolves_within_its_own_budget(path):
    usd(json.loads(path.read_text()))


def test_every_example_input_is_in_the_table_with_its_estimate():
    rows = re.findall(r"^\| (\w+\.json) \|.*\| \$([\d,]+) \| \$([\d,]+) \|$", (PROJECT / "docs/runs/README.md").read_text(), re.M)
    told = {name: (int(cost.replace(",", "")), int(budget.replace(",", ""))) for name, cost, budget in rows}
    values = {path.name: json.loads(path.read_text()) for path in INPUTS}
    assert told == {n: (round(usd(v)), round(resolve(v, default_recipe="llama3_8b").budget.max_usd)) for n, v in values.items()}


def test_the_local_mixture_reads_every_file_of_the_local_corpus_once():
    sources = resolve(json.loads((PROJECT / "docs/runs/local_mixture.json").read_text()), default_recipe="local").data.sources
    assert {source.source for source in sources} == {corpus.PREFIX}
    for file in corpus.corpus_files():
        assert len([source for source in sources if any(fnmatch.fnmatchcase(file.name, glob) for glob in source.include)]) == 1, file.name


@named(DOCUMENTS)
def test_every_pretrain_command_parses(path):
    group = typer.main.get_command(app)
    for line in COMMAND.findall(code(path)):
        words = [word for word in shlex.split(line.strip(), comments=True) if word not in ("...", "|")]
        if not words or words[0].startswith("-"):
            continue
        command = group
        while words and hasattr(command, "commands"):
            assert words[0] in command.commands, f"{path.name}: there is no `pretrain {line.strip()}`"
            command = command.commands[words.pop(0)]
        if words:  # a bare name is a mention, not a command line
            command.make_context(str(command.name), words)


@named(DOCUMENTS)
def test_every_make_target_exists(path):
    known = set(re.findall(r"^([a-z][a-zA-Z-]*):", (PROJECT / "Makefile").read_text(), re.M)) | {"sure", "it"}
    assert set(TARGET.findall(code(path))) <= known


@named(DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading(path):
    for target in re.findall(r"\]\(([^)#\s]*(?:#[^)\s]*)?)\)", path.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{path.name} links to {target}"
        if anchor and file.suffix == ".md":
            headings = [
                re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            ]
            assert anchor in headings, f"{path.name} links to {target}"


@named(DOCUMENTS)
def test_files_named_in_text_exist(path):
    for name in re.findall(
        r"\b((?:infra|training|data_prep|container|docs|tests)/[\w./-]*\w\.(?:py|md|yaml|json|txt|in|svg|png))\b", path.read_text()
    ):
        assert "*" in name or (PROJECT / name).exists(), f"{path.name} names {name}"


def test_configuration_reference_is_what_the_types_say():
    assert (PROJECT / "docs/configuration.md").read_text() == configuration_docs.document(), "run `make docs`"


def test_configuration_reference_has_every_leaf_of_the_input_schema():
    text = configuration_docs.document()

    def leaves(schema: dict, path: str):
        for name, item in schema.get("properties", {}).items():
            inner = item if "properties" in item else next((o for o in item.get("anyOf", []) if "properties" in o), None)
            yield f"{path}{name}"
            if inner is not None:
                yield from leaves(inner, f"{path}{name}.")

    missing = [path for path in leaves(input_schema(), "") if f"| `{path}` |" not in text]
    assert missing == []


def test_every_direct_dependency_has_a_reason():
    table = (PROJECT / "README.md").read_text().split("## Dependencies")[1]
    wanted = set()
    for path in [*PROJECT.glob("requirements*.in"), *PROJECT.glob("container/*.in"), PROJECT / "local_aws/requirements.in"]:
        for line in path.read_text().splitlines():
            name = re.match(r"[A-Za-z0-9_.-]+", line)
            if name and not line.startswith("-r"):
                wanted.add(name[0])
    wanted |= set(json.loads((PROJECT / "package.json").read_text())["devDependencies"])
    assert sorted(name for name in wanted if not name.startswith("types-") and name not in table) == []


def test_pictures_are_there():
    assert (PROJECT / "docs/report.png").read_bytes().startswith(b"\x89PNG")
    assert "pretrain watch" in (PROJECT / "docs/watch.svg").read_text().replace("&#160;", " ")


def test_documents_name_no_machine_of_ours():
    for path in DOCUMENTS:
        assert not re.search(r"(?<![\w.])/(?:work|root|tmp|home)/", path.read_text()), path.name


def test_version_is_the_projects():
    from typer.testing import CliRunner

    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert CliRunner().invoke(app, ["--version"]).output.strip() == f"pretrain {version}"
