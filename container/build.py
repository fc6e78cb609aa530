"""Build, check and push the images that a run needs: what CodeBuild runs between the Admit and the Prepare data stage.

    python3 -m container.build        in the build context, with docker and aws on PATH

Order: skip what the repository already has; build the others; run each one's smoke test; push them. So a failed smoke test
leaves the repository as it was. Writes ``images.env`` with DATA_PREP_IMAGE, TRAINING_IMAGE and so on, by digest. Which images:
the variable TARGETS, which each run's StartBuild sets. Standard library only, since it runs on CodeBuild's own Python.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from container import records
from container.build_request import BuildRequest
from container.commands import Finished, Run, run_command
from container.failure_classes import ImageBuildFailed, RegistryUnreachable, SmokeTestFailed, failure_of
from contracts import base_images
from contracts.failure import JobFailure

OUTPUT_FILE = "images.env"
BUILDER = "pretrain"
# The versions that a training result depends on; a smoke test must report exactly what the lock says.
CHECKED_PACKAGES = {
    "data_prep": ("fastokens", "tokenizers"),
    "corpus": ("datatrove",),
    "training": ("torch", "torchtitan", "torchao"),
    "evaluate": ("torch", "transformers", "lm-eval"),
}
ENTRIES = {"data_prep": "data_prep.job", "corpus": "corpus.job", "training": "training.job", "evaluate": "training.evaluation.job"}
"""The module that SageMaker starts in each image; --check is its smoke test."""
CUDA_TARGETS = ("training", "evaluate")
"""Images over the training base, whose smoke test depends on the device."""
LIST_PACKAGES = ("python", "-m", "pip", "list", "--format", "json", "--disable-pip-version-check")
PUBLIC_ECR = "public.ecr.aws"
REPEATS = 3  # 30 + 60 + 120 s: a public registry counts requests by the second, and an index is rarely away for longer
_DATED = re.compile(r"(?P<undated>.+:.+)-\d{8}")
_ECR = re.compile(r"(?P<host>\d{12}\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.[a-z.-]+)/(?P<name>[^:@]+)")


@dataclass
class Build:
    """One build: its request, how commands are run, and the seconds of each phase."""

    request: BuildRequest
    run: Run = run_command
    folder: Path = field(default_factory=Path.cwd)
    seconds: dict[str, float] = field(default_factory=dict)
    pause: Callable[[float], None] = time.sleep
    began: float = field(default_factory=time.time)
    """Epoch seconds."""
    training_base: str = ""
    """Base of the training image in place of the request's: its undated tag."""

    def images(self) -> dict[str, str]:
        """Build, check and push what is missing; digest references of the images that are needed."""
        with self._phase("log in"):
            self._log_in()
        found = {target: self._existing(target) for target in self.request.targets}
        wanted = [target for target in found if not found[target]]
        for target in found:
            if found[target]:
                print(f"skipped: {self._name(target)} is in the repository already, {found[target]}", flush=True)
        if wanted:
            with self._phase("start the builder"):
                self._start_builder()
        for target in wanted:
            with self._phase(f"build {target}"):
                self._build(target)
            self._show_layers(target)
        for target in wanted:
            with self._phase(f"check {target}"):
                self._check(target)
        for target in wanted:
            with self._phase(f"push {target}"):
                found[target] = self._push(target)
                self._record(target, found[target])
        return {target: f"{self.request.repository}@{digest}" for target, digest in found.items()}

    # -- steps ---------------------------------------------------------------------------------------------------

    def _log_in(self) -> None:
        bases = [self.request.repository, self.request.cache_repository, self.request.training_base_image]
        for host, region in sorted({(match["host"], match["region"]) for uri in bases if (match := _ECR.match(uri))}):
            password = self._must(f"logging in to {host}", "aws", "ecr", "get-login-password", "--region", region).lines
            if not password:
                raise RegistryUnreachable(f"{host} gave no login token; check the build role's ecr:GetAuthorizationToken")
            self._must(f"logging in to {host}", "docker", "login", "--username", "AWS", "--password-stdin", host, text=password[-1])
        self._log_in_to_public_ecr()

    def _log_in_to_public_ecr(self) -> None:
        """Without a login public ECR counts the requests of everybody behind the same address; the build goes on without one."""
        # The public registry has one region.
        answered = self.run(["aws", "ecr-public", "get-login-password", "--region", "us-east-1"], "")
        if not answered.code and answered.lines:
            command = ["docker", "login", "--username", "AWS", "--password-stdin", PUBLIC_ECR]
            if not self.run(command, answered.lines[-1]).code:
                return
        print(f"warning: no login to {PUBLIC_ECR}; its images are pulled without one, with a lower limit of requests", flush=True)

    def _existing(self, target: str) -> str:
        """Digest of the image that the repository has under this target's tag, or "" when it has none."""
        match = _ECR.match(self.request.repository)
        if match is None:
            raise ImageBuildFailed(f'REPOSITORY_URI="{self.request.repository}" is no ECR repository URI')
        finished = self._must(
            f"looking for {self._name(target)}",
            "aws", "ecr", "describe-images", "--region", match["region"], "--repository-name", match["name"], "--image-ids",
            f"imageTag={target}-{self.request.tag}", "--query", "imageDetails[0].imageDigest", "--output", "text",
            unless=r"ImageNotFoundException",
        )  # fmt: skip
        digests = [line.strip() for line in finished.lines if line.strip().startswith("sha256:")]
        return digests[-1] if digests and not finished.code else ""

    def _start_builder(self) -> None:
        if self.run(["docker", "buildx", "inspect", "--bootstrap", BUILDER], "").code:
            # An option is a comma-separated list, so a value with commas is quoted as in CSV.
            options = [
                f"image={base_images.pinned(base_images.BUILDKIT_IMAGE, self.folder)}",
                *(f'"env.{name}={value}"' for name, value in self.request.proxy.items()),
            ]
            self._must(
                "starting BuildKit", "docker", "buildx", "create", "--name", BUILDER, "--driver", "docker-container",
                *(part for option in options for part in ("--driver-opt", option)), "--bootstrap",
            )  # fmt: skip

    def _build(self, target: str) -> None:
        """Build into the local docker, to be checked there, and refresh the cache."""
        cache = f"type=registry,ref={self.request.cache_repository}:{target}"
        options = ["--load", "--tag", self._local(target)]
        if self.request.cache_repository:
            # ECR accepts a cache only as an image manifest. A build whose cache cannot be written still succeeds.
            options += ["--cache-from", cache, "--cache-to", f"{cache},mode=max,image-manifest=true,oci-mediatypes=true,ignore-error=true"]
        finished = self._must(f"building {target}", *self._buildx(target), *options, ".", unless=self._missing_base(target))
        if finished.code:
            self.training_base = undated = self._undated_base()
            print(
                f"warning: the registry has no such dated base image; {undated} is taken, which may change from build to build", flush=True
            )
            finished = self._must(f"building {target}", *self._buildx(target), *options, ".")
        lines = finished.lines
        if any("failed to configure registry cache importer" in line for line in lines):
            print(f"cache: none at {self.request.cache_repository}:{target} (first build, or deleted); every layer was built", flush=True)

    def _check(self, target: str) -> None:
        """The smoke test: the job's own --check in the built image, and its versions against the lock."""
        device = ["--device", self.request.device] if target in CUDA_TARGETS else []
        command = ["python", "-m", ENTRIES[target], "--check", *device]
        # without a network: a job must start without one, and the check must not download what the image lacks
        finished = self.run(["docker", "run", "--rm", "--network", "none", self._local(target), *command], "")
        report = _last_json(finished.lines)
        if finished.code or report is None:
            said = next((line for line in reversed(finished.lines) if line.strip()), "no output")
            raise SmokeTestFailed(
                f'`{" ".join(command)}` in the {target} image ended with exit status {finished.code}: "{said}"; nothing was pushed'
            )
        packages = report.get("packages", {})
        for package in CHECKED_PACKAGES[target]:
            locked, present = locked_version(self.folder / f"container/requirements-{target}.txt", package), packages.get(package)
            if locked != present:
                raise SmokeTestFailed(f"the {target} image has {package} {present}, but its lock says {locked}; nothing was pushed")

    def _push(self, target: str) -> str:
        """Push from BuildKit's own cache: only layers that the repository lacks travel. Docker v2 manifest, no attestations:
        SageMaker has refused OCI manifests."""
        metadata = self.folder / f".build-{target}.json"
        output = f"type=image,name={self._name(target)},push=true,oci-mediatypes=false"
        command = [*self._buildx(target), "--output", output, "--metadata-file", str(metadata), "."]
        finished = self._must(f"pushing {target}", *command, unless=r"(?i:immutable)|ImageTagAlreadyExists")
        if finished.code:
            digest = self._existing(target)  # another build pushed the same tag first
            print(f"skipped: {self._name(target)} was pushed by another build meanwhile, {digest}", flush=True)
            return digest
        pushed = json.loads(metadata.read_text())
        tested = self._must("inspecting the image", "docker", "image", "inspect", "--format", "{{.Id}}", self._local(target)).lines[-1]
        if pushed.get("containerimage.config.digest") != tested:
            print(f"note: pushed image id {pushed.get('containerimage.config.digest')} differs from the tested {tested}", flush=True)
        digest = str(pushed["containerimage.digest"])
        print(f"pushed: {self._name(target)} {digest}", flush=True)
        return digest

    def _record(self, target: str, digest: str) -> None:
        """Keep bill of materials, provenance and lock. The image is pushed: what cannot be kept is said, and costs no run."""
        if not self.request.records:
            return
        listed = self.run(["docker", "run", "--rm", "--network", "none", self._local(target), *LIST_PACKAGES], "")
        metadata = self.folder / f".build-{target}.json"
        made = records.provenance(
            target,
            repository=self.request.repository,
            digest=digest,
            tag=self.request.tag,
            folder=self.folder,
            training_base_image=self.training_base or self.request.training_base_image,
            metadata=json.loads(metadata.read_text()) if metadata.exists() else {},
            builder=os.environ,
            times=(self.began, time.time()),
        )
        packages = _last_json(listed.lines, "[")
        bill = records.bill_of_materials(target, digest, packages) if packages else {}
        for name, content in ((f"provenance-{target}.json", made), (f"sbom-{target}.cdx.json", bill)):
            (self.folder / name).write_text(json.dumps(content, indent=1) + "\n")
            command = ["aws", "s3", "cp", name, f"{self.request.records}{name}", "--only-show-errors"]
            if not content or self.run(command, "").code:
                print(f"warning: {name} is not kept under {self.request.records}; the lines above say why", flush=True)

    def _show_layers(self, target: str) -> None:
        print(f"layers of {target}, newest first:", flush=True)
        self.run(["docker", "history", "--format", "{{.Size}}\t{{.CreatedBy}}", self._local(target)], "")

    # -- parts ---------------------------------------------------------------------------------------------------

    def _buildx(self, target: str) -> list[str]:
        # Docker knows the proxy's variables and keeps them out of the image.
        arguments = {
            **self.request.proxy,
            "CONTEXT_HASH": self.request.tag,
            "SOURCE_DATE_EPOCH": "0",
        }  # one date: the same input gives the same image id
        arguments |= base_images.build_arguments(self.folder, self.training_base or self.request.training_base_image)
        command = ["docker", "buildx", "build", "--builder", BUILDER, "--platform", "linux/amd64", "--progress", "plain"]
        command += ["--provenance=false", "--sbom=false", "--file", "container/Dockerfile", "--target", target]
        for name, value in arguments.items():
            command += ["--build-arg", f"{name}={value}"]
        if self.request.pip_configuration:
            command += ["--secret", f"id=pip_conf,src={self._pip_conf()}"]
        return command

    def _pip_conf(self) -> Path:
        """The pip.conf as a file that only this user reads; the build context leaves it out (.dockerignore)."""
        path = self.folder / ".pip.conf"
        path.touch(mode=0o600)
        path.write_text(self.request.pip_configuration)
        return path

    def _undated_base(self) -> str:
        """The training image's base without the date at its tag's end; "" when it has none."""
        named = self.request.training_base_image or base_images.declared_bases(self.folder).get("TRAINING_BASE_IMAGE", "")
        dated = _DATED.fullmatch(base_images.pinned(named, self.folder))  # with a digest there is no other to take
        return dated["undated"] if dated else ""

    def _missing_base(self, target: str) -> str:
        """Pattern of BuildKit's line when the registry lacks the dated base of the training image; "" when there is no other to take."""
        undated = self._undated_base() if target in CUDA_TARGETS and not self.training_base else ""
        return rf"failed to resolve source metadata for \S*{re.escape(undated)}-\d{{8}}: .*not found" if undated else ""

    def _must(self, step: str, *command: str, text: str = "", unless: str = "") -> Finished:
        """Run a command; repeated after a pause while a registry or index does not answer.

        Args:
            unless: pattern of a line that makes a failed command the caller's to judge.

        Raises:
            JobFailure: it failed, by the class of ``failure_of``.
        """
        for repeat in range(REPEATS + 1):
            finished = self.run(command, text)
            if not finished.code or (unless and any(re.search(unless, line) for line in finished.lines)):
                return finished
            failure = failure_of(step, finished.code, list(finished.lines))
            if repeat == REPEATS or not isinstance(failure, RegistryUnreachable):
                raise failure
            seconds = self.request.pause_seconds * 2**repeat
            print(f"repeated in {seconds:g} s: {failure.sentence}", flush=True)
            self.pause(seconds)
        raise AssertionError("unreachable")

    def _name(self, target: str) -> str:
        return f"{self.request.repository}:{target}-{self.request.tag}"

    def _local(self, target: str) -> str:
        return f"pretrain-{target}:{self.request.tag}"

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = time.monotonic() - start


def locked_version(lock: Path, package: str) -> str | None:
    """The version that a lock pins ``package`` to."""
    match = re.search(rf"^{re.escape(package)}==([^\s;\\]+)", lock.read_text(), re.MULTILINE)
    return match[1] if match else None


def _last_json(lines: Sequence[str], opening: str = "{") -> Any:
    """The last line that is JSON and begins so, read; None when there is none."""
    for line in reversed(lines):
        if line.startswith(opening):
            try:
                return json.loads(line)
            except ValueError:
                continue
    return None


def main() -> int:
    """CodeBuild's entry: 0, or 1 after one classed sentence as the log's last line."""
    try:
        build = Build(BuildRequest.read(os.environ))
        try:
            images = build.images()
        finally:
            print("seconds per phase: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in build.seconds.items()), flush=True)
    except JobFailure as failure:
        print(failure, flush=True)
        return 1
    lines = [f"{target.upper()}_IMAGE={reference}" for target, reference in images.items()]
    Path(OUTPUT_FILE).write_text("\n".join(lines) + "\n")
    print("\n".join(lines), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
