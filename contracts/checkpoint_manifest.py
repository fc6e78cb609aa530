"""manifest.json: what a checkpoint consists of, written last. A checkpoint without it, or without a part that it lists, is none.

    checkpoints/step-150/
        __0_0.distcp ...    each rank's part, in files of its own
        .metadata           torch.distributed.checkpoint's index: which tensor lies where in which part
        checksums.json      XXH3 of every tensor's bytes, part by part
        manifest.json       this file: names, sizes and checksums of the others, and what they are a checkpoint of

Hosts share no disk and SageMaker's sync uploads files one by one in any order, so the manifest's presence says that saving
ended, and the listed sizes say that everything has arrived. The job writes and verifies it; Admit, Triage and Monitor read it
in a Lambda, with the standard library only: its own checksum is a SHA-256, those of the (large) files are XXH3.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from contracts.config import Bounds, Json, Pattern, Problem, SpecError, one_or_more, parse, to_json
from contracts.files import CHECKPOINT_METADATA, CHECKPOINT_SUMS
from contracts.shard_index import XXH3

FORMAT_VERSION = 1
MAX_BYTES = 16 << 20
"""A manifest lists about 90 bytes a file and one file a rank: 10,000 ranks need 1 MB. Anything larger is no manifest."""
FILE_NAME = Pattern(r"\.metadata|[A-Za-z0-9_][A-Za-z0-9_.-]*", "a file name without folders")
_DIGEST = "sha256"


class DamagedManifest(ValueError):
    """manifest.json cannot be used; the text says why, in one sentence without a full stop."""


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """One file beside the manifest."""

    name: Annotated[str, FILE_NAME]
    """Name in the same folder."""
    bytes: Annotated[int, Bounds(0)]
    """Size."""
    checksum: Annotated[str, XXH3]
    """128-bit XXH3 of the file."""


@dataclass(frozen=True, kw_only=True)
class CheckpointManifest:
    """manifest.json."""

    format_version: int
    """FORMAT_VERSION of the writer."""
    step: Annotated[int, one_or_more()]
    """Optimiser steps that the weights have behind them."""
    world_size: Annotated[int, one_or_more()]
    """Ranks that saved it; another number may load it."""
    leg: dict[str, Any]
    """What was trained: ``run_id``, ``leg``, ``attempt``, ``model``, ``data``, ``training``. Another job may go on from
    it when ``model``, ``data`` and the optimizer are equal."""
    files: tuple[CheckpointFile, ...]
    """Every other file of the checkpoint."""

    def check(self) -> Iterator[Problem]:
        """Names are unique, and the two indexes are among them."""
        names = [file.name for file in self.files]
        if len(set(names)) < len(names):
            yield Problem("files", "a name is listed twice")
        for needed in (CHECKPOINT_METADATA, CHECKPOINT_SUMS):
            if needed not in names:
                yield Problem("files", f"{needed} is not listed")

    def missing(self, sizes: Mapping[str, int]) -> str | None:
        """What a folder with files of these ``sizes`` (bytes by name) lacks of this checkpoint, in words; None when nothing."""
        for file in self.files:
            size = sizes.get(file.name)
            if size is None:
                return f"{file.name} is missing"
            if size != file.bytes:
                return f"{file.name} has {size} bytes of {file.bytes}"
        return None

    @property
    def bytes(self) -> int:
        """Size of the checkpoint."""
        return sum(file.bytes for file in self.files)

    def __getitem__(self, name: str) -> CheckpointFile:
        return next(file for file in self.files if file.name == name)


def manifest_bytes(manifest: CheckpointManifest) -> bytes:
    """The manifest as it is stored, with its own checksum."""
    return json.dumps(to_json(manifest) | {_DIGEST: manifest_checksum(manifest)}, indent=1).encode() + b"\n"


def manifest_checksum(manifest: CheckpointManifest) -> str:
    """The manifest's own checksum: it covers the checksums of all files, and so names the checkpoint."""
    return _digest(to_json(manifest))


def parse_manifest(body: bytes) -> CheckpointManifest:
    """The manifest from its bytes.

    Raises:
        DamagedManifest: it is cut off, changed, of another format, or no manifest at all.
    """
    if len(body) > MAX_BYTES:
        raise DamagedManifest(f"it has {len(body)} bytes and a manifest has {MAX_BYTES} at most")
    try:
        content = json.loads(body)
        if not isinstance(content, dict):
            raise DamagedManifest("it holds no JSON object")
        digest = content.pop(_DIGEST, None)
        intact = digest == _digest(content)
    except DamagedManifest:
        raise
    except (ValueError, RecursionError):
        raise DamagedManifest("it is cut off or no JSON") from None
    if not intact:
        raise DamagedManifest("its own checksum differs: it was changed after it was written")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise DamagedManifest(f"it has format version {str(version)[:20]}, and this code reads {FORMAT_VERSION}")
    try:
        return parse(CheckpointManifest, content)
    except (SpecError, RecursionError) as error:
        raise DamagedManifest(f"it does not read as a manifest ({str(error)[:200]})") from None


def _digest(content: Json) -> str:
    """SHA-256 of the canonical JSON of everything but the checksum itself."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
