"""CUDA's forward-compatibility libraries, for hosts whose driver is older than the image's CUDA. Pure but for two reads.

AWS's images hold a newer user-mode driver in /usr/local/cuda/compat; their entrypoint, which our own replaces, puts it on
the loader path when the host's driver is older.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

COMPAT = Path("/usr/local/cuda/compat")
HOST_DRIVER = Path("/proc/driver/nvidia/version")


def driver_version(text: str) -> tuple[int, ...] | None:
    """The version in ``libcuda.so.595.58.03`` or in /proc/driver/nvidia/version."""
    found = re.search(r"(?:libcuda\.so\.|Kernel Module(?: for \S+)?\s+)(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else None


def needs_compat(compat_library: str, host_driver: str) -> bool:
    """Whether the host's driver is older than the compatibility library."""
    library, host = driver_version(compat_library), driver_version(host_driver)
    return library is not None and host is not None and host < library


def compat_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``LD_LIBRARY_PATH`` with the compatibility folder in front where the host needs it, else nothing."""
    library = COMPAT / "libcuda.so.1"
    if not library.exists() or not HOST_DRIVER.exists():
        return {}
    if not needs_compat(library.resolve().name, HOST_DRIVER.read_text()):
        return {}
    return {"LD_LIBRARY_PATH": f"{COMPAT}:{environment.get('LD_LIBRARY_PATH', '')}"}
