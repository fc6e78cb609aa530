"""One JSON object a line on standard output, which Lambda sends to CloudWatch Logs: what was decided, with run, execution and stage.

aws-lambda-powertools' Logger does this and more, in a megabyte that would have to be packed into the zip (docs/decisions.md).
"""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from contracts.config import Json

_LOGGER = logging.getLogger("pretrain.function")
_fields: ContextVar[Json | None] = ContextVar("fields", default=None)


class JsonLines(logging.Handler):
    """Prints records as JSON. Printed, not written to a stream kept from start-up: Lambda and tests replace ``sys.stdout``."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line for one record; a traceback is a field, so that CloudWatch keeps it in the same event."""
        line: Json = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "message": record.getMessage(),
            **(_fields.get() or {}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = logging.Formatter().formatException(record.exc_info)
        print(json.dumps(line, default=str), flush=True)


def info(message: str, **fields: Any) -> None:
    """What the function decided or did."""
    _write(logging.INFO, message, fields)


def warning(message: str, **fields: Any) -> None:
    """What somebody must do something about, although nothing is broken: a refused input."""
    _write(logging.WARNING, message, fields)


def exception(message: str, **fields: Any) -> None:
    """The error that is being handled, with its traceback. Only the edge calls it, so that each is logged once."""
    _write(logging.ERROR, message, fields, traceback=True)


def about(**fields: Any) -> None:
    """Add fields to every further line of this invocation: what its event did not hold."""
    current = _fields.get()
    if current is not None:
        current.update(fields)


@contextmanager
def invocation(**fields: Any) -> Iterator[None]:
    """Every line inside carries ``fields``; those that are None are left out."""
    token = _fields.set({key: value for key, value in fields.items() if value is not None})
    try:
        yield
    finally:
        _fields.reset(token)


def _write(level: int, message: str, fields: Json, *, traceback: bool = False) -> None:
    if not _LOGGER.handlers:
        _LOGGER.addHandler(JsonLines())
        _LOGGER.setLevel(logging.INFO)
        _LOGGER.propagate = False  # Lambda's own handler on the root logger would print every line again
    _LOGGER.log(level, message, extra={"fields": fields}, exc_info=traceback)
