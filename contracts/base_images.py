"""Digests of the images that the build starts from: container/base-images.lock, written by `make lock-images`, read by the build.

One line each, ``<reference> <digest>``. Without the file, or for a reference that it lacks, the build takes what the registry has under
the tag. The file is part of the build context, so another digest gives the images another tag.
"""

from __future__ import annotations

import re
from pathlib import Path

LOCK = "container/base-images.lock"
# BuildKit in a container of its own, because docker's built-in builder can neither export a cache to a registry nor push
# without loading. The mirror on public ECR has no pull limit; the builder does not end up in an image.
BUILDKIT_IMAGE = "public.ecr.aws/vend/moby/buildkit:buildx-stable-1"
_STAGE = re.compile(r"^FROM (\S+) AS (\w+)$", re.MULTILINE)
_DECLARED = re.compile(r"^ARG (\w+_BASE_IMAGE)=(\S+)$", re.MULTILINE)


def declared_bases(folder: Path) -> dict[str, str]:
    """Argument -> reference of every base image that the Dockerfile declares."""
    return dict(_DECLARED.findall((folder / "container/Dockerfile").read_text()))


def base_of(target: str, folder: Path, training_base_image: str) -> str:
    """Reference of the image that a target of the Dockerfile starts from, through the targets between them."""
    parents = {name: parent for parent, name in _STAGE.findall((folder / "container/Dockerfile").read_text())}
    while target in parents:
        target = parents[target]
    return bases(folder, training_base_image)[target.strip("${}")]


def unpinned(folder: Path, training_base_image: str) -> list[str]:
    """References of a build that name no digest themselves, whether the lock holds one or not."""
    return [reference for reference in [*bases(folder, training_base_image).values(), BUILDKIT_IMAGE] if "@" not in reference]


def build_arguments(folder: Path, training_base_image: str) -> dict[str, str]:
    """Arguments of a build for the bases that differ from what the Dockerfile declares: another base, or a digest from the lock."""
    chosen = {name: pinned(reference, folder) for name, reference in bases(folder, training_base_image).items()}
    return {name: reference for name, reference in chosen.items() if reference != declared_bases(folder).get(name)}


def bases(folder: Path, training_base_image: str) -> dict[str, str]:
    """Bases by argument; one that is given stands for the Dockerfile's own."""
    return declared_bases(folder) | ({"TRAINING_BASE_IMAGE": training_base_image} if training_base_image else {})


def pinned(reference: str, folder: Path) -> str:
    """``reference`` with the digest that the lock holds for it; as it is when the lock holds none."""
    path = folder / LOCK
    lines = path.read_text().splitlines() if path.exists() else []
    digests = dict(line.split() for line in lines if line and not line.startswith("#"))
    return f"{reference}@{digests[reference]}" if reference in digests else reference


def write_lock(digests: dict[str, str], folder: Path) -> None:
    """Replace the lock by these references and digests."""
    header = "# Digests of base images and BuildKit as their registries had them. Made by `make lock-images`; do not edit.\n"
    (folder / LOCK).write_text(header + "".join(f"{reference} {digest}\n" for reference, digest in sorted(digests.items())))
