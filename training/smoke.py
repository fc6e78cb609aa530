"""Smoke test of a training image, run during the image build: imports, versions, and for CUDA the network plugin."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import json
import platform
import sys
from pathlib import Path

PLUGIN_FOLDERS = ("/opt/amazon", "/usr/local/lib", "/usr/lib", "/opt/aws-ofi-nccl")
PACKAGES = ("torch", "torchtitan", "torchao")


def smoke_test(device: str) -> int:
    """Print one JSON line and return 0, or one sentence on stderr and return 1."""
    try:
        problem, report = _look(device)
    except (ImportError, OSError) as error:
        problem, report = f"an import fails: {error}", {}
    if problem is not None:
        print(f"This image cannot train on {device}: {problem}", file=sys.stderr)
        return 1
    print(json.dumps(report))
    return 0


def _look(device: str) -> tuple[str | None, dict[str, object]]:
    import torch

    if device == "cpu":
        from training.cpu_device import select_cpu

        select_cpu()
    import torchtitan.trainer  # noqa: F401  the widest import of the job

    from training import titan_config  # noqa: F401

    report: dict[str, object] = {
        "check": "training",
        "device": device,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "nccl": _nccl_version(),
    }
    if device != "cuda":
        return None, report
    if torch.version.cuda is None:
        return "torch was built without CUDA", report
    plugin = _network_plugin()
    if plugin is None:
        return (
            f"no libnccl-net*.so (aws-ofi-nccl) on the loader path or under {', '.join(PLUGIN_FOLDERS)}: hosts would talk over TCP",
            report,
        )
    return None, report | {"network_plugin": plugin}


def _nccl_version() -> list[int] | None:
    import torch

    if not torch.distributed.is_nccl_available():
        return None
    return list(torch.cuda.nccl.version())  # type: ignore[no-untyped-call]


def _network_plugin() -> str | None:
    """Where NCCL's OFI plugin is, or None."""
    found = ctypes.util.find_library("nccl-net") or ctypes.util.find_library("nccl-net-ofi")
    if found:
        return found
    folders = (Path(folder) for folder in PLUGIN_FOLDERS)
    return next((str(path) for folder in folders if folder.is_dir() for path in sorted(folder.rglob("libnccl-net*.so*"))), None)
