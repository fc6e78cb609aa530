"""JSONata as Step Functions evaluates it: its own functions added, undefined results refused, every evaluation kept.

The kept evaluations are replayed in the reference implementation (npm jsonata), so that a difference between the
Python port and the original shows.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jsonata
from jsonata.utils import Utils

Json = Any
OPEN, CLOSE = "{%", "%}"

# Functions that Step Functions adds to JSONata; $eval is taken away.
# https://docs.aws.amazon.com/step-functions/latest/dg/transforming-data.html
HASHES = {"MD5": "md5", "SHA-1": "sha1", "SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512"}
VOLATILE = ("$now(", "$millis(", "$random(", "$uuid(")
"""What gives another result each time; such expressions are not compared with the reference."""


class QueryError(Exception):
    """What Step Functions reports as States.QueryEvaluationError."""


@dataclass(frozen=True)
class Evaluation:
    """One expression with what it saw and gave."""

    where: str
    expression: str
    states: Json
    variables: Json
    result: Json


@dataclass
class Queries:
    """Evaluates the values of a state machine's fields."""

    random: random.Random = field(default_factory=lambda: random.Random(0))
    evaluations: list[Evaluation] = field(default_factory=list)

    def value(self, node: Json, states: Json, variables: Mapping[str, Json], where: str) -> Json:
        """``node`` with every JSONata string in it evaluated.

        Raises:
            QueryError: an expression fails, is undefined, or gives something that is no JSON.
        """
        if isinstance(node, dict):
            return {key: self.value(item, states, variables, f"{where}.{key}") for key, item in node.items()}
        if isinstance(node, list):
            return [self.value(item, states, variables, f"{where}[{index}]") for index, item in enumerate(node)]
        if not isinstance(node, str) or OPEN not in node:
            return node
        expression = expression_of(node, where)
        try:
            result = _compiled(expression).evaluate(None, self._bindings(states, variables))
        except Exception as error:  # the port raises its own and Python's errors
            raise QueryError(f"The JSONata expression '{expression}' at {where} failed: {error}") from error
        plain = _plain(result, expression, where)
        self.evaluations.append(Evaluation(where, expression, _copy(states, None), _copy(dict(variables), None), plain))
        return plain

    def _bindings(self, states: Json, variables: Mapping[str, Json]) -> dict[str, Any]:
        functions: dict[str, Callable[..., Any]] = {
            "partition": lambda array, size: [array[i : i + int(size)] for i in range(0, len(array), int(size))],
            "range": lambda first, last, step: list(range(int(first), int(last) + (1 if step > 0 else -1), int(step))),
            "hash": lambda text, algorithm: hashlib.new(HASHES[algorithm], text.encode()).hexdigest(),
            "random": lambda seed=None: (self.random if seed is None else random.Random(seed)).random(),
            "uuid": lambda: str(uuid.UUID(int=self.random.getrandbits(128), version=4)),
            "parse": lambda text: _copy(json.loads(text), Utils.NULL_VALUE),
        }
        wrapped = {name: jsonata.Jsonata.JLambda(function) for name, function in functions.items()}
        return {**wrapped, "eval": None, "states": _copy(states, Utils.NULL_VALUE), **_copy(dict(variables), Utils.NULL_VALUE)}


def expression_of(node: str, where: str) -> str:
    """The JSONata inside ``{% ... %}``; the delimiters must span the whole string."""
    if not (node.startswith(OPEN) and node.endswith(CLOSE)):
        raise QueryError(f"{where}: {node!r} holds {OPEN} inside a longer string; the delimiters must span all of it")
    return node[len(OPEN) : -len(CLOSE)].strip()


@lru_cache(maxsize=4096)
def _compiled(expression: str) -> jsonata.Jsonata:
    compiled = jsonata.Jsonata(expression)
    compiled.set_output_convert_nulls(False)
    return compiled


def _copy(node: Json, null: Any) -> Any:
    """A deep copy with the port's own value for null (Python's None means undefined to it), or back."""
    if isinstance(node, dict):
        return {key: _copy(value, null) for key, value in node.items()}
    if isinstance(node, list):
        return [_copy(value, null) for value in node]
    return null if node is None or node is Utils.NULL_VALUE else node


def _plain(result: Any, expression: str, where: str) -> Json:
    """The result as JSON; undefined is an error."""
    if result is None:
        raise QueryError(f"The JSONata expression '{expression}' specified for the field '{where}' returned nothing (undefined).")
    try:
        return _json(result)
    except TypeError as error:
        raise QueryError(f"The JSONata expression '{expression}' at {where} gave {error}") from None


def _json(value: Any) -> Json:
    if value is None or value is Utils.NULL_VALUE:
        return None
    if isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"the number {value}")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    raise TypeError(f"a {type(value).__name__}, which is no JSON value")
