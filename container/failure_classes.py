"""Why a build failed, as one classed sentence: `triage` and the notification show the last such line of the log.

Docker's output names the cause somewhere in hundreds of lines; `failure_of` finds it. Rules go from the most to the least
specific: a full disk also causes connection errors, and a connection error also causes missing manifests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.failure import JobFailure


class RegistryUnreachable(JobFailure):
    """A registry or package index did not answer, refused the login, or throttled."""

    retry = "retry"


class BaseImageMissing(JobFailure):
    """The base image does not exist, or this account may not pull it."""


class BuildDiskFull(JobFailure):
    """The build machine's disk is full."""


class PackageChanged(JobFailure):
    """A package index serves a file that the lock does not know."""


class SmokeTestFailed(JobFailure):
    """The built image cannot run its job. Nothing was pushed."""


class ImageBuildFailed(JobFailure):
    """Any other step of the build."""


BUILD_FAILURE_CLASSES: tuple[type[JobFailure], ...] = (
    RegistryUnreachable, BaseImageMissing, BuildDiskFull, PackageChanged, SmokeTestFailed, ImageBuildFailed,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Rule:
    pattern: re.Pattern[str]
    failure: type[JobFailure]
    advice: str


_RULES = (
    _Rule(
        pattern=re.compile(r"no space left on device|ENOSPC|disk quota exceeded", re.IGNORECASE),
        failure=BuildDiskFull,
        advice="the build machine's disk is full (the CUDA image needs about 60 GB while it is built); use a larger CodeBuild compute type",
    ),
    _Rule(
        pattern=re.compile(r"DO NOT MATCH THE HASHES|hashes are required|Can't verify hashes", re.IGNORECASE),
        failure=PackageChanged,
        advice="a package differs from container/requirements-*.txt; if the change is wanted run `make lock`, else check the package index",
    ),
    _Rule(
        pattern=re.compile(
            r"dial tcp|i/o timeout|TLS handshake|no such host|connection (refused|reset|timed out)|toomanyrequests|429 Too Many|"
            r"50[0234] (Internal|Bad|Service|Gateway)|Could not connect to the endpoint|Connection broken|ReadTimeoutError|"
            r"NewConnectionError|Temporary failure in name resolution|context deadline exceeded|unexpected EOF",
            re.IGNORECASE,
        ),
        failure=RegistryUnreachable,
        advice="a registry or package index did not answer; check the build project's network (VPC, proxy, endpoints) and start again",
    ),
    _Rule(
        pattern=re.compile(
            r"no basic auth credentials|authorization token has expired|AccessDenied|not authorized to perform|"
            r"401 Unauthorized|403 Forbidden|Unable to locate credentials",
            re.IGNORECASE,
        ),
        failure=BaseImageMissing,
        advice="access was denied; the build role must be allowed to pull the base image and to push to this repository",
    ),
    _Rule(
        pattern=re.compile(r"failed to resolve source metadata|manifest unknown|pull access denied|: not found$", re.IGNORECASE),
        failure=BaseImageMissing,
        advice="the base image does not exist; check the setting training_base_image (a dated tag or digest of a published image)",
    ),
)


def failure_of(step: str, exit_code: int, output: Sequence[str]) -> JobFailure:
    """The failure behind a command's last lines of output: its class, the line that shows it, and what to do."""
    for rule in _RULES:
        for line in reversed(output):
            if rule.pattern.search(line):
                return rule.failure(f'{step}: "{_shown(line)}"; {rule.advice}')
    last = next((line for line in reversed(output) if line.strip()), "no output")
    return ImageBuildFailed(f'{step} ended with exit status {exit_code}: "{_shown(last)}"; the whole log is in the build\'s log group')


def _shown(line: str) -> str:
    text = " ".join(line.split())
    return text if len(text) <= 300 else "..." + text[-297:]
