"""CUDA's forward-compatibility libraries: chosen by a probe of the driver, with and without them.

AWS's images hold a newer user-mode driver in /usr/local/cuda/compat; their entrypoint, which our own replaces, puts it on
the loader path when the host's driver is older. Version numbers alone decide badly: a compatibility library supports some
older kernel drivers and refuses others, so each choice is tried, in a process of its own, because a process keeps the
first libcuda that it loads.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.failure_classes import DriverTooOld

COMPAT = Path("/usr/local/cuda/compat")
HOST_DRIVER = Path("/proc/driver/nvidia/version")
RUNTIME_PACKAGE = "nvidia-cuda-runtime"
PROBE_SECONDS = 120  # cuInit takes about a second per GPU on a host that has just started
# cuInit's result and the CUDA version that the loaded driver supports (1000 x major + 10 x minor).
PROBE = """
import ctypes
library = ctypes.CDLL("libcuda.so.1")
version = ctypes.c_int(0)
print(library.cuInit(0), library.cuDriverGetVersion(ctypes.byref(version)) or version.value)
"""


@dataclass(frozen=True)
class Probed:
    """What the driver answered."""

    result: int | None
    """cuInit's: 0 is success; None when the library could not be loaded."""
    cuda: int = 0
    """Newest CUDA that the driver supports, 1000 x major + 10 x minor."""

    def supports(self, cuda: int) -> bool:
        """Whether devices come up and programs of this CUDA version run."""
        return self.result == 0 and self.cuda >= cuda


Probe = Callable[[Mapping[str, str]], Probed]
"""Loads libcuda in a new process with this environment and asks it."""


def probe_driver(environment: Mapping[str, str]) -> Probed:
    """cuInit and cuDriverGetVersion of the libcuda.so.1 that a process with ``environment`` finds."""
    command = [sys.executable, "-c", PROBE]
    try:
        done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, timeout=PROBE_SECONDS, check=True)
        result, cuda = (int(word) for word in done.stdout.split())
    except (subprocess.SubprocessError, ValueError):
        return Probed(None)
    return Probed(result, cuda)


def runtime_cuda() -> int | None:
    """Oldest driver's CUDA that the installed runtime runs on: its major version (CUDA's minor-version compatibility)."""
    try:
        return 1000 * int(importlib.metadata.version(RUNTIME_PACKAGE).split(".")[0])
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None


def driver_version(text: str) -> str | None:
    """The version in ``libcuda.so.595.58.03`` or in /proc/driver/nvidia/version."""
    found = re.search(r"(?:libcuda\.so\.|Kernel Module(?: for \S+)?\s+)(\d+(?:\.\d+)+)", text)
    return found[1] if found else None


def compat_environment(environment: Mapping[str, str], probe: Probe = probe_driver) -> dict[str, str]:
    """``LD_LIBRARY_PATH`` with the compatibility folder in front where only that makes the devices usable, else nothing.

    Raises:
        DriverTooOld: neither the host's driver nor the compatibility library serves the CUDA runtime.
    """
    library, needed = COMPAT / "libcuda.so.1", runtime_cuda()
    if needed is None or not library.exists() or not HOST_DRIVER.exists():
        return {}
    own = probe(environment)
    if own.supports(needed):
        return {}
    changed = {"LD_LIBRARY_PATH": ":".join(filter(None, (str(COMPAT), environment.get("LD_LIBRARY_PATH"))))}
    compat = probe({**environment, **changed})
    if compat.supports(needed):
        return changed
    raise DriverTooOld(
        f"the image's CUDA {needed // 1000} needs a newer driver: the host's, {driver_version(HOST_DRIVER.read_text())}, answered "
        f"{_said(own)}, and with the compatibility library {driver_version(library.resolve().name)} {_said(compat)}; use an instance type "
        "with a newer driver, or a base image whose compatibility library supports this one (setting training_base_image)"
    )


def _said(probed: Probed) -> str:
    if probed.result is None:
        return "nothing (libcuda could not be loaded)"
    return f"cuInit {probed.result}, CUDA {probed.cuda // 1000}.{probed.cuda % 1000 // 10}"
