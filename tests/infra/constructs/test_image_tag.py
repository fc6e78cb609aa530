"""The image tag: what changes it, and what leaves it alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from infra.constructs.assets import ROOT, copy_files, image_tag


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of this checkout's tracked files."""
    folder = tmp_path_factory.mktemp("checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    copy_files([path for name in listing.split("\0") if name and (ROOT / (path := Path(name))).is_file()], folder)
    return folder


def changed_tag(checkout: Path, name: str) -> str:
    """The tag with one line more in ``name``; the file is put back afterwards."""
    file = checkout / name
    before = file.read_bytes()
    file.write_bytes(before + b"# one line more\n")
    try:
        return image_tag("cuda", None, checkout)
    finally:
        file.write_bytes(before)


def test_the_tag_is_that_of_the_checkout(checkout: Path) -> None:
    assert image_tag("cuda", None, checkout) == image_tag("cuda", None)
    assert len({image_tag("cuda", None), image_tag("cpu", None), image_tag("cuda", "other:1")}) == 3


@pytest.mark.parametrize(
    "name",
    [
        "infra/run/recipes/llama3_8b.py",
        "infra/run/compute.py",
        "infra/sagemaker/instance_types.py",
        "README.md",
        "docs/runbook.md",
        "tests/contracts/test_config.py",
        "cdk.json",
    ],
)
def test_what_is_not_in_the_images_leaves_the_tag_alone(checkout: Path, name: str) -> None:
    assert changed_tag(checkout, name) == image_tag("cuda", None, checkout)


@pytest.mark.parametrize(
    "name", ["training/loader.py", "data_prep/encode.py", "contracts/failure.py", "container/Dockerfile", ".dockerignore"]
)
def test_a_changed_line_of_a_jobs_code_changes_the_tag(checkout: Path, name: str) -> None:
    assert changed_tag(checkout, name) != image_tag("cuda", None, checkout)
