"""Lines of a CSV or TSV file to rows, quoted as RFC 4180 says: fields may hold line ends. Pure.

A damaged row costs its first line only: the lines after it are read again, since an unclosed quote would otherwise take whole rows
with it, up to the next quote or the end of the file. Memory: ``most_bytes`` of lines, and the fields that they make.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from data_prep.sources import Kind

DELIMITERS: dict[Kind, str] = {"csv": ",", "tsv": "\t"}

Line = tuple[int, bytes | None]
"""Offset and content, without its end; None for one that is too long to hold."""


class TableRow(NamedTuple):
    """A row, or what stands in its place."""

    at: int
    """Offset of its first line."""
    fields: list[str]
    """What is no UTF-8 as lone surrogates (``surrogateescape``)."""
    damage: str | None = None
    """Why it is no row."""


def table_rows(lines: Iterator[Line], kind: Kind, most_bytes: int) -> Iterator[TableRow]:
    """Rows in order, empty lines left out."""
    csv.field_size_limit(most_bytes)
    feed = _Feed(lines, most_bytes)
    # Strict, since a quote that nobody closes would otherwise make text of the rest of the file.
    reader = csv.reader(feed, delimiter=DELIMITERS[kind], strict=True)
    while True:
        feed.begin()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield TableRow(feed.row[0][0], [], f"is no {kind.upper()} row ({error})")
            feed.read_again_after_first()
            continue
        if fields:
            yield TableRow(feed.row[0][0], fields)


class _Feed:
    """Hands lines to csv.reader. No generator: one that has raised ends, and the rest of the file with it."""

    def __init__(self, lines: Iterator[Line], most_bytes: int) -> None:
        self._lines, self._most = lines, most_bytes
        self._again: deque[Line] = deque()
        self.row: list[Line] = []
        """Lines of the row in work."""
        self._bytes = 0

    def begin(self) -> None:
        """The next line begins a row."""
        self.row, self._bytes = [], 0

    def read_again_after_first(self) -> None:
        """Give back all lines of the row but its first."""
        self._again.extendleft(reversed(self.row[1:]))

    def __iter__(self) -> Iterator[str]:
        """Itself."""
        return self

    def __next__(self) -> str:
        """The next line as text, with its end."""
        at, line = self._again.popleft() if self._again else next(self._lines)
        self.row.append((at, line))
        if line is None:
            raise csv.Error(f"a line of more than max_line_bytes={self._most}")
        self._bytes += len(line) + 1
        if self._bytes > self._most + 1:
            raise csv.Error(f"lines of more than max_line_bytes={self._most} together; is a quote not closed?")
        return line.decode(errors="surrogateescape") + "\n"
