"""What becomes of a record: every policy of the DataSpec, and where a record is, in words."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from contracts.config import kind_of
from contracts.failure import readable
from data_prep.failure_classes import CorruptSource
from data_prep.sources import Kind
from data_prep.spec import DataSpec

Reason = Literal[
    "empty", "invalid_utf8", "lone_surrogates", "too_long", "corrupt_record", "separator_in_text", "tokenizer_loss", "duplicate"
]
EXAMPLES_PER_REASON = 3
NAME_CHARACTERS = 200
"""Of an id field's value in a sentence."""
ONE_PER_LINE = "JSONL has one object per line (jq -c '.[]' turns an array into that, jq -c . a pretty-printed object)"

_SURROGATES = re.compile("[\ud800-\udfff]")


class Document(NamedTuple):
    """One accepted document."""

    text: str
    utf8: bytes
    position: int
    """Byte of its line (JSONL, after decompression), row (parquet), or 0 (text)."""
    identity: str | None
    """Value of the id field."""


@dataclass
class Skipped:
    """Counts of skipped documents, with the places of the first few."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    replaced: Counter[str] = field(default_factory=Counter)
    """Documents that a ``replace`` policy has put U+FFFD into, by the same reasons."""

    def add(self, reason: Reason, place: str) -> None:
        """Count one."""
        self.counts[reason] += 1
        known = self.examples.setdefault(reason, [])
        if len(known) < EXAMPLES_PER_REASON:
            known.append(place)


def _number(digits: str) -> int | float:
    """Python refuses to read whole numbers of more than 4,300 digits; nothing here depends on one."""
    return int(digits) if len(digits) <= 4300 else float(digits)


class Policies:
    """Applies the policies to the records of one object."""

    def __init__(self, object_uri: str, kind: Kind, spec: DataSpec, skipped: Skipped) -> None:
        self._object_uri, self._kind, self._spec, self._skipped = object_uri, kind, spec, skipped

    def place(self, position: int, identity: object = None) -> str:
        """Where a document is, in words."""
        unit = "row" if self._kind in ("parquet", "arrow") else "byte"
        named = f' ({self._spec.id_field}="{readable(str(identity)[:NAME_CHARACTERS])}")' if identity is not None else ""
        where = f" at {unit} {position}" if self._kind != "text" else ""
        return f"{self._object_uri}{where}{named}"

    def accept_bytes(self, utf8: bytes, position: int, identity: Any) -> Document | None:
        """The document that bytes hold, or None when a policy leaves it out."""
        if len(utf8) > self._spec.max_document_bytes:  # before it is decoded, which takes up to four times as much
            self._too_long(len(utf8), position, identity)
            return None
        try:
            text = utf8.decode()
        except UnicodeDecodeError as error:
            if not self.apply(
                "invalid_utf8", self._spec.invalid_utf8, position, identity, f"is no valid UTF-8 ({error.reason})", "invalid_utf8"
            ):
                return None
            text = utf8.decode(errors="replace")
        return self.accept(text, position, identity)

    def accept(self, text: Any, position: int, identity: Any) -> Document | None:
        """The document that a field's value is, or None when a policy leaves it out."""
        if text is None or (type(text) is str and (not text or text.isspace())):
            self.apply("empty", self._spec.empty_documents, position, identity, "holds no text", "empty_documents")
            return None
        if type(text) is not str:
            self.corrupt(position, f'has a field "{self._spec.text_field}" that is no text but {kind_of(text)}', identity)
            return None
        try:
            utf8 = text.encode()
        except UnicodeEncodeError:
            what = "holds a lone surrogate, which no UTF-8 can"
            if not self.apply("lone_surrogates", self._spec.lone_surrogates, position, identity, what, "lone_surrogates"):
                return None
            text = _SURROGATES.sub("\ufffd", text)
            utf8 = text.encode()
        if len(utf8) > self._spec.max_document_bytes:
            self._too_long(len(utf8), position, identity)
            return None
        return Document(text, utf8, position, None if identity is None else str(identity))

    def _too_long(self, size: int, position: int, identity: Any) -> None:
        what = f"has {size} bytes, more than max_document_bytes={self._spec.max_document_bytes}"
        self.apply("too_long", self._spec.long_documents, position, identity, what, "long_documents")

    def parse_slowly(self, line: bytes, offset: int) -> Any:
        """Parse what orjson refuses and a policy may allow: invalid UTF-8, escaped lone surrogates, NaN."""
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            if not self.apply("invalid_utf8", self._spec.invalid_utf8, offset, None, f"is no valid UTF-8 ({error.reason})", "invalid_utf8"):
                return None
            text = line.decode(errors="replace")
        try:
            return json.loads(text, parse_int=_number)
        except (ValueError, RecursionError) as error:
            whole = line.strip() in (b"{", b"[", b"[{") or line.lstrip()[:1] == b"["
            self.corrupt(offset, f"is no JSON ({error})" + (f"; {ONE_PER_LINE}" if whole else ""))
            return None

    def apply(self, reason: Reason, policy: str, position: int, identity: Any, what: str, setting: str) -> bool:
        """Raise (fail), count (skip: False) or go on with a replacement (True)."""
        if policy == "fail":
            choices = '"skip" or "replace"' if setting in ("invalid_utf8", "lone_surrogates") else '"skip"'
            raise CorruptSource(f"{self.place(position, identity)} {what}; repair it, or set data.{setting} to {choices}")
        if policy == "replace":
            self._skipped.replaced[reason] += 1
            return True
        self._skipped.add(reason, self.place(position, identity))
        return False

    def corrupt(self, position: int, what: str, identity: Any = None) -> None:
        """A record that is none: stop, or count it."""
        self.apply("corrupt_record", self._spec.corrupt_records, position, identity, what, "corrupt_records")

    def damaged(self, what: str) -> CorruptSource:
        """The failure for an object that does not read."""
        return CorruptSource(f"{self._object_uri} {what}; upload it again, or leave it out with data.include")
