"""JSON Schema of an execution's input, for editors and docs.

python -m infra.run.input_schema > docs/run-input.schema.json
"""

from __future__ import annotations

import json

from contracts.config import Json
from contracts.config_schema import json_schema
from data_prep.spec import DataSpec
from infra.run.compute import BudgetSpec, ComputeSpec
from infra.run.recipes import RECIPES
from infra.run.run_spec import RunInput
from training.spec import TrainingSpec


def input_schema() -> Json:
    """JSON Schema of an execution's input, for editors and docs: RunInput with its sections spelled out."""
    schema = json_schema(RunInput)
    for key, cls in (("data", DataSpec), ("training", TrainingSpec), ("compute", ComputeSpec), ("budget", BudgetSpec)):
        schema["properties"][key] = _partial(json_schema(cls)) | {"description": schema["properties"][key]["description"]}
    source = schema["properties"]["data"]["properties"]["sources"]["items"]
    source["properties"] = {k: {n: v for n, v in field.items() if n != "default"} for k, field in source["properties"].items()}
    leg = schema["properties"]["legs"]["items"]["properties"]
    leg["training"] = schema["properties"]["training"]
    schema["properties"]["recipe"]["examples"] = sorted(RECIPES)
    return schema


def _partial(schema: Json) -> Json:
    """The schema with nothing required, since the recipe fills the rest."""
    out = {k: v for k, v in schema.items() if k not in ("required", "$schema", "title", "default")}
    if "properties" in out:
        out["properties"] = {k: _partial(v) if isinstance(v, dict) else v for k, v in out["properties"].items()}
    return out


if __name__ == "__main__":
    print(json.dumps(input_schema(), indent=1))
