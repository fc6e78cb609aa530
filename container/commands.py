"""How a build runs a command: shown while it runs, its last lines kept. Standard library only, like build.py."""

from __future__ import annotations

import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Finished:
    """A command that ended: exit status and the last lines of what it wrote."""

    code: int
    lines: Sequence[str]


Run = Callable[[Sequence[str], str], Finished]
"""Runs a command with a text on its standard input; shows and returns its output."""


def run_command(command: Sequence[str], text: str = "") -> Finished:
    """Run ``command``, print its output line by line, and keep the last 400 lines."""
    print("+", " ".join(command), flush=True)
    tail: deque[str] = deque(maxlen=400)
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdin and process.stdout
    process.stdin.write(text)
    process.stdin.close()
    for line in process.stdout:
        tail.append(line.rstrip("\n"))
        # the registry password must never reach the log
        print("(hidden)" if "get-login-password" in command else tail[-1], flush=True)
    return Finished(process.wait(), tail)
