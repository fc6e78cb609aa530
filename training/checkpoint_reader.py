"""Reads a checkpoint that may be damaged or foreign: nothing is unpickled before its checksum is verified, and then only what
checkpoints consist of.

The folder is a FastFile channel: a read of a file is a request to S3. A rank reads the two indexes and the tensors that it
needs, in the order in which they lie in the parts, and verifies each against checksums.json. So a host reads its own share of
the checkpoint and nothing else, also on another number of ranks than saved it.
"""

from __future__ import annotations

import io
import json
import pickle
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future
from torch.serialization import _get_layout

from contracts.checkpoint_manifest import CheckpointManifest, DamagedManifest, manifest_checksum, parse_manifest
from contracts.files import CHECKPOINT_MANIFEST, CHECKPOINT_METADATA, CHECKPOINT_SUMS

ALLOWED: dict[tuple[str, str], Any] = {
    **{
        (dcp.__name__, cls.__name__): cls
        for cls in (
            dcp.BytesStorageMetadata, dcp.ChunkStorageMetadata, dcp.Metadata, dcp.MetadataIndex, dcp.StorageMeta,
            dcp.TensorProperties, dcp.TensorStorageMetadata, dcp._MEM_FORMAT_ENCODING,
        )
    },
    (_StorageInfo.__module__, _StorageInfo.__name__): _StorageInfo,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): _get_layout,
    **{("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
}  # fmt: skip
"""Everything that .metadata of our writer refers to: DCP's value classes, sizes, layouts and number types. None runs code."""


class DamagedCheckpoint(Exception):
    """The checkpoint cannot be used; the text says why, in one sentence without a full stop."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose indexes are verified."""

    folder: Path
    manifest: CheckpointManifest
    metadata: dcp.Metadata
    sums: dict[tuple[str, int], str]
    """Part and offset -> 64-bit XXH3 of the tensor that lies there."""
    checksum: str
    """The manifest's own, which names the checkpoint."""
    index_bytes: int
    """Bytes of manifest and indexes, which every rank reads."""


def open_checkpoint(folder: Path) -> Checkpoint:
    """The verified indexes of the checkpoint in ``folder``.

    Raises:
        DamagedCheckpoint: a file is missing, cut off, changed or foreign.
    """
    try:
        body = (folder / CHECKPOINT_MANIFEST).read_bytes()
        manifest = parse_manifest(body)
    except FileNotFoundError:
        raise DamagedCheckpoint(f"it has no {CHECKPOINT_MANIFEST}: saving was cut off") from None
    except OSError as error:
        raise DamagedCheckpoint(f"{CHECKPOINT_MANIFEST} cannot be read ({error.strerror})") from None
    except DamagedManifest as error:
        raise DamagedCheckpoint(f"{CHECKPOINT_MANIFEST} cannot be used: {error}") from None
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    lacking = manifest.missing(sizes)
    if lacking is not None:
        raise DamagedCheckpoint(lacking)
    stored, listed = (_verified(folder, manifest, name) for name in (CHECKPOINT_METADATA, CHECKPOINT_SUMS))
    metadata = _metadata(stored)
    sums = _sums(listed, metadata, manifest)
    size = len(body) + len(stored) + len(listed)
    return Checkpoint(
        folder=folder, manifest=manifest, metadata=metadata, sums=sums, checksum=manifest_checksum(manifest), index_bytes=size
    )


def _verified(folder: Path, manifest: CheckpointManifest, name: str) -> bytes:
    try:
        body = (folder / name).read_bytes()
    except OSError as error:
        raise DamagedCheckpoint(f"{name} cannot be read ({error.strerror})") from None
    if xxhash.xxh3_128_hexdigest(body) != manifest[name].checksum:
        raise DamagedCheckpoint(f"{name} is not what {CHECKPOINT_MANIFEST} says: its checksum differs")
    return body


class _MetadataUnpickler(pickle.Unpickler):
    """Knows the classes of ALLOWED and no others."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}"[:120]) from None


def _metadata(body: bytes) -> dcp.Metadata:
    """DCP's metadata from its pickle, with the types that the loader relies on.

    Raises:
        DamagedCheckpoint: it is no pickle, holds a foreign class, or something else than metadata.
    """
    try:
        metadata: dcp.Metadata = _MetadataUnpickler(io.BytesIO(body)).load()
        entries, places = metadata.state_dict_metadata, metadata.storage_data
        well_formed = (
            type(metadata) is dcp.Metadata
            and all(isinstance(key, str) and isinstance(entry, dcp.STORAGE_TYPES) for key, entry in entries.items())
            and all(isinstance(index, dcp.MetadataIndex) and _is_place(place) for index, place in places.items())
        )
    except Exception as error:  # a pickle may build anything that then has no such attribute, or no end
        raise DamagedCheckpoint(f"{CHECKPOINT_METADATA} cannot be read ({type(error).__name__}: {str(error)[:120]})") from None
    if not well_formed:
        raise DamagedCheckpoint(f"{CHECKPOINT_METADATA} holds something else than the index of a checkpoint")
    return metadata


def _is_place(place: object) -> bool:
    return (
        isinstance(place, _StorageInfo)
        and isinstance(place.relative_path, str)
        and all(type(number) is int and number >= 0 for number in (place.offset, place.length))
        and not place.transform_descriptors
    )


def _sums(body: bytes, metadata: dcp.Metadata, manifest: CheckpointManifest) -> dict[tuple[str, int], str]:
    """Checksum by part and offset, for exactly the tensors that the metadata places inside listed parts."""
    places: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for place in metadata.storage_data.values():
        places[place.relative_path].add((place.offset, place.length))
    sizes = {file.name: file.bytes for file in manifest.files}
    found: dict[tuple[str, int], str] = {}
    try:
        listed = json.loads(body)
        if listed.keys() != places.keys():
            raise ValueError("other parts")
        for name, inside in places.items():
            if max(offset + length for offset, length in inside) > sizes[name]:
                raise ValueError("a tensor outside its part")
            found |= {(name, offset): str(item) for (offset, _), item in zip(sorted(inside), listed[name], strict=True)}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise DamagedCheckpoint(f"{CHECKPOINT_SUMS} and {CHECKPOINT_METADATA} are not of one checkpoint") from None
    return found


class CheckpointReader(FileSystemReader):
    """DCP's reader over a verified checkpoint: whole tensors in file order, each verified before it is unpickled."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint.folder)
        self._checkpoint = checkpoint
        self.bytes_read = checkpoint.index_bytes
        """What this rank has read of the checkpoint."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> dcp.Metadata:
        """The verified index."""
        return self._checkpoint.metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Load what the plan asks for.

        Raises:
            DamagedCheckpoint: a tensor's bytes are not those that were written.
        """
        by_place: dict[tuple[str, int], list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            place = self.storage_data[item.storage_index]
            by_place[place.relative_path, place.offset].append(item)
        by_part: dict[str, list[int]] = defaultdict(list)
        for name, offset in by_place:
            by_part[name].append(offset)
        for name, offsets in sorted(by_part.items()):
            with (self._checkpoint.folder / name).open("rb", buffering=0) as file:
                for offset in sorted(offsets):
                    items = by_place[name, offset]
                    body = self._read(file, name, offset, self.storage_data[items[0].storage_index].length)
                    for item in items:
                        _hand_over(body, item, planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read(self, file: io.FileIO, name: str, offset: int, length: int) -> bytearray:
        """One tensor's bytes, verified."""
        body = bytearray(length)
        view, got = memoryview(body), 0
        file.seek(offset)
        while got < length and (more := file.readinto(view[got:])):
            got += more
        self.bytes_read += got
        if got < length or xxhash.xxh3_64_hexdigest(body) != self._checkpoint.sums[name, offset]:
            raise DamagedCheckpoint(f"{name} is damaged: the checksum of the {length} bytes at {offset} differs")
        return body


class CheckpointPlanner(DefaultLoadPlanner):
    """DCP's planner, which would unpickle anything where the state holds a plain value."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """A plain value: numbers, texts, lists, dictionaries and tensors, nothing that runs."""
        set_element(self.original_state_dict, self.mappings[read_item.dest_index.fqn], torch.load(value, weights_only=True))


def _hand_over(body: bytearray, item: ReadItem, planner: LoadPlanner) -> None:
    """What DCP's own reader does with a tensor's bytes."""
    if item.type == LoadItemType.BYTE_IO:
        planner.load_bytes(item, io.BytesIO(body))
        return
    tensor = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    tensor = narrow_tensor_by_index(tensor, item.storage_offsets, item.lengths)
    target = planner.resolve_tensor(item).detach()
    if target.size() != tensor.size():
        raise DamagedCheckpoint(f"a tensor has the shape {tuple(tensor.size())} there and {tuple(target.size())} here")
    target.copy_(tensor)
    planner.commit_tensor(item, target)
