"""What is kept about an image, in S3 under images/<tag>/: the bill of its Python packages (CycloneDX), and how it was made (SLSA).

Both formats can travel in a registry, as attestations in an index around the image or as artefacts that refer to it. SageMaker
pulls plain Docker v2 manifests and has refused others, so the repository holds the images alone. Standard library only, as build.py.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from contracts import base_images

Json = dict[str, Any]
LOCAL_BUILDER = "urn:pretrain:images-command"
"""Builder of images that no CodeBuild made: `pretrain images`."""


def bill_of_materials(target: str, digest: str, packages: Iterable[Mapping[str, str]]) -> Json:
    """CycloneDX 1.6 of what pip lists in the image: ``name`` and ``version`` each. The base's own packages are ECR's scan's to list."""
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": target, "name": f"pretrain-{target}", "version": digest}},
        "components": [
            {
                "type": "library",
                "bom-ref": f"pkg:pypi/{package['name'].lower()}@{package['version']}",
                "name": package["name"],
                "version": package["version"],
                "purl": f"pkg:pypi/{package['name'].lower().replace('_', '-')}@{package['version'].replace('+', '%2B')}",
            }
            for package in sorted(packages, key=lambda package: package["name"].lower())
        ],
    }


def provenance(
    target: str,
    *,
    repository: str,
    digest: str,
    tag: str,
    folder: Path,
    training_base_image: str,
    metadata: Json,
    builder: Mapping[str, str],
    times: tuple[float, float],
) -> Json:
    """in-toto statement with SLSA's provenance v1.

    Args:
        target: of the Dockerfile.
        repository: URI without a tag.
        digest: ``sha256:...`` of the image's manifest.
        tag: hash of the build context.
        folder: the build context.
        training_base_image: base of the training image in place of the Dockerfile's; empty takes that.
        metadata: what buildx wrote about the build; names the base's digest where BuildKit recorded it.
        builder: the environment; CodeBuild's variables name the build.
        times: when the build began and ended, epoch seconds.
    """
    files = [folder / "container/Dockerfile", folder / f"container/requirements-{target}.txt"]
    locked = [{"uri": f"file:{path.relative_to(folder)}", "digest": {"sha256": _sha256(path)}} for path in files if path.exists()]
    base = base_images.pinned(base_images.base_of(target, folder, training_base_image), folder)
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": repository, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:pretrain:container-build:1",
                "externalParameters": {"target": target, "context": tag},
                "resolvedDependencies": [*locked, _image(base), *_recorded(metadata)],
            },
            "runDetails": {
                "builder": {"id": builder.get("CODEBUILD_BUILD_ARN") or LOCAL_BUILDER},
                "metadata": {
                    "invocationId": builder.get("CODEBUILD_BUILD_ID") or tag,
                    "startedOn": _iso(times[0]),
                    "finishedOn": _iso(times[1]),
                },
            },
        },
    }


def _recorded(metadata: Json) -> list[Json]:
    """The base as BuildKit resolved it (buildx.build.provenance of the metadata file, in either version of SLSA)."""
    found = metadata.get("buildx.build.provenance") or {}
    materials = found.get("materials") or (found.get("buildDefinition") or {}).get("resolvedDependencies") or []
    return [{"uri": item["uri"], "digest": item["digest"]} for item in materials if item.get("uri") and item.get("digest")]


def _image(reference: str) -> Json:
    name, _, digest = reference.partition("@")
    return {"uri": f"docker://{name}"} | ({"digest": {"sha256": digest.removeprefix("sha256:")}} if digest else {})


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
