"""LOCAL_IMAGE=buildah: the Build stage executes the Dockerfile, and jobs run in the resulting file system.

`docker buildx build` becomes a buildah build, and its image a snapshot of our code (as always) with the layers of the
built file system beside it. Nothing is copied: running the image mounts the layers over each other.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from local_aws.images.buildah import BASE_IMAGE, DEFAULT_FOLDER, Buildah
from local_aws.images.image_store import ImageConfig, LocalImage
from local_aws.jobs import namespaces, root_folder


def wanted() -> bool:
    """Whether LOCAL_IMAGE is buildah. An unknown value is refused."""
    given = os.environ.get("LOCAL_IMAGE", "")
    if given not in ("", "snapshot", "buildah"):
        raise ValueError(f'LOCAL_IMAGE="{given}" is neither "snapshot" nor "buildah"')
    return given == "buildah"


def build(context: Path, target: str, arguments: Mapping[str, str]) -> ImageConfig:
    """Execute the Dockerfile; the configuration of the image that came out. Raises BuildahError."""
    buildah = Buildah(DEFAULT_FOLDER, on_line=lambda line: print(line, flush=True))
    buildah.require_tools()
    buildah.require_base()
    # only BuildKit uses the date for reproducible timestamps; buildah would warn about an unused argument
    given = {name: value for name, value in arguments.items() if name != "SOURCE_DATE_EPOCH"}
    tag = f"localhost/pretrain-{target}:{arguments.get('CONTEXT_HASH', 'latest')}"
    built = buildah.build(context, target=target, tag=tag, arguments=given)
    steps = f"{len(built.executed)} steps executed, {len(built.cached)} cached"
    print(f"buildah: {target}: {steps}; {BASE_IMAGE} stands for the base image")
    described = buildah.configuration(tag)
    return ImageConfig(
        target=target,
        environment=dict(pair.split("=", 1) for pair in described["Env"]),
        labels=described["Labels"],
        layers=buildah.layer_folders(tag),
        image_id=built.image_id,
    )


def run(image: LocalImage, command: Sequence[str], environment: Mapping[str, str], *, network: bool) -> int:
    """``docker run``: the command in the image's own file system."""
    with tempfile.TemporaryDirectory() as stage:

        def enter() -> None:
            namespaces.unshare(namespaces.CLONE_NEWNS | (0 if network else namespaces.CLONE_NEWNET))
            namespaces.make_mounts_private()
            if not network:
                namespaces.raise_loopback()
            root_folder.enter(image.config.layers, Path(stage), {})
            os.chdir("/opt/program")

        variables = {"HOME": "/root", **image.config.environment, **environment}
        # the program is looked up on the image's own PATH, by the child, after it has entered
        return subprocess.run(["/usr/bin/env", *command], env=variables, preexec_fn=enter, check=False).returncode
