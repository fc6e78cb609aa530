"""Writes every lock file from its short .in file: what `make lock` runs.

    python -m container.lock [--upgrade]      needs uv; keeps the versions that are locked already unless told to upgrade
    python -m container.lock --check          needs no network: exit code 1 when an .in file changed after its lock was made

requirements-dev.txt is resolved first and constrains all others, so that the images run exactly the versions that
`make local` runs. Every lock carries hashes; the images' hold lines for Linux x86-64 and Python 3.11 to 3.13 only: Debian 12
has 3.11, the data_prep base 3.12, AWS's training base 3.13, and one file installs on each. No index host is written.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOWEST_PYTHON = "3.11"
_ENVIRONMENT = "python_full_version < '3.14' and platform_machine == 'x86_64' and sys_platform == 'linux'"
_PYPROJECT = f"""[project]
name = "locks"
version = "0"
requires-python = ">={LOWEST_PYTHON}"
[tool.uv]
environments = ["{_ENVIRONMENT}"]
"""
_INPUT = re.compile(r"^# input sha256 (\w{64})$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Lock:
    """One lock file."""

    path: str
    source: str
    why: str
    """First line of the file: what it is for."""
    constraint: str | None = None
    """Lock whose versions this one takes."""
    images_only: bool = False
    """For the images' systems only."""


LOCKS = (
    Lock(path="requirements-dev.txt", source="requirements-dev.in", why="everything, for make local and make test"),
    Lock(path="requirements.txt", source="requirements.in", why="CDK app and command line", constraint="requirements-dev.txt"),
    Lock(
        path="container/requirements-data_prep.txt", source="container/requirements-data_prep.in", why="the data_prep image",
        constraint="requirements-dev.txt", images_only=True,
    ),
    Lock(
        path="container/requirements-corpus.txt", source="container/requirements-corpus.in", why="the corpus image",
        constraint="requirements-dev.txt", images_only=True,
    ),
    Lock(
        path="container/requirements-training.txt", source="container/requirements-training.in", why="the training image",
        constraint="requirements-dev.txt", images_only=True,
    ),
    Lock(
        path="container/requirements-evaluate.txt", source="container/requirements-evaluate.in", why="the evaluate image, over training's",
        constraint="requirements-dev.txt", images_only=True,
    ),
    Lock(path="local_aws/requirements.txt", source="local_aws/requirements.in", why="the embedded AWS, in an environment of its own"),
)  # fmt: skip


def input_digest(source: Path) -> str:
    """SHA-256 of an .in file and of those it includes: requirement lines only, so that a comment changes nothing."""
    return hashlib.sha256("\n".join(requirement_lines(source)).encode()).hexdigest()


def requirement_lines(source: Path) -> list[str]:
    """Requirements of an .in file, included files' first, without comments."""
    found: list[str] = []
    for line in source.read_text().splitlines():
        requirement = line.partition(" #")[0].strip()
        if requirement.startswith("-r "):
            found += requirement_lines(source.parent / requirement[3:].strip())
        elif requirement and not requirement.startswith("#"):
            found.append(requirement)
    return found


def recorded_digest(lock: Path) -> str | None:
    """The input digest that a lock was made from, or None when it has none."""
    match = _INPUT.search(lock.read_text())
    return match[1] if match else None


def stale(root: Path = ROOT) -> list[str]:
    """Locks whose .in file, or one that it includes, changed after they were made."""
    return [lock.path for lock in LOCKS if recorded_digest(root / lock.path) != input_digest(root / lock.source)]


def make(lock: Lock, *, root: Path = ROOT, upgrade: bool = False) -> None:
    """Resolve one lock with uv and write it, with its header."""
    target = root / lock.path
    with tempfile.TemporaryDirectory() as folder:
        if lock.images_only:  # uv reads a lock's environments from the working directory's pyproject.toml
            (Path(folder) / "pyproject.toml").write_text(_PYPROJECT)
        draft = Path(folder) / target.name
        if target.exists():
            draft.write_text(target.read_text())
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--universal", "--python-version", LOWEST_PYTHON]
        command += ["--no-annotate", "--no-strip-extras", "--generate-hashes"]
        command += ["--upgrade"] if upgrade else []
        command += ["--constraints", str(root / lock.constraint)] if lock.constraint else []
        subprocess.run([*command, str(root / lock.source), "--output-file", str(draft)], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        text = with_bare_names(draft.read_text())
    if lock.images_only:
        text = without_environment(text)
    header = f"# {lock.why[0].upper()}{lock.why[1:]}. Made by `make lock` from {lock.source}; do not edit.\n"
    text = text.replace(str(root) + "/", "")
    target.write_text(f"{header}# input sha256 {input_digest(root / lock.source)}\n{text}")


def with_bare_names(text: str) -> str:
    """The lock with a second entry, ``name``, after each ``name[extra]``.

    With hashes, pip 23.2, which Python 3.11 brings, takes what another package asks for only from an entry of that form:
    ``typepy[datetime]>=1.3`` from one that names the extra, ``fsspec>=2023`` from a plain one.
    """
    return re.sub(r"^([\w.-]+)\[[^\]]+\](==.*(?:\n    --hash=.*)*)", r"\g<0>\n\1\2", text, flags=re.MULTILINE)


def without_environment(text: str) -> str:
    """The lock without the marker that every line shares and that always holds inside an image."""
    clauses = _ENVIRONMENT.split(" and ")
    lines = []
    for line in text.splitlines():
        requirement, separator, marker = line.partition(" ; ")
        if separator:
            ending = " \\" if marker.endswith(" \\") else ""
            kept = [clause for clause in marker.removesuffix(" \\").split(" and ") if clause not in clauses]
            line = requirement + (f" ; {' and '.join(kept)}" if kept else "") + ending
        lines.append(line)
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Make every lock, in the order in which they constrain each other; or check them."""
    parser = argparse.ArgumentParser("python -m container.lock", description="Write every lock file from its .in file.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions instead of the locked ones")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a lock is older than its .in file")
    given = parser.parse_args(argv)
    if given.check:
        outdated = stale()
        for path in outdated:
            print(f"{path} was not made from its present .in file; run `make lock`", file=sys.stderr)
        return 1 if outdated else 0
    for lock in LOCKS:
        make(lock, upgrade=given.upgrade)
        print(f"{lock.path}: {len(re.findall(r'^[A-Za-z0-9]', (ROOT / lock.path).read_text(), re.MULTILINE))} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
