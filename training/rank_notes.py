"""Failure notes of the ranks of a host: one JSON file each, from which the job picks the cause.

When one rank fails, its peers fail too, with errors of their collectives (echoes). The cause is the earliest note that is
not an echo; if all are echoes, another host failed first.
"""

from __future__ import annotations

import faulthandler
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from contracts.failure import base_dir
from training import failure_classes as classes
from training.failure_classes import CollectiveHang, DeviceFault, HostLost, JobFailure, OutOfMemory, Unexpected

_FATAL = "Fatal Python error: "  # faulthandler's first words
_ECHOES = ("HostLost", "CollectiveHang")
_LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "connection was closed",
    "remote process exited",
    "recvValue failed",
    "ncclRemoteError",
    "ncclSystemError",
    "timed out",
    "Timed out",
    "Gloo connectFullMesh",
)
"""What gloo, NCCL and the store say when the other end is gone."""
_DEVICE_FAULT = (
    "ECC error",
    "uncorrectable",
    "unspecified launch failure",
    "an illegal memory access",
    "CUDA driver",
    "misaligned address",
    "device-side assert",
    "fallen off the bus",
    "no CUDA-capable device",
)
"""What CUDA says when the device, not the program, is the likely fault."""


@dataclass(frozen=True, kw_only=True)
class Note:
    """The failure that one rank recorded."""

    rank: int
    time: float
    failure: str
    """Class name."""
    sentence: str


def leave_failure(failure: JobFailure) -> None:
    """Write this rank's note; the first one stays."""
    folder = base_dir() / "output" / "ranks"
    folder.mkdir(parents=True, exist_ok=True)
    rank = int(os.environ.get("RANK", "0"))
    note = {"rank": rank, "time": time.time(), "failure": type(failure).__name__, "sentence": failure.sentence}
    try:
        with (folder / f"rank-{rank}.json").open("x") as file:
            json.dump(note, file)
    except FileExistsError:
        return


def record_crashes(folder: Path) -> None:
    """From now on a signal that ends this rank (SIGBUS, SIGSEGV) leaves its name and the stacks in ``folder``.

    Called again when training begins: torchtitan's train() is wrapped in torch's ``record``, which sends them to stderr.
    """
    folder.mkdir(parents=True, exist_ok=True)
    faulthandler.enable((folder / f"rank-{os.environ.get('RANK', '0')}.crash").open("a"))  # faulthandler holds the file open


def read_crash(folder: Path) -> str | None:
    """What the first rank that a signal ended left: "Bus error", "Segmentation fault", ..."""
    texts = (path.read_text() for path in sorted(folder.glob("rank-*.crash"), key=lambda path: path.stat().st_mtime))
    return next((text.partition(_FATAL)[2].partition("\n")[0] for text in texts if _FATAL in text), None)


def read_notes(folder: Path) -> list[Note]:
    """All notes, earliest first."""
    notes = [Note(**json.loads(path.read_text())) for path in folder.glob("rank-*.json")]
    return sorted(notes, key=lambda note: note.time)


def cause(notes: Iterable[Note], host: str, crash: str | None = None) -> JobFailure:
    """The failure that explains the host's end. ``crash`` is the signal that ended a rank."""
    notes = list(notes)
    if crash is not None and all(note.failure in _ECHOES for note in notes):
        return _crashed(crash, host)
    if not notes:
        return HostLost(
            f"the ranks on {host} exited without a message: killed (by the host's out-of-memory killer, most often) or crashed; "
            "the log's last lines and the host's memory metric tell which"
        )
    first = next((note for note in notes if note.failure not in _ECHOES), notes[0])
    named: type[JobFailure] = getattr(classes, first.failure, Unexpected)
    return named(first.sentence)


def _crashed(signal: str, host: str) -> JobFailure:
    if signal == "Bus error":
        return DeviceFault(
            f"a rank on {host} was killed by SIGBUS: a page of shared memory could not be backed, because /dev/shm is full or the host's "
            "memory faulty. When it repeats, set training.checkpoint.async_mode=async, which stages checkpoints in ordinary memory"
        )
    return HostLost(f"a rank on {host} crashed ({signal}); its stack is in the log")


def classify(error: BaseException) -> JobFailure:
    """The failure class of any exception."""
    if isinstance(error, JobFailure):
        return error
    name, text = type(error).__name__, " ".join(str(error).split())
    short = text if len(text) <= 400 else text[:400] + "..."
    if name == "OutOfMemoryError":
        return OutOfMemory(
            f"{short} Lower training.local_batch_size, set training.activation_checkpointing=full, or shard over more devices"
        )
    if name == "NoSpaceLeft" or "No space left on device" in text:
        return classes.CheckpointUnusable(
            f"the disk is full: {short} Lower training.checkpoint.keep_latest or raise compute.volume_size_gb"
        )
    if any(sign in text for sign in _LOST_PEER):
        return HostLost(f"the connection to another rank broke ({name}: {short})")
    if any(sign in text for sign in _DEVICE_FAULT):
        return DeviceFault(f"{name}: {short}")
    if name in ("DistBackendError", "DistNetworkError"):
        return CollectiveHang(f"{name}: {short}")
    return Unexpected(f"{name}: {short}" if text else name)
