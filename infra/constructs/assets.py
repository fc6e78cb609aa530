"""File lists and hashes of the Lambda package and of the image build context.

CDK's own asset hash would include caches and editor files; the image tag must depend on the image's content
alone. ``cdk synth`` and the tests use the same lists.
"""

from __future__ import annotations

import ast
import hashlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("contracts", "data_prep", "training", "infra")

HANDLERS = ("infra/*/handler.py",)
"""Entry points of the functions; the zip holds them and what they import from our packages."""
LAMBDA_DATA = ("infra/report/assets/*",)
"""Files that the functions read at run time."""
CONTEXT_FILES = (".dockerignore", "container/**/*", "contracts/**/*", "corpus/**/*", "data_prep/**/*", "training/**/*")
"""The image build context."""

_CACHES = frozenset({"__pycache__", ".DS_Store"})


def select(patterns: Iterable[str], root: Path = ROOT) -> list[Path]:
    """Files under ``root`` that match a pattern, as sorted relative paths, without caches."""
    found = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    relative = (path.relative_to(root) for path in found)
    return sorted(path for path in relative if not _CACHES.intersection(path.parts) and path.suffix != ".pyc")


def lambda_files(root: Path = ROOT) -> list[Path]:
    """Files of the functions' package: handlers, what they import (directly or not), data files. No torch, CDK or wheel."""
    found: set[Path] = set()
    waiting = select(HANDLERS, root)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(_imported(path, root))
    return sorted(found.union(select(LAMBDA_DATA, root)))


def _imported(path: Path, root: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse((root / path).read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] in PACKAGES:
                yield from _modules(parts, root)


def _modules(parts: list[str], root: Path) -> Iterator[Path]:
    """Source files of a dotted module name, if it is a module, and of every package above it."""
    for depth in range(1, len(parts) + 1):
        here = Path(*parts[:depth])
        for candidate in (here / "__init__.py", here.with_suffix(".py")):
            if (root / candidate).is_file():
                yield candidate


def content_hash(files: Iterable[Path], *extra: str, root: Path = ROOT) -> str:
    """24 hex digits over names, contents and ``extra`` (build arguments that change the result)."""
    digest = hashlib.sha256()
    for path in files:
        content = (root / path).read_bytes()
        digest.update(f"{path.as_posix()}\0{len(content)}\0".encode() + content)
    for value in extra:
        digest.update(f"\0{value}".encode())
    return digest.hexdigest()[:24]


def image_tag(device: str, base_image: str | None, root: Path = ROOT) -> str:
    """The images' tag: the hash of the build context and of the build arguments."""
    return content_hash(select(CONTEXT_FILES, root), device, base_image or "", root=root)


def copy_files(files: Iterable[Path], target: Path, root: Path = ROOT) -> None:
    """Copy the files to ``target``, folders kept."""
    for path in files:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, target / path)
