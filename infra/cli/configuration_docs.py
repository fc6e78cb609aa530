"""docs/configuration.md, written from the types: every setting with its type, limits, default and meaning.

python -m infra.cli.configuration_docs docs/configuration.md
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contracts.config import Bounds, Pattern, to_json
from contracts.config_schema import field_docs
from contracts.config_shape import Shape, in_digits, shapes
from data_prep.spec import SOURCE_FIELDS, DataSpec, SourceSpec
from infra.run.compute import BudgetSpec, ComputeSpec
from infra.run.recipes import RECIPES
from infra.run.run_spec import RunInput
from infra.settings import Settings
from training.spec import TrainingSpec

SECTIONS: tuple[tuple[str, str, type, str], ...] = (
    (
        "An execution's input",
        "",
        RunInput,
        "What a person pastes into the Step Functions console, or `pretrain start` sends. Everything is optional.",
    ),
    ("data", "data", DataSpec, "Text and tokenizer. All of it but the compute settings at its end enters the data fingerprint."),
    ("training", "training", TrainingSpec, "One leg's training; each of `legs` lays its own changes over it."),
    ("compute", "compute", ComputeSpec, "What the training jobs run on."),
    ("budget", "budget", BudgetSpec, "What the run may cost."),
    (
        "Deploy-time settings",
        "",
        Settings,
        "One block of `environments` in cdk.json's context, chosen with `-c environment=NAME` or `make deploy ENVIRONMENT=NAME`.",
    ),
)
OPEN = frozenset({"data", "training", "compute", "budget"})


def document() -> str:
    """The whole file."""
    parts = [
        "# Configuration",
        "Generated from the types by `make docs`; do not edit. A run is a recipe with changes laid over it, by dotted path:\n"
        "`pretrain start llama3_8b --set training.steps=2000`, or the same as JSON. Unknown keys, wrong types and broken limits are\n"
        "refused together, each with its path. Recipes: " + ", ".join(f"`{name}`" for name in RECIPES) + " (infra/run/recipes/).",
    ]
    for title, path, cls, meaning in SECTIONS:
        rows = list(_rows(cls, path))
        table = "\n".join(f"| `{row[0]}` | {row[1]} | {row[2]} | {row[3]} |" for row in rows)
        parts.append(f"## {title}\n\n{meaning}\n\n| setting | type | default | meaning |\n|---|---|---|---|\n{table}")
    return "\n\n".join(parts) + "\n"


def _rows(cls: type, path: str) -> Iterator[tuple[str, str, str, str]]:
    docs, known = field_docs(cls), shapes(cls)
    for field in dataclasses.fields(cls):
        if issubclass(cls, SourceSpec) and field.name in SOURCE_FIELDS:
            continue  # as in data, where they are explained
        name, shape = f"{path}.{field.name}" if path else field.name, known[field.name]
        yield name, _type(shape), _default(field), _cell(docs.get(field.name, ""))
        inner = shape.item if shape.kind == "list" and shape.item is not None else shape
        if inner.kind == "object" and field.name not in OPEN:
            yield from _rows(inner.type, f"{name}[]" if shape.kind == "list" else name)


def _type(shape: Shape) -> str:
    said = ", ".join(filter(None, (_limit(limit, shape) for limit in shape.limits)))
    return _cell(_type_name(shape) + (f" ({said})" if said else "") + (" or null" if shape.nullable else ""))


def _type_name(shape: Shape) -> str:
    if shape.kind == "literal":
        return ", ".join(f"`{choice}`" for choice in shape.choices)
    if shape.kind == "list" and shape.item is not None:
        return f"list of {_type_name(shape.item)}"
    return {int: "whole number", float: "number", bool: "true or false", str: "text"}.get(shape.type, "object")


def _limit(limit: Bounds | Pattern, shape: Shape) -> str:
    if isinstance(limit, Pattern):
        return limit.meaning
    low, high = (None if bound is None else in_digits(bound) for bound in (limit.low, limit.high))
    return ("length " if shape.sized else "") + (f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}")


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = to_json(field.default)
        return "see below" if isinstance(value, dict) else _cell(f"`{_shortened(json.dumps(value))}`")
    return "required" if field.default_factory is dataclasses.MISSING else "none given"


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _cell(text: str) -> str:
    return " ".join(text.replace("``", "`").split()).replace("|", "\\|")


def main() -> None:
    """Write the file named on the command line."""
    Path(sys.argv[1]).write_text(document())


if __name__ == "__main__":
    main()
