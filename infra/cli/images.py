"""`pretrain images`: the Build image stage on this machine, for accounts that may run no CodeBuild builds, and for CI.

It runs `python -m container.build`, as the deployed build project does, on the same build context and with the same variables, so
the images get the tag that the next run looks for.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from contracts.base_images import declared_bases, pinned, unpinned, write_lock
from infra.cli.exits import CommandError, Exit
from infra.cli.registry import Unknown, digest_of
from infra.cli.target import Target
from infra.constructs.assets import CONTEXT_FILES, ROOT, copy_files, image_tag, select

PROJECT_VARIABLES = ("REPOSITORY_URI", "CACHE_REPOSITORY_URI", "IMAGE_TAG", "DEVICE", "TRAINING_BASE_IMAGE", "RECORDS_URI")
"""What the build project hands to container/build.py."""


def build_variables(target: Target) -> dict[str, str]:
    """The deployed build project's variables."""
    project = target.client("codebuild").batch_get_projects(names=[target.output("BuildProjectName")])["projects"][0]
    given = {item["name"]: item["value"] for item in project["environment"]["environmentVariables"]}
    return {name: given[name] for name in PROJECT_VARIABLES if name in given}


def base_image(variables: Mapping[str, str], root: Path = ROOT) -> str:
    """The training image's base: the deployment's setting, else the Dockerfile's; with its digest where the lock holds it."""
    return pinned(variables.get("TRAINING_BASE_IMAGE") or declared_bases(root)["TRAINING_BASE_IMAGE"], root)


def pin_images(training_base_image: str, root: Path = ROOT) -> dict[str, str]:
    """Ask the registries for the digests of base images and BuildKit, and write container/base-images.lock; reference -> digest.

    Raises:
        CommandError: a registry did not say, or has no such image; the lock is as it was.
    """
    digests = {}
    for reference in unpinned(root, training_base_image):
        try:
            found = digest_of(reference)
        except Unknown as unknown:
            raise CommandError(f"the digest of {reference} is not known: {unknown}; nothing was written", Exit.FAILED) from None
        if found is None:
            fix = "set training_base_image to an image that exists (a dated tag also exists without its date)"
            raise CommandError(f"the registry has no {reference}; nothing was written; {fix}", Exit.NOT_FOUND)
        digests[reference] = found
    write_lock(digests, root)
    return digests


def build_images(variables: Mapping[str, str], environment: Mapping[str, str], root: Path = ROOT, *, quiet: bool = False) -> None:
    """Build, check and push both images from the checkout ``root``; what the repository has already is skipped.

    ``quiet`` sends what the build prints to stderr.

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
        given = {**environment, **variables, "PYTHONPATH": folder}
        if subprocess.run(command, cwd=folder, env=given, stdout=sys.stderr if quiet else None, check=False).returncode:
            raise CommandError("the images were not built; the line above says why", Exit.FAILED)
