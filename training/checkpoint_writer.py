"""Writes a checkpoint: torch.distributed.checkpoint's own files, the checksum of everything in them, and the manifest, last.

Each rank sums the bytes that it writes on their way to the disk, all ranks at once and, with asynchronous saving, beside the
training: two threads sum what a third writes. The sums travel to rank 0 with the results that DCP gathers anyway.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from torch.distributed.checkpoint.filesystem import _FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from contracts.checkpoint_manifest import FORMAT_VERSION, CheckpointFile, CheckpointManifest, manifest_bytes
from contracts.config import Json
from contracts.files import CHECKPOINT_MANIFEST, CHECKPOINT_METADATA, CHECKPOINT_SUMS
from training import compile_cache

INLINE_BYTES = 1 << 20  # summed in a tenth of a millisecond, about what handing it to another thread takes


@dataclass(frozen=True)
class _SummedResult(WriteResult):
    """DCP's account of one written tensor, and its checksum."""

    item_sum: str
    """64-bit XXH3 of the tensor's bytes in the part."""
    part_sum: str
    """128-bit XXH3 of the whole part that it lies in."""


class _Summing:
    """Stands where DCP's stream extensions stand: it changes nothing of a stream and sums it, item by item and as a whole."""

    def __init__(self, beside: Executor) -> None:
        self.items: list[str] = []
        self.part = xxhash.xxh3_128()
        self.beside = beside

    def transform_save_stream(self, write_item: object, raw_stream: Any) -> tuple[_SummedStream, list[str]]:
        """The stream that one item is written to; no descriptor, so that DCP's own reader reads the part as well."""
        return _SummedStream(raw_stream, self), []


class _SummedStream:
    """What torch.save writes one tensor to."""

    def __init__(self, raw: Any, sums: _Summing) -> None:
        self._raw, self._sums, self._item = raw, sums, xxhash.xxh3_64()

    def write(self, data: Any) -> int:
        sums = (self._item, self._sums.part)
        if memoryview(data).nbytes < INLINE_BYTES:
            for one in sums:
                one.update(data)
            return int(self._raw.write(data))
        summing = [self._sums.beside.submit(one.update, data) for one in sums]  # xxhash lets other threads run, and so does a write
        written = int(self._raw.write(data))
        for done in summing:
            done.result()
        return written

    def flush(self) -> None:
        self._raw.flush()

    def close(self) -> None:
        """The item ends; the part goes on."""
        self.flush()
        self._sums.items.append(self._item.hexdigest())


class CheckpointWriter(_FileSystemWriter):
    """DCP's writer, one file for each rank, with checksums and a manifest. ``leg`` is what the manifest says of the leg."""

    def __init__(self, path: str | os.PathLike[str], *, leg: Json, step: int, world_size: int) -> None:
        super().__init__(path, single_file_per_rank=True, thread_count=1)
        self.leg, self.step, self.world_size = leg, step, world_size

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's part; the results carry its checksums."""
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="checksums") as beside:
            sums = _Summing(beside)
            transforms, self.transforms = self.transforms, sums  # type: ignore[assignment]  # DCP calls that one method of it
            try:
                results = super().write_data(plan, planner).wait()
            finally:
                self.transforms = transforms
        part = sums.part.hexdigest()
        summed: Future[list[WriteResult]] = Future()
        summed.set_result(
            [
                _SummedResult(result.index, result.size_in_bytes, result.storage_data, item_sum=item, part_sum=part)
                for result, item in zip(results, sums.items, strict=True)
            ]
        )
        return summed

    def storage_meta(self) -> StorageMeta:
        """DCP's, with the path as a string: what the reader may unpickle stays the same on every version of Python."""
        return StorageMeta(checkpoint_id=str(self.path), save_id=self.save_id)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Rank 0, when every rank's part is on disk: .metadata, checksums.json, and the manifest last."""
        super().finish(metadata, results)
        folder = Path(self.path)
        sizes: dict[str, int] = {}
        parts: dict[str, str] = {}
        items: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for result in (result for rank in results for result in rank):
            assert isinstance(result, _SummedResult)
            place = result.storage_data
            items[place.relative_path].append((place.offset, result.item_sum))
            sizes[place.relative_path] = max(sizes.get(place.relative_path, 0), place.offset + place.length)
            parts[place.relative_path] = result.part_sum
        in_order = {name: [item for _, item in sorted(found)] for name, found in sorted(items.items())}
        files = [CheckpointFile(name=name, bytes=sizes[name], checksum=parts[name]) for name in sorted(parts)]
        write_durably(folder / CHECKPOINT_SUMS, json.dumps(in_order).encode())
        for name in (CHECKPOINT_METADATA, CHECKPOINT_SUMS):
            body = (folder / name).read_bytes()
            files.append(CheckpointFile(name=name, bytes=len(body), checksum=xxhash.xxh3_128_hexdigest(body)))
        files += compile_cache.listed(folder)
        manifest = CheckpointManifest(
            format_version=FORMAT_VERSION, step=self.step, world_size=self.world_size, leg=self.leg, files=tuple(files)
        )
        write_durably(folder / CHECKPOINT_MANIFEST, manifest_bytes(manifest))


def write_durably(path: Path, body: bytes) -> None:
    """Whole or not at all, and on the disk when this returns: a sync may read the file at any moment."""
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
