"""manifest.json of an exported model: what its folder consists of, written by the training job after everything else.

    export/
        model-00001-of-00004.safetensors ...    weights
        config.json, tokenizer.json, README.md ...
        manifest.json                           this file: size and SHA-256 of each of them

result.json has the SHA-256 of this file, so that nothing of a model can be changed, cut or lost unseen. SHA-256 and not a checkpoint's
XXH3: whoever gets the model checks it with what every machine has. A sample that is written later (sample.txt) is no part of the model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from contracts.checkpoint_manifest import DamagedManifest
from contracts.config import Bounds, Pattern, Problem, SpecError, parse, to_json

FORMAT_VERSION = 1
MAX_BYTES = 1 << 20
"""About 150 bytes a file, of which 1 TB of weights has 200."""
SHA256 = Pattern(r"[0-9a-f]{64}", "a SHA-256 in lower-case hexadecimal")
FILE_NAME = Pattern(r"[^/\\\0]+", "a file name without folders")


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """One file beside the manifest."""

    name: Annotated[str, FILE_NAME]
    """Name in the same folder."""
    bytes: Annotated[int, Bounds(0)]
    """Size."""
    sha256: Annotated[str, SHA256]
    """Of its content."""


@dataclass(frozen=True, kw_only=True)
class ExportManifest:
    """manifest.json."""

    format_version: int
    """FORMAT_VERSION of the writer."""
    files: tuple[ExportedFile, ...]
    """Every file of the model, by name."""

    def check(self) -> Iterator[Problem]:
        """Names are unique."""
        if len({file.name for file in self.files}) < len(self.files):
            yield Problem("files", "a name is listed twice")


def exported_file(path: Path) -> ExportedFile:
    """A file on the disk, read once. One of OpenSSL's digests releases the GIL: 1 to 2 GB/s beside whatever else runs."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return ExportedFile(name=path.name, bytes=stream.tell(), sha256=digest)


def manifest_bytes(manifest: ExportManifest) -> bytes:
    """The manifest as it is stored."""
    return json.dumps(to_json(manifest), indent=1).encode() + b"\n"


def parse_manifest(body: bytes) -> ExportManifest:
    """The manifest from its bytes.

    Raises:
        DamagedManifest: it is cut off, changed, of another format, or no manifest at all.
    """
    if len(body) > MAX_BYTES:
        raise DamagedManifest(f"it has {len(body)} bytes and a manifest has {MAX_BYTES} at most")
    try:
        content = json.loads(body)
        version = content.get("format_version") if isinstance(content, dict) else None
        if version != FORMAT_VERSION:
            raise DamagedManifest(f"it has format version {str(version)[:20]}, and this code reads {FORMAT_VERSION}")
        return parse(ExportManifest, content)
    except SpecError as error:
        raise DamagedManifest(f"it does not read as a manifest ({str(error)[:200]})") from None
    except DamagedManifest:
        raise
    except (ValueError, RecursionError):
        raise DamagedManifest("it is cut off or no JSON") from None
