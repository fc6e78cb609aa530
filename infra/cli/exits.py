"""Exit codes, and the exception that ends a command early with a sentence and a code."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes for scripts."""

    DONE = 0
    """It worked; for watch and start --watch: the run succeeded."""
    FAILED = 1
    """The run failed, or a check is red."""
    USAGE = 2
    """The command line itself is wrong."""
    REFUSED = 3
    """The input cannot work; every problem is listed."""
    NOT_FOUND = 4
    """No such deployment, run, file or log."""
    UNREACHABLE = 5
    """AWS or the embedded AWS does not answer, or refuses the credentials."""
    INTERRUPTED = 130
    """Ctrl-C."""


class CommandError(Exception):
    """Ends a command with one sentence for the person and an exit code for the script."""

    def __init__(self, sentence: str, code: Exit = Exit.FAILED) -> None:
        self.sentence = sentence
        self.code = code
        super().__init__(sentence)
