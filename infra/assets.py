"""What goes into the Lambda zip and into the image build context: two explicit lists of files, and their hash.

CDK's own asset hash would also see caches and editor files; the image tag must depend on the image's
content alone, and the same list has to serve both ``cdk synth`` and the tests.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LAMBDA_FILES = (
    "data_prep/__init__.py", "data_prep/strict.py", "data_prep/spec.py", "data_prep/fingerprint.py", "data_prep/failure.py",
    "data_prep/sources.py",
    "training/__init__.py", "training/spec.py", "training/failure.py", "training/metric_line.py", "training/memory.py",
    "training/recipes/*.py",
    "infra/__init__.py", "infra/run_spec.py", "infra/layout.py", "infra/job_requests.py", "infra/deployment.py", "infra/admission.py",
    "infra/estimate.py", "infra/quotas.py", "infra/prices.py", "infra/run_lock.py", "infra/triage_table.py",
    "infra/functions/*.py", "infra/report/**/*",
)  # fmt: skip
"""Globs of the functions' zip: pure Python, no torch, no CDK, no wheel. boto3 comes with the Lambda runtime."""

CONTEXT_FILES = (".dockerignore", "container/**/*", "training/**/*", "data_prep/**/*")
"""Globs of the image build context."""

_CACHES = frozenset({"__pycache__", ".DS_Store"})


def select(patterns: Iterable[str], root: Path = ROOT) -> list[Path]:
    """Files under ``root`` that match, as sorted relative paths, without caches."""
    found = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    relative = (path.relative_to(root) for path in found)
    return sorted(path for path in relative if not _CACHES.intersection(path.parts) and path.suffix != ".pyc")


def content_hash(files: Iterable[Path], *extra: str, root: Path = ROOT) -> str:
    """24 hex digits over names, contents and ``extra`` (build arguments that change the result)."""
    digest = hashlib.sha256()
    for path in files:
        content = (root / path).read_bytes()
        digest.update(f"{path.as_posix()}\0{len(content)}\0".encode() + content)
    for value in extra:
        digest.update(f"\0{value}".encode())
    return digest.hexdigest()[:24]


def stage(files: Iterable[Path], target: Path, root: Path = ROOT) -> None:
    """Copy the files to ``target``, folders kept."""
    for path in files:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, target / path)
