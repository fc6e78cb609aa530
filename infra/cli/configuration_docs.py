"""docs/configuration.md, written from the types: every setting with its type, limits, default and meaning.

python -m infra.cli.configuration_docs docs/configuration.md
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from contracts.config import Bounds, Pattern, field_docs, to_json, type_hints
from data_prep.spec import DataSpec
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


def _rows(cls: type, path: str) -> typing.Iterator[tuple[str, str, str, str]]:
    docs, hints = field_docs(cls), type_hints(cls)
    for field in dataclasses.fields(cls):
        name = f"{path}.{field.name}" if path else field.name
        inner = _dataclass_of(hints[field.name])
        if inner is not None and field.name not in OPEN:
            yield name, _type(hints[field.name]), _default(field), _cell(docs.get(field.name, ""))
            many = get_origin(_plain(hints[field.name])) is tuple
            yield from _rows(inner, f"{name}[]" if many else name)
        else:
            yield name, _type(hints[field.name]), _default(field), _cell(docs.get(field.name, ""))


def _plain(annotation: Any) -> Any:
    """Without ``Annotated`` and ``| None``."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next(option for option in get_args(annotation) if option is not type(None))
        return _plain(annotation)
    return annotation


def _dataclass_of(annotation: Any) -> type | None:
    plain = _plain(annotation)
    if get_origin(plain) is tuple:
        plain = _plain(get_args(plain)[0])
    return plain if isinstance(plain, type) and dataclasses.is_dataclass(plain) else None


def _type(annotation: Any) -> str:
    limits: tuple[object, ...] = ()
    nullable = False
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            limits += tuple(more)
        elif get_origin(annotation) in (typing.Union, types.UnionType):
            nullable = True
            annotation = next(option for option in get_args(annotation) if option is not type(None))
        else:
            break
    name = _type_name(annotation)
    said = ", ".join(filter(None, (_limit(limit, annotation) for limit in limits)))
    return _cell(name + (f" ({said})" if said else "") + (" or null" if nullable else ""))


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"list of {_type_name(_plain(get_args(annotation)[0]))}"
    names = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    return names.get(annotation, "object")


def _limit(limit: object, annotation: Any) -> str:
    if isinstance(limit, Pattern):
        return limit.meaning
    if isinstance(limit, Bounds):
        what = "length " if annotation is str or get_origin(annotation) is tuple else ""
        low, high = (None if bound is None else f"{bound:,.10g}" for bound in (limit.low, limit.high))
        return what + (f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}")
    return ""


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
