"""Smoke test of an evaluate image, run during the image build: imports and versions."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys

from training.evaluation.tasks import PACKAGES


def smoke_test(device: str) -> int:
    """Print one JSON line and return 0, or one sentence on stderr and return 1."""
    try:
        import torch
        from lm_eval.models.huggingface import HFLM  # noqa: F401  the widest import of the job

        from training.evaluation import evaluate  # noqa: F401
    except (ImportError, OSError) as error:
        print(f"This image cannot evaluate: an import fails: {error}", file=sys.stderr)
        return 1
    if device == "cuda" and torch.version.cuda is None:
        print("This image cannot evaluate on cuda: torch was built without CUDA", file=sys.stderr)
        return 1
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    print(json.dumps({"check": "evaluate", "device": device, "python": platform.python_version(), "packages": packages}))
    return 0
