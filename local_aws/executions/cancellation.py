"""Scopes of an execution that are cancelled together with everything inside them."""

from __future__ import annotations

import threading
import time


class Scope:
    """Work that can be cancelled as a whole: an execution, a Map, a task with a time limit. Cancelling reaches inner scopes."""

    def __init__(self, parent: Scope | None) -> None:
        self._event, self._parent = threading.Event(), parent
        self.first_error: Exception | None = None

    def cancel(self, error: Exception | None = None) -> None:
        """Cancel; the first error is kept."""
        if not self._event.is_set():
            self.first_error = error
            self._event.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether this scope or an outer one was cancelled."""
        return self._event.is_set() or (self._parent is not None and self._parent.is_cancelled)

    def sleep(self, seconds: float) -> None:
        """Wait; a cancellation ends the wait."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self.is_cancelled:
            self._event.wait(min(left, 0.2))  # outer scopes are checked between two waits
