"""Copies of whole folders beside the tokens, in evaluation/<fingerprint>/: tasks' data and held-out texts, which an isolated job reads.

index.json is written last: with it there, the copies are complete as long as the files that it counts are.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from contracts.config import to_json
from contracts.failure import BadInput
from contracts.files import INDEX_FILE
from data_prep.copies import FORMAT_VERSION, Copies, Copy, are_whole, fingerprint, objects_of
from data_prep.failure_classes import SourceChanged
from data_prep.fingerprint import SourceObject
from data_prep.hub import open_repository
from data_prep.source_access import open_store
from data_prep.sources import parse_hub
from data_prep.store import READ_BYTES, Source

MAX_BYTES = 100 << 30
"""Of all copies: the evaluation job brings them to its own disk. The hub's repositories of tasks are megabytes."""


def make_copies(wanted: Copies, s3_client: Any, say: Callable[[str], None]) -> None:
    """Copy what is missing; the index last. Copies that are complete are left alone.

    Raises:
        SourceChanged: a source is not what it was when the run was admitted.
        BadInput: a source is gone, or they are too large together.
        JobFailure: a source cannot be read.
    """
    out = open_store(wanted.uri, s3_client)
    there = out.sizes("")
    if INDEX_FILE in there and are_whole(out.read(INDEX_FILE), len(there)):
        say(f"{wanted.uri} is complete already; nothing to do")
        return
    if fingerprint(wanted.copies, s3_client) != wanted.fingerprint:
        raise SourceChanged("the evaluation's data changed since the run was admitted; start the run again")
    plan = [file for copy in wanted.copies for file in _files(copy, s3_client)]
    total = sum(item.size for _, _, item in plan)
    if total > MAX_BYTES:
        raise BadInput(f"the evaluation's data has {total >> 30:,} GiB, and {MAX_BYTES >> 30} are allowed; name smaller sources")
    say(f"evaluation data: {len(plan):,} files, {total / 1e6:,.1f} MB, to {wanted.uri}")
    with tempfile.TemporaryDirectory(prefix="copies-") as scratch:
        for key, source, item in plan:
            if there.get(key) != item.size:
                piece = Path(scratch) / "file"
                with source.open(item) as stream, piece.open("wb") as file:
                    shutil.copyfileobj(stream, file, READ_BYTES)
                out.put(piece, key)
    index = {"format_version": FORMAT_VERSION, **to_json(wanted), "files": len({key for key, _, _ in plan}), "bytes": total}
    out.write(INDEX_FILE, json.dumps(index, indent=1).encode())


def _files(copy: Copy, s3_client: Any) -> Iterator[tuple[str, Source, SourceObject]]:
    """Each file: its key in the destination, what reads it, and its listing."""
    if parse_hub(copy.source) is not None:
        repository = open_repository(copy.source)
        yield from ((copy.folder + item.key, repository, item) for item in repository.listing())
    else:
        source = open_store(copy.source, s3_client)
        yield from ((copy.folder + item.key, source, item) for item in objects_of(copy, s3_client))
