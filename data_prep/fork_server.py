"""multiprocessing's fork server, where TMPDIR is long: a SageMaker job's own is not, a job of the embedded AWS has one."""

from __future__ import annotations

import tempfile
from multiprocessing import util

LONGEST_TMPDIR = 107 - len("/pymp-12345678/listener-12345678")


def keep_sockets_short() -> None:
    """The server's socket lies in a folder of its own below TMPDIR, and a socket's path has 107 bytes at most (unix(7))."""
    if len(tempfile.gettempdir()) <= LONGEST_TMPDIR:
        return
    before, tempfile.tempdir = tempfile.tempdir, "/tmp"
    try:
        util.get_temp_dir()  # made once per process, and removed at its end
    finally:
        tempfile.tempdir = before
