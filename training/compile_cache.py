"""torch.compile's cache, kept in each checkpoint, so that the next attempt does not compile again what this one has.

The whole cache folder travels: Inductor's graphs and kernels, AOTAutograd's entries, Triton's kernels (below the same folder) and
the libraries that the C++ backend builds. torch's own portable form, ``torch.compiler.save_cache_artifacts``, leaves the last out:
with it a second start on CPUs compiled as long as the first. The keys inside are hashes of code, shapes, device and torch's
version: an entry that does not fit is not found, and is compiled anew.

The cache is code, and a checkpoint lies in S3, where nothing may be trusted that others may have written. So the archive begins
with an HMAC of the rest, under a key that Admit draws for each execution and hands to its jobs alone. Another execution of the
run compiles anew.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib.metadata
import io
import json
import os
import tarfile
from pathlib import Path

import xxhash

from contracts.checkpoint_manifest import CheckpointFile, DamagedManifest, parse_manifest
from contracts.files import CHECKPOINT_MANIFEST, COMPILE_CACHE, COMPILE_CACHE_KEY
from training.leg_job import LegJob
from training.spec import TrainingSpec

MAX_BYTES = 2 << 30
"""Unpacked; larger is no cache of one model (an 8B model's blocks share their graphs: megabytes)."""
_MADE_BY = "made_by.json"
_FOLDER = "cache"
_MAC_BYTES = hashlib.sha256().digest_size


def cache_folder(job: LegJob) -> Path:
    """Where the ranks of this host compile to; TORCHINDUCTOR_CACHE_DIR."""
    return job.base / "compile_cache"


def compiled_is_kept(spec: TrainingSpec) -> bool:
    """Whether this leg compiles, and may keep what it compiled."""
    return spec.compile and bool(_key())


def _key() -> bytes:
    return os.environ.get(COMPILE_CACHE_KEY, "").encode()


def _mac(body: bytes) -> bytes:
    return hmac.digest(_key(), body, "sha256")


def restore(job: LegJob) -> str:
    """Unpack the checkpoint's cache on this host, before any rank compiles; returns what became of it, in words.

    A cache that is absent, damaged or another image's costs a compilation and nothing else: no error ends the job.
    """
    archive = job.checkpoint / COMPILE_CACHE
    try:
        entry = parse_manifest((job.checkpoint / CHECKPOINT_MANIFEST).read_bytes())[COMPILE_CACHE]
        if not 0 < entry.bytes <= MAX_BYTES:
            return f"not used: {COMPILE_CACHE} has {entry.bytes} bytes, and {MAX_BYTES} at most are taken"
        body = archive.read_bytes()
    except (OSError, DamagedManifest, StopIteration):
        return "none in the checkpoint"
    if xxhash.xxh3_128_hexdigest(body) != entry.checksum:
        return f"not used: {COMPILE_CACHE} is damaged, its checksum differs"
    mac, body = body[:_MAC_BYTES], body[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(body)):
        return "not used: no attempt of this execution made it"
    try:
        return _unpack(body, cache_folder(job))
    except (tarfile.TarError, OSError, EOFError, ValueError, KeyError) as error:
        return f"not used: {COMPILE_CACHE} cannot be unpacked ({type(error).__name__}: {str(error)[:120]})"


def _unpack(body: bytes, folder: Path) -> str:
    with tarfile.open(fileobj=io.BytesIO(body), mode="r:gz") as archive:
        members, total = [], 0
        for member in archive:  # sizes come from headers: a bomb is noticed before it is written
            total += member.size
            if total > MAX_BYTES:
                return f"not used: it unpacks to more than {MAX_BYTES} bytes"
            members.append(member)
        made_by = archive.extractfile(_MADE_BY)
        if made_by is None or json.loads(made_by.read()) != made_by_this():
            return "not used: another image, or another kind of CPU, made it"
        folder.mkdir(parents=True, exist_ok=True)
        inside = [member for member in members if member.isfile() and member.name.startswith(f"{_FOLDER}/")]
        for member in inside:
            member.name = member.name.removeprefix(f"{_FOLDER}/")
        archive.extractall(folder, inside, filter="data")
    return f"{len(inside)} files, {total / 1e6:.1f} MB, from the checkpoint"


def made_by_this() -> dict[str, str]:
    """What an archive's maker must have been: this image, this torch, and a CPU with the same instructions.

    Inductor's keys hold the GPU's name and not the CPU's, whose kernels are built for the machine at hand.
    """
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return {
        "image": os.environ.get("IMAGE_URI", ""),
        "torch": importlib.metadata.version("torch"),
        "cpu": xxhash.xxh3_64_hexdigest(" ".join(sorted(cpu.partition(":")[2].split())).encode()),
    }


class CacheKeeper:
    """Packs this host's cache folder for checkpoints. Packed again only when the ranks have compiled something since."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._packed: tuple[frozenset[tuple[str, int]], bytes] | None = None

    def put_into(self, step_folder: Path) -> None:
        """Write the archive beside a checkpoint's parts, before its manifest is; nothing where nothing was compiled or it cannot be."""
        try:
            self._put_into(step_folder)
        except OSError as error:  # the disk is full, or a file went while it was read: the checkpoint is worth more
            (step_folder / COMPILE_CACHE).unlink(missing_ok=True)
            print(f"torch.compile's cache is not kept in {step_folder.name}: {error}", flush=True)

    def _put_into(self, step_folder: Path) -> None:
        if self._folder is None or not self._folder.is_dir():
            return
        files = {path: path.stat().st_size for path in sorted(self._folder.rglob("*")) if path.is_file() and not _temporary(path)}
        if not files:
            return
        state = frozenset((str(path), size) for path, size in files.items())
        if self._packed is None or self._packed[0] != state:
            self._packed = (state, _pack(self._folder, list(files)))
        step_folder.mkdir(parents=True, exist_ok=True)
        (step_folder / COMPILE_CACHE).write_bytes(self._packed[1])


def listed(step_folder: Path) -> list[CheckpointFile]:
    """The archive as the manifest lists it: one entry, or none."""
    archive = step_folder / COMPILE_CACHE
    if not archive.is_file():
        return []
    body = archive.read_bytes()
    return [CheckpointFile(name=COMPILE_CACHE, bytes=len(body), checksum=xxhash.xxh3_128_hexdigest(body))]


def _temporary(path: Path) -> bool:
    """Locks, and files that a compiler is about to rename."""
    return path.suffix in (".lock", ".tmp") or path.name.startswith(".")


def _pack(folder: Path, files: list[Path]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        made_by = json.dumps(made_by_this()).encode()
        header = tarfile.TarInfo(_MADE_BY)
        header.size = len(made_by)
        archive.addfile(header, io.BytesIO(made_by))
        for path in files:
            archive.add(path, f"{_FOLDER}/{path.relative_to(folder)}", recursive=False)
    return _mac(packed.getvalue()) + packed.getvalue()
