"""`pretrain images`: the Build image stage on this machine, for accounts that may run no CodeBuild builds, and for CI.

It runs `python -m container.build`, as the deployed build project does, on the same build context and with the same variables, so
the images get the tag that the next run looks for.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from infra.cli.exits import CommandError, Exit
from infra.cli.target import Target
from infra.constructs.assets import CONTEXT_FILES, ROOT, copy_files, image_tag, select

PROJECT_VARIABLES = ("REPOSITORY_URI", "CACHE_REPOSITORY_URI", "IMAGE_TAG", "DEVICE", "TRAINING_BASE_IMAGE")
"""What the build project hands to container/build.py."""


def build_variables(target: Target) -> dict[str, str]:
    """The deployed build project's variables."""
    project = target.client("codebuild").batch_get_projects(names=[target.output("BuildProjectName")])["projects"][0]
    given = {item["name"]: item["value"] for item in project["environment"]["environmentVariables"]}
    return {name: given[name] for name in PROJECT_VARIABLES if name in given}


def base_image(variables: Mapping[str, str], root: Path = ROOT) -> str:
    """The training image's base: the deployment's setting, else the Dockerfile's."""
    declared = re.search(r"^ARG TRAINING_BASE_IMAGE=(\S+)", (root / "container/Dockerfile").read_text(), re.MULTILINE)
    return variables.get("TRAINING_BASE_IMAGE") or (declared[1] if declared else "")


def build_images(variables: Mapping[str, str], environment: Mapping[str, str], root: Path = ROOT) -> None:
    """Build, check and push both images from the checkout ``root``; what the repository has already is skipped.

    Raises:
        CommandError: the checkout's build context is not the deployed one, or the build failed (its last line says why).
    """
    here = image_tag(variables.get("DEVICE", "cuda"), variables.get("TRAINING_BASE_IMAGE"), root)
    if here != variables["IMAGE_TAG"]:
        raise CommandError(
            f"this checkout's images have the tag {here}, and the deployment looks for {variables['IMAGE_TAG']}; check out the commit that "
            "was deployed, or run make deploy first",
            Exit.REFUSED,
        )
    with tempfile.TemporaryDirectory(prefix="images-") as folder:
        copy_files(select(CONTEXT_FILES, root), Path(folder), root)
        command = [sys.executable, "-m", "container.build"]
        if subprocess.run(command, cwd=folder, env={**environment, **variables, "PYTHONPATH": folder}, check=False).returncode:
            raise CommandError("the images were not built; the line above says why", Exit.FAILED)
