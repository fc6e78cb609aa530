"""A model in Hugging Face's form: config.json and safetensors, looked at without reading any weight.

    config.json                          the shape (contracts/llama_config.py)
    model.safetensors                    all weights, or
    model.safetensors.index.json         which file has which weight, beside model-00001-of-00004.safetensors ...
    tokenizer.json                       optional

A safetensors file is 8 bytes with the length of its header, the header (JSON: type, shape and place of each weight), and the
weights (https://github.com/huggingface/safetensors, "Format"). Headers and sizes tell everything but the numbers, so Admit
reads them from S3 or the Hub, data preparation before it copies, and the training job before it starts a rank: one check,
the same sentence. Standard library only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from contracts.config import Json

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
SHARD_INDEX_FILE = "model.safetensors.index.json"
TOKENIZER_FILE = "tokenizer.json"

MAX_CONFIG_BYTES = 1 << 20
"""config.json has about 1 KB."""
MAX_INDEX_BYTES = 8 << 20
"""Llama-3.1 405B's has 100 KB."""
MAX_HEADER_BYTES = 8 << 20
"""About 100 bytes a weight; a file of ours or of Llama-3.x has a few hundred weights."""
MAX_FILES = 2000
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")
DTYPE_BYTES = {"F32": 4, "BF16": 2, "F16": 2}
"""Types of weights that training reads, by safetensors' names, in bytes an element."""

ReadRange = Callable[[str, int, int], bytes]
"""``(name, start, count)``: so many bytes of a file, fewer at its end."""


class UnusableWeights(ValueError):
    """The folder holds no model that can be read; the text says why, in one sentence without a full stop."""


@dataclass(frozen=True, kw_only=True)
class StoredWeight:
    """One tensor in a safetensors file."""

    file: str
    dtype: str
    """safetensors' name of its type."""
    shape: tuple[int, ...]
    begin: int
    """Byte of the file at which it begins."""
    bytes: int


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """What a folder with a model holds."""

    config: Json
    weights: Mapping[str, StoredWeight]
    """By Hugging Face's name."""
    files: tuple[str, ...]
    """Names of the files with weights."""

    @property
    def bytes(self) -> int:
        """Of all weights."""
        return sum(weight.bytes for weight in self.weights.values())


def look_at(sizes: Mapping[str, int], read: ReadRange) -> ModelFolder:
    """The model in a folder with files of these ``sizes`` (bytes by name).

    Raises:
        UnusableWeights: a file is missing, truncated, or does not read.
    """
    config = read_config(sizes, read)
    files, placed = _files(sizes, read)
    weights: dict[str, StoredWeight] = {}
    for name in files:
        for weight, stored in _header(name, sizes, read).items():
            if weight in weights:
                raise UnusableWeights(f"{weight} is in {weights[weight].file} and in {name}")
            weights[weight] = stored
    for weight, name in placed.items():
        if weight not in weights or weights[weight].file != name:
            raise UnusableWeights(f"{SHARD_INDEX_FILE} says that {name} has {weight}, and it has not")
    return ModelFolder(config=config, weights=weights, files=files)


def read_config(sizes: Mapping[str, int], read: ReadRange) -> Json:
    """config.json.

    Raises:
        UnusableWeights: it is missing or no JSON object.
    """
    return _json(CONFIG_FILE, sizes, read, MAX_CONFIG_BYTES)


def _files(sizes: Mapping[str, int], read: ReadRange) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Names of the files with weights, and the file of each weight as far as an index says it."""
    if SHARD_INDEX_FILE not in sizes:
        if SINGLE_FILE not in sizes:
            others = [name for name in sizes if name.endswith((".bin", ".pth", ".gguf"))]
            instead = f" ({sorted(others)[0]} is another format; convert it to safetensors)" if others else ""
            raise UnusableWeights(f"there is neither {SINGLE_FILE} nor {SHARD_INDEX_FILE}{instead}")
        return (SINGLE_FILE,), {}
    placed = _json(SHARD_INDEX_FILE, sizes, read, MAX_INDEX_BYTES).get("weight_map")
    well_formed = (
        isinstance(placed, dict) and placed and all(isinstance(name, str) and FILE_NAME.fullmatch(name) for name in placed.values())
    )
    if not isinstance(placed, dict) or not well_formed:
        raise UnusableWeights(f"{SHARD_INDEX_FILE} holds no weight_map from weights to .safetensors files beside it")
    files = tuple(sorted(set(placed.values())))
    if len(files) > MAX_FILES:
        raise UnusableWeights(f"{SHARD_INDEX_FILE} names {len(files)} files, more than {MAX_FILES}")
    missing = [name for name in files if name not in sizes]
    if missing:
        raise UnusableWeights(f"{missing[0]} is missing ({len(missing)} of the {len(files)} files that {SHARD_INDEX_FILE} names)")
    return files, placed


def _json(name: str, sizes: Mapping[str, int], read: ReadRange, limit: int) -> Json:
    size = sizes.get(name)
    if size is None:
        raise UnusableWeights(f"{name} is missing")
    if size > limit:
        raise UnusableWeights(f"{name} has {size:,} bytes, and {limit:,} are the most that one has")
    try:
        content = json.loads(read(name, 0, size))
    except (ValueError, RecursionError):
        raise UnusableWeights(f"{name} is cut off or no JSON") from None
    if not isinstance(content, dict):
        raise UnusableWeights(f"{name} holds no JSON object")
    return content


def _header(name: str, sizes: Mapping[str, int], read: ReadRange) -> dict[str, StoredWeight]:
    """The weights of a file, whose size fits them."""
    size = sizes[name]
    first = read(name, 0, min(size, 8))
    length = int.from_bytes(first, "little") if len(first) == 8 else 0
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise UnusableWeights(f"{name} is no safetensors file: its first 8 bytes give a header of {length:,} bytes")
    if 8 + length > size:
        raise UnusableWeights(f"{name} is truncated: it has {size:,} bytes, and its header alone needs {8 + length:,}")
    try:
        content = json.loads(read(name, 8, length))
        entries = {key: entry for key, entry in content.items() if key != "__metadata__"}
        found = {key: _stored(name, entry, 8 + length) for key, entry in entries.items()}
    except UnusableWeights:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UnusableWeights(f"{name} is no safetensors file: its header does not read") from None
    end = max((weight.begin + weight.bytes for weight in found.values()), default=8 + length)
    if end > size:
        raise UnusableWeights(f"{name} is truncated: it has {size:,} bytes of {end:,}")
    return found


def _stored(name: str, entry: Any, data: int) -> StoredWeight:
    (begin, end), shape, dtype = entry["data_offsets"], tuple(entry["shape"]), str(entry["dtype"])
    if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)) or end < begin:
        raise ValueError("offsets")
    element = DTYPE_BYTES.get(dtype)
    if element is not None and math.prod(shape) * element != end - begin:
        raise UnusableWeights(f"{name} is no safetensors file: a weight of shape {list(shape)} ({dtype}) has {end - begin} bytes in it")
    return StoredWeight(file=name, dtype=dtype, shape=shape, begin=data + begin, bytes=end - begin)
