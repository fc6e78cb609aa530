"""What is kept about an image: a bill of materials that CycloneDX's own library reads, and where its parts came from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from container.records import LOCAL_BUILDER, bill_of_materials, provenance
from contracts import base_images

ROOT = Path(__file__).resolve().parents[2]
DIGEST = "sha256:" + "d" * 64
PACKAGES = [
    {"name": "torch", "version": "2.14.1+cpu"},
    {"name": "PyYAML", "version": "6.0.3"},
    {"name": "typing_extensions", "version": "4"},
]


def made(folder: Path, **changes: Any) -> Any:
    given: dict[str, Any] = {
        "target": "training",
        "repository": "123456789012.dkr.ecr.us-west-2.amazonaws.com/pretrain",
        "digest": DIGEST,
        "tag": "abc123",
        "folder": folder,
        "training_base_image": "",
        "metadata": {},
        "builder": {},
        "times": (0.0, 60.0),
    }
    return provenance(**(given | changes))


def dependencies(statement: Any) -> dict[str, Any]:
    return {item["uri"]: item.get("digest") for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}


def test_the_bill_is_valid_cyclonedx_and_names_each_package_by_its_url() -> None:
    bill = bill_of_materials("training", DIGEST, PACKAGES)
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    try:
        assert validator.validate_str(json.dumps(bill)) is None
    except Exception as error:  # the validator's own optional packages are not locked
        assert "Missing" in type(error).__name__, error
    bom = Bom.from_json(bill)  # type: ignore[attr-defined]
    assert sorted(str(component.purl) for component in bom.components) == [
        "pkg:pypi/pyyaml@6.0.3",
        "pkg:pypi/torch@2.14.1%2Bcpu",
        "pkg:pypi/typing-extensions@4",
    ]
    assert bom.metadata.component is not None and bom.metadata.component.version == DIGEST


def test_provenance_names_image_build_lock_and_bases() -> None:
    statement = made(ROOT, builder={"CODEBUILD_BUILD_ARN": "arn:build", "CODEBUILD_BUILD_ID": "build:1"})
    assert statement["subject"][0]["digest"] == {"sha256": "d" * 64}
    found = dependencies(statement)
    lock = ROOT / "container/requirements-training.txt"
    assert found["file:container/requirements-training.txt"] == {"sha256": hashlib.sha256(lock.read_bytes()).hexdigest()}
    declared = base_images.declared_bases(ROOT)
    assert [uri for uri in found if uri.startswith("docker://")] == [f"docker://{declared['TRAINING_BASE_IMAGE']}"]  # known by its tag
    named, _, digest = declared["DATA_PREP_BASE_IMAGE"].partition("@sha256:")
    assert dependencies(made(ROOT, target="data_prep"))[f"docker://{named}"] == {"sha256": digest}
    given = "example/base:1@sha256:" + "b" * 64
    assert dependencies(made(ROOT, target="evaluate", training_base_image=given))["docker://example/base:1"] == {"sha256": "b" * 64}
    details = statement["predicate"]["runDetails"]
    assert (details["builder"]["id"], details["metadata"]["invocationId"]) == ("arn:build", "build:1")
    assert details["metadata"]["finishedOn"] == "1970-01-01T00:01:00Z"
    assert made(ROOT)["predicate"]["runDetails"]["builder"]["id"] == LOCAL_BUILDER


def test_what_buildkit_resolved_is_named_with_its_digest() -> None:
    resolved = {"uri": "pkg:docker/base@devel?platform=linux%2Famd64", "digest": {"sha256": "a" * 64}}
    for recorded in ({"materials": [resolved]}, {"buildDefinition": {"resolvedDependencies": [resolved]}}):
        found = dependencies(made(ROOT, metadata={"buildx.build.provenance": recorded}))
        assert found[resolved["uri"]] == {"sha256": "a" * 64}
