"""The image's smoke test, ``python -m data_prep.job --check``: everything the job needs imports and works. One JSON line."""

from __future__ import annotations

import io
import json
import platform
from importlib import metadata
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import xxhash
from isal import igzip

from contracts.failure import Unexpected
from data_prep.encode import FastokensEncoder, HuggingFaceEncoder
from data_prep.spec import TokenizerTraining
from data_prep.tokenizer import train

PACKAGES = ("boto3", "fastokens", "isal", "numpy", "orjson", "pyarrow", "tokenizers", "urllib3", "xxhash")
LINE = "One line of text, tokenised by both encoders."


def check() -> str:
    """The line to print.

    Raises:
        Unexpected: something imports but does not work.
    """
    import boto3

    boto3.session.Session()
    packed = io.BytesIO(igzip.compress(orjson.dumps({"text": LINE})))
    opened: Any = igzip.IGzipFile  # isal declares no types
    with opened(fileobj=packed, mode="rb") as file:
        text = orjson.loads(file.read())["text"]
    files = train([text], TokenizerTraining(vocab_size=300))
    fast, _ = FastokensEncoder(files).encode([text])
    reference, _ = HuggingFaceEncoder(files).encode([text])
    if not np.array_equal(fast, reference) or not xxhash.xxh3_128_hexdigest(fast.tobytes()) or not pa.Codec.is_available("zstd"):
        raise Unexpected(
            "fastokens and Hugging Face tokenizers differ on one line of text, or arrow lacks zstd; rebuild the image from its lock"
        )
    versions = {name: metadata.version(name) for name in PACKAGES}
    return json.dumps({"check": "data_prep", "python": platform.python_version(), "packages": versions})
