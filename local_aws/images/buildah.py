"""Builds and runs images with Debian's buildah: no Docker engine, no registry, the real Dockerfile.

buildah's chroot isolation executes RUN and COPY for real, as root, in a plain process. The base images come from
registries that this machine may not reach, so one Debian base, bootstrapped from the machine's own package mirror, replaces
both; everything after FROM is executed as it is. Needs Debian or Ubuntu, root, buildah and debootstrap.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_aws.images.mirrors import Mirrors, find_mirrors
from local_aws.jobs import namespaces

TOOLS = ("buildah", "debootstrap")
BASE_IMAGE = "localhost/pretrain-base"
DEBIAN = "bookworm"  # Python 3.11: the oldest that the locks are made for
BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates")
BASE_ARGUMENTS = ("DATA_PREP_BASE_IMAGE", "TRAINING_BASE_IMAGE")
DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / ".cache/buildah"
"""Image storage of this checkout, shared by `make image-check` and LOCAL_IMAGE=buildah."""


class BuildahError(Exception):
    """A build that cannot be done here, or failed; one sentence."""


OnLine = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One line of an image's history."""

    created_by: str
    size: int
    """Bytes that it adds; 0 for metadata."""


@dataclass(frozen=True)
class Built:
    """A finished build."""

    image_id: str
    """``sha256:...`` of the image's configuration."""
    executed: tuple[str, ...]
    """Steps that were executed, not taken from the cache."""
    cached: tuple[str, ...]
    """Steps whose layer was there already."""


