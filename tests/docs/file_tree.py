"""The README's file tree: every source file with the first sentence of its own docstring or opening comment.

python tests/docs/file_tree.py        rewrites the part of README.md between the markers (make docs)
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
BEGIN, END = "<!-- file tree: make docs -->", "<!-- end of file tree -->"
ROOTS = ("contracts", "data_prep", "training", "container", "infra", "local_aws")
SINGLE = {
    "app.py": "", "cdk.json": "settings of each environment; the CDK's feature flags", "Makefile": "every command; `make help` lists them",
    "pyproject.toml": "the package and its tools' settings", "package.json": "Node tools: the CDK command line and two checkers",
    "requirements.in": "CDK app and command line", "requirements-dev.in": "everything, for `make local` and `make test`",
}  # fmt: skip
OTHER = {
    "cli/sagemaker-config.yaml": "turns the sagemaker package's telemetry off",
    "report/assets/page.html": "the page's frame", "report/assets/page.css": "its looks: light, dark, paper",
    "report/assets/charts.js": "draws the curves", "report/assets/uPlot.iife.min.js": "chart library, vendored (npm uplot 1.6.32, MIT)",
    "report/assets/uPlot.min.css": "its styles", "report/assets/uPlot.LICENSE": "its licence",
}  # fmt: skip
SUFFIXES = (".py", ".yaml", ".yml", ".html", ".css", ".js", ".in", ".LICENSE", ".toml")
LONGEST = 110


def tree() -> str:
    """The block for the README."""
    lines = [f"{name:<28}{SINGLE[name] or said(PROJECT / name)}" for name in SINGLE]
    for root in ROOTS:
        lines += ["", f"{root}/"] + [_line(root, path) for path in files(root)]
    lines += ["", "tests/", *(f"  {path.name + '/':<38}{said(path / '__init__.py')}".rstrip() for path in test_folders())]
    return "```\n" + "\n".join(lines) + "\n```"


def files(root: str) -> list[Path]:
    """Files that get a line, folder by folder."""
    found = [path for path in (PROJECT / root).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    named = [path for path in found if path.suffix in SUFFIXES or path.name in ("Dockerfile", "docker", "aws")]
    return sorted((path for path in named if path.name != "__init__.py"), key=lambda path: (path.parent, path.name))


def test_folders() -> list[Path]:
    """Folders of tests."""
    return sorted(path for path in (PROJECT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__")


def said(path: Path) -> str:
    """First sentence of what a file says about itself."""
    if not path.exists():
        return ""
    text = path.read_text()
    if path.suffix == ".py":
        opening = ast.get_docstring(ast.parse(text)) or ""
    else:
        comments = re.match(r"(?:#!.*\n)?((?:#.*\n)+)", text)
        opening = re.sub(r"^#\s?", "", comments[1], flags=re.M) if comments else ""
    paragraph = " ".join(opening.split("\n\n")[0].split())
    sentence = re.split(r"(?<=[a-z0-9)`\"])\.(?:\s|$)", paragraph, maxsplit=1)[0].removesuffix(".")
    return sentence if len(sentence) <= LONGEST else sentence[: sentence.rfind(" ", 0, LONGEST)].rstrip(",;:") + " ..."


def _line(root: str, path: Path) -> str:
    name = str(path.relative_to(PROJECT / root))
    return f"  {name:<38}{OTHER.get(name) or said(path)}".rstrip()


def rewritten(text: str) -> str:
    """The README with a fresh tree."""
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{tree()}\n{END}{rest.split(END, 1)[1]}"


if __name__ == "__main__":
    readme = PROJECT / "README.md"
    readme.write_text(rewritten(readme.read_text()))
