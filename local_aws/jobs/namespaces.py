"""Linux namespaces through libc: give a local process a SageMaker container's view of the system. Standard library only.

Python 3.11 has neither ``unshare`` nor ``mount``; these are the few calls that the job supervisor needs.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the namespaces named by ``flags``. Raises OSError where the kernel forbids it."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def enter_namespaces(*, network: bool) -> None:
    """Own mounts, process ids and host name, and own (empty) network unless ``network``. The next fork is process 1.

    Root needs no user namespace; anyone else becomes root inside one.
    """
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | (0 if network else CLONE_NEWNET)
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        try:
            unshare(flags)
            return
        except PermissionError:
            pass  # root without CAP_SYS_ADMIN, as in a plain container: a user namespace may still be allowed
    unshare(flags | CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def mount(source: str | Path, target: str | Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """``mount(2)``."""
    arguments = (str(source).encode(), str(target).encode(), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None)
    _check(_libc.mount(*arguments), f"mount {source} on {target}")


def make_mounts_private() -> None:
    """Keep every later mount out of the host's view."""
    mount("none", "/", flags=_MS_REC | _MS_PRIVATE)


def bind(source: str | Path, target: str | Path, *, read_only: bool = False, recursive: bool = False) -> None:
    """Show ``source`` at ``target``."""
    mount(source, target, flags=_MS_BIND | (_MS_REC if recursive else 0))
    if read_only:
        with contextlib.suppress(PermissionError):  # a user namespace may not drop flags its mounts came with; then it stays writable
            mount(source, target, flags=_MS_BIND | _MS_REMOUNT | _MS_RDONLY)


def set_host_name(name: str) -> None:
    """The host name inside this UTS namespace."""
    socket.sethostname(name)


def raise_loopback() -> None:
    """Switch on ``lo`` in a fresh network namespace, so that hosts of one job find each other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """A signal for this process when the thread that started it ends, however it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def adopt_orphans() -> None:
    """Become the parent of every orphaned descendant, so that none escapes."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")
