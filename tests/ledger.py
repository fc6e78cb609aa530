"""Figures and tables that the offline checks collect, for the summary and the last line of `make check-infra` and `make test`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

FIGURES = ("states", "branches", "errors", "calls", "allowed", "denied", "findings")


@dataclass
class Ledger:
    """What the tests found out."""

    figures: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)

    def add(self, other: dict[str, dict[str, Any]]) -> None:
        """Take in the ledger of another process, as ``dataclasses.asdict`` gives it."""
        self.figures |= other["figures"]
        self.tables |= other["tables"]

    def line(self) -> str | None:
        """The JSON line, or None while a figure is missing (a part of the proof did not run, or failed before it)."""
        if any(name not in self.figures for name in FIGURES):
            return None
        return json.dumps({name: self.figures[name] for name in FIGURES})


LEDGER = Ledger()
