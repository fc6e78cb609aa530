"""TensorBoard's event files, of the same values as metrics.jsonl. When they cannot be written, training goes on without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch.utils.tensorboard import SummaryWriter
from torchtitan.tools.logging import logger

FLUSH_SECONDS = 10


class EventFiles:
    """One attempt's. A resumed attempt's readers forget what an earlier one wrote from its first step on (``purge_step``)."""

    def __init__(self, folder: str, first_step: int) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._try(lambda: self._open(first_step))

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        """The values of one step that are known."""
        if self._writer is not None:
            self._try(lambda: self._add(step, values))

    def close(self) -> None:
        """Write what is waiting."""
        if self._writer is not None:
            self._try(self._writer.close)

    def _add(self, step: int, values: Mapping[str, float | None]) -> None:
        for name, value in values.items():
            if value is not None and self._writer is not None:
                self._writer.add_scalar(name, value, step)

    def _open(self, first_step: int) -> None:
        self._writer = SummaryWriter(self._folder, purge_step=first_step, flush_secs=FLUSH_SECONDS)

    def _try(self, part: Callable[[], object]) -> None:
        """tensorboard writes in a thread of its own and raises the thread's error (a full disk) at the next call."""
        try:
            part()
        except Exception as error:
            self._writer = None
            logger.warning(f"TensorBoard gets no more values ({type(error).__name__}: {error}); metrics.jsonl has all of them")
