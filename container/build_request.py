"""What a build is asked for: the environment variables of the build project, read once. Standard library only, like build.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from container.failure_classes import ImageBuildFailed

TARGETS = ("data_prep", "corpus", "training", "evaluate")
"""Targets of the Dockerfile, in the order in which they are built."""
EVERY_RUN = ("data_prep", "training")
"""What is built where TARGETS is not set."""
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """Parameters of a build, from CodeBuild's environment variables."""

    repository: str
    """URI of the repository of finished images (immutable tags)."""
    cache_repository: str
    """URI of the repository of BuildKit's cache (mutable tags); empty builds without."""
    tag: str
    """Hash of the build context; the images are tagged ``<target>-<tag>``."""
    device: str
    """``cuda`` or ``cpu``: what the training image's smoke test demands."""
    training_base_image: str
    """Base of the training image; empty takes the Dockerfile's own."""
    pip_configuration: str = field(default="", repr=False)
    """Text of a pip.conf that names a package index of one's own; may hold its password. Empty takes pip's default."""
    targets: Sequence[str] = EVERY_RUN
    """Images that are needed, by target of the Dockerfile."""
    proxy: Mapping[str, str] = field(default_factory=dict)
    """HTTP_PROXY, HTTPS_PROXY and NO_PROXY, where they are set: BuildKit and the Dockerfile's commands need them handed on."""
    records: str = ""
    """S3 URI of the folder for what is kept about the images (container/records.py); empty keeps nothing."""
    pause_seconds: float = 30.0
    """Before a step whose registry or index did not answer is repeated; doubled each time."""

    @staticmethod
    def read(environment: Mapping[str, str]) -> BuildRequest:
        """Read from environment variables; the error names every missing one."""
        missing = [name for name in ("REPOSITORY_URI", "IMAGE_TAG") if not environment.get(name)]
        if missing:
            raise ImageBuildFailed(f"the build project sets no {' and no '.join(missing)}; deploy the pipeline stack again")
        device = environment.get("DEVICE", "cuda")
        if device not in ("cuda", "cpu"):
            raise ImageBuildFailed(f'DEVICE="{device}" is neither cuda nor cpu')
        wanted = environment.get("TARGETS", "").split() or EVERY_RUN
        if unknown := [target for target in wanted if target not in TARGETS]:
            raise ImageBuildFailed(f'TARGETS names "{unknown[0]}", and the Dockerfile has {", ".join(TARGETS)}')
        return BuildRequest(
            repository=environment["REPOSITORY_URI"],
            cache_repository=environment.get("CACHE_REPOSITORY_URI", ""),
            tag=environment["IMAGE_TAG"],
            device=device,
            training_base_image=environment.get("TRAINING_BASE_IMAGE", ""),
            pip_configuration=environment.get("PIP_CONFIG", ""),
            targets=[target for target in TARGETS if target in wanted],
            proxy={name: environment[name] for name in PROXY_VARIABLES if environment.get(name)},
            records=environment.get("RECORDS_URI", ""),
            pause_seconds=float(environment.get("PAUSE_SECONDS", "30")),
        )
