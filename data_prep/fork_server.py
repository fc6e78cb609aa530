"""multiprocessing's fork server, which workers are forked from: started early, with the encoder that all of them share.

Imports little, so that the server works on its own imports and the encoder's tables while the job is still importing.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from multiprocessing import forkserver, util
from pathlib import Path

LONGEST_TMPDIR = 107 - len("/pymp-12345678/listener-12345678")
FOLDER_VARIABLE = "DATA_PREP_SHARED_TOKENIZER"
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OPENBLAS_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}


def start_server(tokenizer: Path) -> None:
    """Start the process that workers are forked from, while this one goes on; one per process, later calls change nothing.

    Args:
        tokenizer: local folder of the tokenizer's files. Workers of another tokenizer load their own.
    """
    keep_sockets_short()
    given = {FOLDER_VARIABLE: str(tokenizer), **ONE_THREAD}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        modules = ["data_prep.preload", "data_prep.worker_tasks", "data_prep.preloaded"]
        multiprocessing.get_context("forkserver").set_forkserver_preload(modules)
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def keep_sockets_short() -> None:
    """The server's socket lies in a folder of its own below TMPDIR, and a socket's path has 107 bytes at most (unix(7)).

    A SageMaker job's TMPDIR is short, a job's of the embedded AWS is not.
    """
    if len(tempfile.gettempdir()) <= LONGEST_TMPDIR:
        return
    before, tempfile.tempdir = tempfile.tempdir, "/tmp"
    try:
        util.get_temp_dir()  # made once per process, and removed at its end
    finally:
        tempfile.tempdir = before