class Buildah:
    """One image storage below ``folder``; nothing is written elsewhere."""

    def __init__(self, folder: Path, on_line: OnLine = print) -> None:
        self.folder, self.on_line = folder.absolute(), on_line

    def require_tools(self, *, install: bool = False) -> None:
        """buildah and debootstrap must be there; ``install`` fetches them with apt-get.

        Raises:
            BuildahError: not root, or no such package here.
        """
        if os.geteuid() != 0:
            raise BuildahError("building an image without Docker needs root (mounts and chroot); run it as root, or use `docker build`")
        missing = [tool for tool in TOOLS if shutil.which(tool) is None]
        if not missing:
            return
        if not install or shutil.which("apt-get") is None:
            raise BuildahError(
                f"{' and '.join(missing)} not found; on Debian or Ubuntu: apt-get install --no-install-recommends buildah debootstrap"
            )
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        self._must("apt-get update", ["apt-get", "update", "-q"], environment)
        self._must("apt-get install", ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing], environment)

    def require_base(self) -> None:
        """The Debian base image; bootstrapped once, about a minute and 300 MB."""
        if self._buildah("inspect", "--type", "image", BASE_IMAGE, quiet=True)[0] == 0:
            return
        root = self.folder / "bootstrap"
        shutil.rmtree(root, ignore_errors=True)
        root.parent.mkdir(parents=True, exist_ok=True)
        mirror = find_mirrors().debian
        if mirror is None:
            raise BuildahError("apt's sources name no Debian archive; set DEBIAN_MIRROR to the URL of one, for debootstrap")
        packages = ",".join(BASE_PACKAGES)
        self._must(
            "debootstrap", ["debootstrap", "--variant=minbase", f"--include={packages}", DEBIAN, str(root), mirror], dict(os.environ)
        )
        container = self._output("from", "scratch")
        try:
            self._output("add", "--quiet", container, str(root), "/")
            self._output("commit", "--quiet", container, BASE_IMAGE)
        finally:
            self._output("rm", container)
            shutil.rmtree(root)

    def build(self, context: Path, *, target: str, tag: str, arguments: Mapping[str, str]) -> Built:
        """Build one target of ``context``/container/Dockerfile; unchanged layers come from the storage."""
        given = {**arguments, **dict.fromkeys(BASE_ARGUMENTS, BASE_IMAGE)}
        mirrors = find_mirrors()
        mirrors.write_pip_configuration(self.folder / "pip.conf")
        command = ["bud", "--layers", "--format", "docker", "--network", "host", "--target", target, "--tag", tag]
        command += ["--file", str(context / "container/Dockerfile"), "--ignorefile", str(context / ".dockerignore")]
        for name, value in given.items():
            command += ["--build-arg", f"{name}={value}"]
        command += ["--secret", f"id=pip_conf,src={self.folder / 'pip.conf'}"]
        for source, place in self._volumes(mirrors).items():
            command += ["--volume", f"{source}:{place}:ro"]
        code, lines = self._buildah(*command, str(context))
        if code:
            last = next((line for line in reversed(lines) if line.strip()), "no output")
            raise BuildahError(f'building {target} ended with exit status {code}: "{last}"')
        executed, cached = _steps(lines)
        return Built(self.image_id(tag), executed, cached)

    def image_id(self, image: str) -> str:
        """``sha256:...`` of an image's configuration."""
        return "sha256:" + self._output("inspect", "--type", "image", "--format", "{{.FromImageID}}", image)

    def configuration(self, image: str) -> dict[str, Any]:
        """The image's ``config``: Env, WorkingDir, Labels."""
        found: dict[str, Any] = json.loads(self._output("inspect", "--type", "image", image))["Docker"]["config"]
        return found

    def layers(self, image: str) -> list[Layer]:
        """The image's layers, base first, with the bytes that each adds."""
        described = json.loads(self._output("inspect", "--type", "image", image))
        history = [entry for entry in described["OCIv1"]["history"] if not entry.get("empty_layer")]
        sizes = self._layer_sizes(described["OCIv1"]["rootfs"]["diff_ids"])
        return [Layer(created_by=_short(entry.get("created_by", "")), size=size) for entry, size in zip(history, sizes, strict=False)]

    def prune(self) -> None:
        """Delete images that no name leads to and that no named image was built on; the cache of the named ones stays."""
        self._output("rmi", "--prune")

    def run(
        self, image: str, command: Sequence[str], *, volumes: Mapping[Path, str] | None = None, environment: Mapping[str, str] | None = None
    ) -> tuple[int, list[str]]:
        """Run ``command`` in a fresh container of ``image``, without a network: exit status and output."""
        container = self._output("from", "--pull-never", image)
        try:
            arguments = ["run", "--isolation", "chroot", "--network", "host"]
            for source, place in (volumes or {}).items():
                arguments += ["--volume", f"{source}:{place}"]
            for name, value in (environment or {}).items():
                arguments += ["--env", f"{name}={value}"]
            return self._buildah(*arguments, container, "--", *command, without_network=True)
        finally:
            self._output("rm", container)

    def layer_folders(self, image: str) -> tuple[str, ...]:
        """Folders of the image's layers in the storage, top first."""
        storage = self.folder / "storage"
        image_id = self.image_id(image).removeprefix("sha256:")
        images = json.loads((storage / "overlay-images/images.json").read_text())
        parents = {layer["id"]: layer.get("parent") for layer in json.loads((storage / "overlay-layers/layers.json").read_text())}
        layer = next(entry["layer"] for entry in images if entry["id"] == image_id)
        found = []
        while layer:
            found.append(str(storage / "overlay" / layer / "diff"))
            layer = parents[layer]
        return tuple(found)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _volumes(self, mirrors: Mirrors) -> dict[Path, str]:
        """Mounts of the build: the machine's resolver configuration, certificates and package index."""
        volumes = {path: str(path) for path in mirrors.folders}
        if Path("/etc/resolv.conf").exists():
            volumes[Path("/etc/resolv.conf")] = "/etc/resolv.conf"
        return volumes

    def _layer_sizes(self, diff_ids: Sequence[str]) -> list[int]:
        index = self.folder / "storage" / "overlay-layers" / "layers.json"
        known = {layer.get("diff-digest"): int(layer.get("diff-size", 0)) for layer in json.loads(index.read_text())}
        return [known.get(digest, 0) for digest in diff_ids]

    def _output(self, *arguments: str) -> str:
        code, lines = self._buildah(*arguments, quiet=True)
        if code:
            raise BuildahError(f'buildah {arguments[0]} ended with exit status {code}: "{lines[-1] if lines else "no output"}"')
        return "\n".join(lines)

    def _must(self, step: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        code, lines = self._stream(command, environment, quiet=False)
        if code:
            raise BuildahError(f'{step} ended with exit status {code}: "{lines[-1] if lines else "no output"}"')

    def _buildah(self, *arguments: str, quiet: bool = False, without_network: bool = False) -> tuple[int, list[str]]:
        environment = {**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "overlay"}
        places = ["--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run")]
        return self._stream(["buildah", *places, *arguments], environment, quiet=quiet, without_network=without_network)

    def _stream(
        self, command: Sequence[str], environment: Mapping[str, str], *, quiet: bool, without_network: bool = False
    ) -> tuple[int, list[str]]:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", preexec_fn=_leave_network if without_network else None,
        )  # fmt: skip
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if not quiet:
                self.on_line(lines[-1])
        return process.wait(), lines


def _leave_network() -> None:
    """In the child: an own network with nothing but a loopback interface."""
    namespaces.unshare(namespaces.CLONE_NEWNET)
    namespaces.raise_loopback()


def _steps(lines: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Steps of a build's output, executed and cached."""
    executed: list[str] = []
    cached: list[str] = []
    step = ""
    for line in lines:
        if match := re.match(r"(?:\[\d+/\d+\] )?STEP \d+/\d+: (.*)", line):
            if step:
                executed.append(step)
            step = _short(match[1])
        elif line.startswith("--> Using cache") and step:
            cached.append(step)
            step = ""
    done = [*executed, step] if step else executed
    return tuple(each for each in done if not each.startswith("FROM ")), tuple(cached)


def _short(text: str) -> str:
    line = " ".join(text.removeprefix("/bin/sh -c ").removeprefix("#(nop) ").split())
    return line if len(line) <= 90 else line[:87] + "..."
