"""Execution inputs that nobody means, from a seed: none of them is a run that could start.

Texts of JSON and of almost JSON: extreme numbers, depths and lengths, characters that UTF-8 or people cannot read, wrong
types at every path of a valid input, unknown and duplicate keys.
"""

from __future__ import annotations

import copy
import json
import random
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import botocore.exceptions

LIMIT_BYTES = 262_144
PATIENCE_SECONDS = 120.0
"""An input ends within 5 s where nothing else runs; this tells a hang from two cores shared with much else."""
NOWHERE = "source/nothing/"
VALID: dict[str, Any] = {
    "recipe": "local",
    "run_id": "odd",
    "data": {"source": NOWHERE, "include": ["*.jsonl"], "shard_tokens": 50_000, "tokenizer": {"vocabulary_size": 1000}},
    "training": {"steps": 10, "learning_rate": 0.001, "seed": 1, "schedule": {"warmup_steps": 2, "decay": "cosine"}},
    "compute": {"instance_type": "ml.c7i.large", "instance_count": 1, "capacity": [{"kind": "spot"}, {}], "max_attempts": 3},
    "budget": {"max_usd": 10.0},
    "legs": [{"name": "a", "training": {"seed": 2}}, {"name": "b"}],
    "schedule": {"name": "nightly", "time": "2026-01-01T00:00:00Z", "resume": "new"},
}
ODD_TEXT = (
    *("", " ", "\x00", "\x1b[31mred", "a\nb", "\u202edlrow", "\ufeff", "\ud800", "x\udfff", "\U0001f600" * 50, "../../etc/passwd"),
    *("a" * 5000, "<aws.scheduler.scheduled-time>", "{% $states %}", "${jndi:ldap://x}", "<script>", "%s%n", "s3://", "s3:///x", "hf://"),
    *("hf://a/b@c", "NaN", "null", "2026-13-45T99:99:99Z", "'; drop table runs", "é" * 300, "-" * 80),
)
ODD_NUMBERS = (
    *(0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**20, 10**300, 10**4200, -(10**4200)),
    *(0.5, -0.0, 1e-320, 1e308, -1e308, float(2**60), 1e22),
)


def odd_inputs(count: int, seed: int = 0) -> Iterator[str]:
    """``count`` texts, the same for the same seed; every kind comes up in the first dozen."""
    chance = random.Random(seed)
    kinds = (_replaced, _whole_numbers, _nested, _texts, _extra_keys, _no_json, _sized, _duplicated, _junk, _replaced, _replaced, _replaced)
    for number in range(count):
        yield kinds[number % len(kinds)](chance)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _paths(item, (*path, key))


def _put(path: tuple[Any, ...], value: Any) -> Any:
    """A valid input with one value replaced; its source still leads nowhere."""
    if not path:
        return value
    whole = copy.deepcopy(VALID)
    at: Any = whole
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    if isinstance(whole["data"], dict) and path != ("data", "source"):
        whole["data"]["source"] = NOWHERE
    return whole


def _somewhere(chance: random.Random, value: Any) -> Any:
    return _put(chance.choice(list(_paths(VALID))[1:]), value)


def _scalar(chance: random.Random) -> Any:
    return chance.choice((None, True, False, chance.choice(ODD_TEXT), chance.choice(ODD_NUMBERS)))


def _value(chance: random.Random, depth: int = 3) -> Any:
    kind = chance.randrange(4) if depth else 0
    if kind == 2:
        return [_value(chance, depth - 1) for _ in range(chance.randrange(4))]
    if kind == 3:
        return {chance.choice(("source", "steps", "name", "x", "", "\ud83d", "a.b")): _value(chance, depth - 1) for _ in range(3)}
    return _scalar(chance)


def _dumped(value: Any) -> str:
    return json.dumps(value)


def _replaced(chance: random.Random) -> str:
    return _dumped(_somewhere(chance, _value(chance)))


def _whole_numbers(chance: random.Random) -> str:
    digits = chance.choice((20, 400, 4299, 4301, 5000, 60_000))
    mark = "0.0000000123"
    number = chance.choice(("-", "")) + "7" * digits + chance.choice(("", ".5", "e5", "e400"))
    return _dumped(_somewhere(chance, float(mark))).replace(json.dumps(float(mark)), number)


