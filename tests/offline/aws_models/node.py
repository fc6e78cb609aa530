"""Calls tools.mjs: npm checkers as a subprocess (iam-simulate is AGPL: a development tool, never imported or bundled)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

Json = Any
SCRIPT = Path(__file__).with_name("tools.mjs")
TIMEOUT_SECONDS = 300  # the whole permission matrix takes seconds; a hang should not hold up CI


def call(tool: Literal["iam", "asl", "jsonata"], cases: Sequence[Json]) -> list[Json]:
    """One result per case, in order.

    Raises:
        RuntimeError: node failed; its message is in the error.
    """
    request = json.dumps({"tool": tool, "cases": list(cases)})
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    done = subprocess.run(
        ["node", str(SCRIPT)], input=request, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=environment, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"node {SCRIPT.name} {tool} failed; `npm ci` installs what it needs: {done.stderr[-1500:]}")
    results: list[Json] = json.loads(done.stdout)
    return results
