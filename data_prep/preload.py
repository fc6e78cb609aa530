"""Imported by the workers' fork server before any worker exists: loads the encoder that all of them share.

The folder of the tokenizer's files comes in an environment variable, since a fork server takes names of modules and nothing
else. Where the variable is absent (every other process) importing this does nothing.
"""

from __future__ import annotations

import functools
import gc
import os
from pathlib import Path

from data_prep.encode import Encoder, FastokensEncoder
from data_prep.tokenizer import TokenizerFiles

FOLDER_VARIABLE = "DATA_PREP_SHARED_TOKENIZER"


def _load() -> tuple[TokenizerFiles, Encoder] | None:
    folder = os.environ.pop(FOLDER_VARIABLE, None)
    if folder is None:
        return None
    try:
        files = TokenizerFiles.read(Path(folder))
        encoder = FastokensEncoder(files)
    except Exception:  # the process that needs the encoder loads it again and reports the error
        return None
    gc.freeze()  # no collection of a worker's touches, and so copies, what was loaded here
    return files, encoder


_shared = _load()


@functools.lru_cache(maxsize=1)
def fast_encoder(files: TokenizerFiles) -> Encoder:
    """The fork server's encoder in a process that was forked from it, if the tokenizer is that one; else an own one."""
    if _shared is not None and _shared[0] == files:
        return _shared[1]
    return FastokensEncoder(files)
