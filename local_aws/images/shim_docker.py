"""``docker`` for the embedded CodeBuild: the buildspec's own commands, on the local image store.

`buildx build` stores what the Dockerfile's COPY lines put under /opt/program and does not execute the Dockerfile, which
its output says (LOCAL_IMAGE=buildah does execute it: whole_image.py); `run` executes in that snapshot with the project's
Python; a pushed image goes into the embedded ECR.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from local_aws.images import whole_image
from local_aws.images.buildah import BuildahError
from local_aws.images.dockerfile import DockerfileError, Stage, read_dockerfile
from local_aws.images.image_store import MANIFEST_TYPE, PROGRAM_FOLDER, ImageConfig, ImageNotFound, ImageStore, LocalImage

SERVER = "local image store"
WITHOUT_EFFECT = ("builder", "platform", "progress", "provenance", "sbom", "cache-from", "cache-to", "secret")
"""Options of `buildx build` that a snapshot has no use for."""


class ShimError(Exception):
    """A command that docker would refuse, with docker's own text where a caller searches for it."""


def build(arguments: Sequence[str]) -> None:
    """``docker buildx build``: snapshot the context; with an output of type image, push."""
    parser = argparse.ArgumentParser("docker buildx build", allow_abbrev=False)
    for name in ("metadata-file", "output", *WITHOUT_EFFECT):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--file", "-f", default="Dockerfile")
    parser.add_argument("--target", required=True)
    parser.add_argument("--tag", "-t", action="append", default=[])
    parser.add_argument("--build-arg", action="append", default=[])
    parser.add_argument("--load", action="store_true")
    parser.add_argument("context", type=Path)
    given = parser.parse_args(arguments)
    values = dict(pair.split("=", 1) for pair in given.build_arg)
    image = _store(given.context, given.context / given.file, given.target, values)
    for name in given.tag:
        ImageStore().tag(image.digest, name)
    output = dict(pair.split("=", 1) for pair in given.output.split(",") if "=" in pair)
    if output.get("push") == "true":
        _push(image, output["name"])
    if given.metadata_file:
        metadata = {"containerimage.digest": image.digest, "containerimage.config.digest": image.config_digest}
        Path(given.metadata_file).write_text(json.dumps(metadata))


def _store(context: Path, dockerfile: Path, target: str, values: dict[str, str]) -> LocalImage:
    """The image of one target: a snapshot of our code, and with LOCAL_IMAGE=buildah the built file system too."""
    stages = read_dockerfile(dockerfile, values).with_bases(target)
    files = _program_files(context, stages)
    if whole_image.wanted():
        return ImageStore().add(files, whole_image.build(context, target, values))
    config = ImageConfig(target=target, labels={"org.opencontainers.image.version": values.get("CONTEXT_HASH", "unknown")})
    image = ImageStore().add(files, config)
    print(f"{SERVER}: {target}: snapshot of {len(files)} files, {image.digest}; RUN lines of {dockerfile.name} are not executed,")
    print(f"{SERVER}: and base image {stages[0].base} is not pulled: this machine's Python {sys.version.split()[0]} stands for them")
    return image


def _program_files(context: Path, stages: Sequence[Stage]) -> dict[str, Path]:
    """What the stages' COPY lines put under /opt/program. Locks are left out: this machine's packages are used instead."""
    files: dict[str, Path] = {}
    for sources, destination in (copy for stage in stages for copy in stage.copies()):
        if not destination.startswith(PROGRAM_FOLDER + "/"):
            continue
        for source in sources:
            folder = context / source
            if not folder.exists():
                raise ShimError(f'ERROR: failed to calculate checksum of ref: "/{source}": not found in the build context')
            for path in sorted(folder.rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    files[f"{destination.removeprefix(PROGRAM_FOLDER + '/')}/{path.relative_to(folder)}"] = path
    return files


def _push(image: LocalImage, name: str) -> None:
    import boto3  # imported here: it takes most of a second, and the other commands are called often
    from botocore.exceptions import BotoCoreError, ClientError

    repository, _, tag = name.rpartition(":")
    try:
        boto3.client("ecr").put_image(
            repositoryName=repository.partition("/")[2], imageTag=tag, imageManifest=image.manifest, imageManifestMediaType=MANIFEST_TYPE
        )
    except (BotoCoreError, ClientError) as error:
        raise ShimError(f"ERROR: failed to push {name}: {error}") from error
    ImageStore().tag(image.digest, name)


def run(arguments: Sequence[str]) -> int:
    """``docker run``: the command in the snapshot, with the project's Python, a bare environment, and no network if asked."""
    parser = argparse.ArgumentParser("docker run", allow_abbrev=False)
    parser.add_argument("--rm", action="store_true")
    parser.add_argument("--network", default="")
    parser.add_argument("--env", "-e", action="append", default=[])
    parser.add_argument("image")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    image = ImageStore().image(given.image)
    variables = dict(pair.split("=", 1) for pair in given.env)
    if image.config.layers:
        return whole_image.run(image, given.command, variables, network=given.network != "none")
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONPATH": str(image.path),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **variables,
    }
    command = [*(_no_network() if given.network == "none" else []), *given.command]
    return subprocess.run(command, cwd=image.path, env=environment, check=False).returncode


def _no_network() -> list[str]:
    """Command prefix that removes the network, where this machine allows it (root)."""
    prefix = ["unshare", "--net"]
    if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
        return prefix
    return []


def history(arguments: Sequence[str]) -> None:
    """``docker history``: bytes per top folder of the snapshot."""
    image = ImageStore().image(arguments[-1])
    for folder in sorted(path for path in image.path.iterdir() if path.is_dir()):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{size / 1000:.1f}kB\tCOPY {folder.name} ./{folder.name}")


def main(arguments: Sequence[str]) -> int:
    """Dispatch one command; docker commands that are not supported are refused by name."""
    match list(arguments):
        case ["buildx", "build", *rest]:
            build(rest)
        case ["run", *rest]:
            return run(rest)
        case ["history", *rest]:
            history(rest)
        case ["image", "inspect", "--format", "{{.Id}}", name]:
            print(ImageStore().image(name).config_digest)
        case ["login", *_]:
            sys.stdin.read()
            print("Login Succeeded")
        case ["version", *_]:
            print(f"docker: {SERVER}, no engine")
        case ["buildx", "version" | "create", *_] | ["buildx", "inspect", *_]:
            print(SERVER)
        case _:
            raise ShimError(f"docker {' '.join(arguments)}: not known to the {SERVER}")
    return 0


def entry() -> int:
    """Run the process's own command line; errors in one line, as docker prints them."""
    try:
        return main(sys.argv[1:])
    except (ShimError, ImageNotFound, DockerfileError, BuildahError, OSError, ValueError) as error:
        print(str(error).splitlines()[0] if str(error) else repr(error), file=sys.stderr)
        return 125 if "run" in sys.argv[1:2] else 1


if __name__ == "__main__":
    sys.exit(entry())