def _nested(chance: random.Random) -> str:
    depth = chance.choice((50, 200, 333, 500, 900, 960, 990, 1100, 20_000))
    open_, close = chance.choice((("[", "]"), ('{"a":', "}"), ('[{"training":', "}]")))
    deep = open_ * depth + "1" + close * depth
    return chance.choice((deep, _dumped(_somewhere(chance, "@")).replace('"@"', deep)))


def _texts(chance: random.Random) -> str:
    return _dumped(_somewhere(chance, chance.choice(ODD_TEXT)))


def _extra_keys(chance: random.Random) -> str:
    value = copy.deepcopy(VALID)
    at = chance.choice([value, value["data"], value["training"], value["compute"], value["legs"][0], value["schedule"]])
    for _ in range(chance.choice((1, 3, 200))):
        at[chance.choice(ODD_TEXT[:-6]) + str(chance.randrange(999))] = _scalar(chance)
    return _dumped(value)


def _no_json(chance: random.Random) -> str:
    whole = _dumped(VALID)
    cut = chance.randrange(len(whole))
    return chance.choice(
        (whole[:cut], whole[:cut] + "\x00" + whole[cut:], whole + "}", "", "NaN", '{"training": {"steps": NaN}}', "\ufeff{}")
    )


def _sized(chance: random.Random) -> str:
    size = chance.choice((30_000, 100_000, LIMIT_BYTES - 600, LIMIT_BYTES, LIMIT_BYTES + 1))
    letter = chance.choice(("a", "é"))
    text = _dumped(_somewhere(chance, "@"))
    return text.replace('"@"', '"' + letter * ((size - len(text) - 2) // len(letter.encode())) + '"')


def _duplicated(chance: random.Random) -> str:
    key = chance.choice(list(VALID))
    return _dumped(VALID)[:-1] + f", {json.dumps(key)}: {_dumped(_value(chance, 1))}" + "}"


def _junk(chance: random.Random) -> str:
    return _dumped(chance.choice((_scalar(chance), [_value(chance)], {"run_id": _value(chance, 1), "data": {"source": NOWHERE}})))


@dataclass(frozen=True, kw_only=True)
class EndOf:
    """How one input ended."""

    text: str
    status: str
    """The execution's status; ``refused`` when StartExecution refused the input; ``RUNNING`` after ``PATIENCE_SECONDS``."""
    error: str = ""
    cause: str = ""
    seconds: float = 0.0
    """The execution's own, from its start to its end."""

    @property
    def good(self) -> bool:
        """It ended, with an error that has a name and a sentence for people."""
        sentence = self.cause.isprintable() and bool(self.cause)
        if self.status == "refused":
            return self.error in ("InvalidExecutionInput", "ValidationException")
        if self.status != "FAILED" or not sentence:
            return False
        if self.error == "Refused":
            return self.cause.startswith("Refused (stop): ")
        unreadable = self.error == "States.Runtime" and "input cannot be read" in self.cause
        return unreadable or self.error == "States.DataLimitExceeded"

    def __str__(self) -> str:
        return f"{self.text[:200]!r} ({len(self.text)} characters): {self.status} {self.error} {self.cause[:300]!r}"


def outcomes(steps: Any, machine: str, texts: Iterable[str], at_once: int = 4) -> list[EndOf]:
    """Start an execution with each text as its input, a few at once, and see how it ends."""

    def outcome(text: str) -> EndOf:
        try:
            execution = steps.start_execution(stateMachineArn=machine, name=f"test-{uuid.uuid4().hex[:12]}", input=text)["executionArn"]
        except botocore.exceptions.ClientError as refusal:
            return EndOf(text=text, status="refused", error=refusal.response["Error"]["Code"], cause=refusal.response["Error"]["Message"])
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            shown = steps.describe_execution(executionArn=execution)
            if shown["status"] != "RUNNING":
                seconds = (shown["stopDate"] - shown["startDate"]).total_seconds()
                return EndOf(text=text, status=shown["status"], error=shown.get("error", ""), cause=shown.get("cause", ""), seconds=seconds)
            time.sleep(0.05)
        return EndOf(text=text, status="RUNNING", seconds=PATIENCE_SECONDS)

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(outcome, texts))
