"""Enters the layers of a built image as a container does. Standard library only; needs namespaces and root.

/                the layers, read-only, one over the other (overlay); nothing is copied
/tmp /root /run  empty, in memory
/dev /sys        this machine's
/proc            of the process ids that the caller has (its own namespace or this machine's)
further places   what the caller binds: /opt/ml, /etc/hosts
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from local_aws.jobs import namespaces

SCRATCH = ("tmp", "root", "run")
MACHINE = ("dev", "sys", "proc")
_MS_RDONLY = 0x1


def enter(layers: Sequence[str], stage: Path, binds: Mapping[str, Path]) -> None:
    """Make ``layers`` (top first) this process's file system. The caller has a mount namespace with private mounts.

    ``stage`` is an empty folder to work in; ``binds`` maps absolute places inside to what is shown there, writable.
    Raises OSError where the kernel forbids it or a layer is gone.
    """
    places, root = stage / "places", stage / "root"
    root.mkdir()
    for name in (*SCRATCH, *MACHINE):
        (places / name).mkdir(parents=True)
    for inside, source in binds.items():
        target = places / inside.lstrip("/")
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
    # the places lie over the image, so that every mount point exists whatever the image holds
    namespaces.mount("overlay", root, "overlay", _MS_RDONLY, "lowerdir=" + ":".join([str(places), *layers]))
    for name in SCRATCH:
        namespaces.mount("none", root / name, "tmpfs")
    for name in MACHINE:
        namespaces.bind(Path("/") / name, root / name, recursive=True)
    for inside, source in binds.items():
        namespaces.bind(source, root / inside.lstrip("/"), recursive=True)
    os.chroot(root)
    os.chdir("/")
