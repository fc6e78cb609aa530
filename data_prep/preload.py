"""Imported by the workers' fork server before any worker exists: loads the encoder that all of them share.

The folder of the tokenizer's files comes in an environment variable, since a fork server takes names of modules and nothing
else. Where the variable is absent (every other process) importing this does nothing. The encoder loads in a thread, without
Python's lock, while the server imports what workers need; ``data_prep.preloaded`` waits for it, so that no worker is forked before.
"""

from __future__ import annotations

import functools
import gc
import os
import threading
from pathlib import Path

from data_prep.encode import Encoder, FastokensEncoder
from data_prep.fork_server import FOLDER_VARIABLE
from data_prep.tokenizer import TokenizerFiles

_shared: tuple[TokenizerFiles, Encoder] | None = None
_loading: threading.Thread | None = None


def _load(folder: Path) -> None:
    global _shared
    try:
        files = TokenizerFiles.read(folder)
        encoder = FastokensEncoder(files)
        encoder.encode(["the first text builds the pattern's tables"])
    except Exception:  # the process that needs the encoder loads it again and reports the error
        return
    _shared = files, encoder


def _start() -> None:
    global _loading
    folder = os.environ.pop(FOLDER_VARIABLE, None)
    if folder is not None:
        _loading = threading.Thread(target=_load, args=(Path(folder),))
        _loading.start()


def finish() -> None:
    """Wait until the encoder is loaded, where this process loads one."""
    if _loading is not None:
        _loading.join()
        gc.freeze()  # no collection of a worker's touches, and so copies, what was loaded here


@functools.lru_cache(maxsize=1)
def fast_encoder(files: TokenizerFiles) -> Encoder:
    """The fork server's encoder in a process that was forked from it, if the tokenizer is that one; else an own one."""
    if _shared is not None and _shared[0] == files:
        return _shared[1]
    return FastokensEncoder(files)


_start()
