"""Weights to begin training from (``training.initial: hf://...``): copied once from the Hugging Face Hub into the bucket.

The training job has no network, and this job has. A model at a pinned commit never changes, so its copy serves every run:

    weights/<owner>--<name>/<commit>/
        config.json, model*.safetensors, tokenizer.json ...    whole and verified, or not there
        manifest.json                                          last: the copy is complete

What config.json and the files' headers say is compared with the run's legs before the first weight is copied: of gated
repositories Admit, which must not read the token, cannot know it. Killed and started again, the job copies what is missing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.config import Json
from contracts.failure import BadInput
from contracts.files import WEIGHTS_MANIFEST
from contracts.llama_config import config_problems, weight_problems
from contracts.weights_folder import CONFIG_FILE, SHARD_INDEX_FILE, TOKENIZER_FILE, ModelFolder, UnusableWeights, look_at
from data_prep.failure_classes import CorruptSource
from data_prep.fingerprint import SourceObject
from data_prep.hub import HubStore
from data_prep.sources import TOKENIZER_CONFIG_FILE
from data_prep.store import Store, disk_errors

FORMAT_VERSION = 1
COMPANIONS = (CONFIG_FILE, SHARD_INDEX_FILE, "generation_config.json", TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, "special_tokens_map.json")
"""Small files that are copied where the repository has them."""
RANGE_BYTES = 32 << 20
"""One request: a redirect and its latency cost less than the transfer; four of them are the memory that copying takes."""
FILES_AT_ONCE = 4
"""Files of about 5 GB on the disk at a time: 20 GB of data.volume_size_gb, whose default is 100."""


@dataclass(frozen=True, kw_only=True)
class WeightsCopy:
    """One model to copy."""

    repository: HubStore
    out: Store
    """Its folder in the bucket."""
    models: dict[str, Json]
    """Leg -> ``training.model`` of the legs that begin from it."""


def wanted(run: Json, open_repository: Callable[[str], HubStore], open_store: Callable[[str], Store]) -> list[WeightsCopy]:
    """The models that the run's legs begin from and that the bucket lacks."""
    models = {str(leg["name"]): leg["training"]["model"] for leg in run.get("legs", ())}
    by_place: dict[str, tuple[str, dict[str, Json]]] = {}
    for leg, start in (run.get("initial") or {}).items():
        if str(start["source"]).startswith("hf://"):
            by_place.setdefault(str(start["uri"]), (str(start["source"]), {}))[1][leg] = models[leg]
    copies = []
    for uri, (source, legs) in by_place.items():
        out = open_store(uri)
        if not out.exists(WEIGHTS_MANIFEST):
            copies.append(WeightsCopy(repository=open_repository(source), out=out, models=legs))
    return copies


def checked(copy: WeightsCopy) -> tuple[dict[str, SourceObject], ModelFolder]:
    """The repository's files, and the model in them, which fits every leg.

    Raises:
        BadInput: it does not, or there is none.
        AccessDenied: gated, and the token does not open it.
    """
    source = copy.repository
    objects = {item.key: item for item in source.listing()}
    sizes = {name: item.size for name, item in objects.items()}
    try:
        found = look_at(sizes, lambda name, start, count: source.get_range(objects[name], start, count))
    except UnusableWeights as error:
        raise BadInput(f"training.initial {source.uri}: {error}") from None
    for leg, model in copy.models.items():
        problems = list(config_problems(found.config, model)) or list(weight_problems(found, model))
        if problems:
            raise BadInput(f"leg {leg} cannot begin from {source.uri}: " + "; ".join(f"training.{problem}" for problem in problems))
    return objects, found


def copy_weights(
    copy: WeightsCopy, objects: dict[str, SourceObject], found: ModelFolder, scratch: Path, say: Callable[[str], None]
) -> None:
    """Copy what is missing, each file verified, and the manifest last.

    Raises:
        CorruptSource: a file is not what the Hub's listing says, twice.
        StoreUnavailable, DiskFull: see data_prep/failure_classes.py.
    """
    names = [*(name for name in COMPANIONS if name in objects), *found.files]
    there = copy.out.sizes("")
    missing = [objects[name] for name in names if there.get(name) != objects[name].size or name in COMPANIONS]
    total, begin = sum(item.size for item in missing), time.monotonic()
    say(f"copying {copy.repository.uri} to {copy.out.uri}: {len(missing)} of {len(names)} files, {total / 1e9:,.2f} GB")
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        for item in pool.map(lambda item: _copy(copy, item, scratch), missing):
            say(f"copied {item.key} ({item.size / 1e9:,.2f} GB)")
    seconds = max(time.monotonic() - begin, 1e-9)
    files = [{"name": name, "bytes": objects[name].size, "hash": objects[name].etag} for name in names]
    manifest = {"format_version": FORMAT_VERSION, "source": copy.repository.uri, "files": files}
    copy.out.write(WEIGHTS_MANIFEST, json.dumps(manifest, indent=1).encode())
    say(f"{copy.out.uri} is complete: {total / 1e9:,.2f} GB in {seconds:,.0f} s")


def _copy(copy: WeightsCopy, item: SourceObject, scratch: Path) -> SourceObject:
    """One file: to the disk, verified, then whole into the store."""
    path = scratch / item.key
    if _fetched(copy, item, path) != item.etag and _fetched(copy, item, path) != item.etag:
        path.unlink()
        raise CorruptSource(f"{copy.repository.uri}/{item.key} has another hash than the Hub's listing says, twice; try again later")
    copy.out.put(path, item.key)
    return item


def _fetched(copy: WeightsCopy, item: SourceObject, path: Path) -> str:
    """The file on the disk; its hash, of the kind that the listing gives."""
    digest = _hash_of(item)
    with disk_errors(str(path)), path.open("wb") as file:
        for start in range(0, item.size, RANGE_BYTES):
            piece = copy.repository.get_range(item, start, min(RANGE_BYTES, item.size - start))
            digest.update(piece)
            file.write(piece)
    return str(digest.hexdigest())


def _hash_of(item: SourceObject) -> Any:
    """What the Hub's listing gives: SHA-256 of a file in its large-file storage, else git's name of the content."""
    if len(item.etag) == hashlib.sha256().digest_size * 2:
        return hashlib.sha256()
    return hashlib.sha1(f"blob {item.size}\0".encode(), usedforsecurity=False)
