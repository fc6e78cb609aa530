"""What a reader expects of a stored JSON value. What does not fit is left out and named, so that one bad value costs no more than itself.

An expectation is a :class:`Kind`, a dict of expectations by key (other keys are kept as they are), a list of one expectation for
every item, or :class:`Each` for every value of an object whose keys are free. null and a missing key always fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from contracts.metric_line import LARGEST, LAST_STEP
from infra.run.stored import in_words


@dataclass(frozen=True)
class Kind:
    """A scalar."""

    words: str
    """For a sentence."""
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Each:
    """An object with free keys, whose values are all alike."""

    value: Any


TEXT = Kind("text", lambda v: isinstance(v, str))
FLAG = Kind("true or false", lambda v: isinstance(v, bool))
NUMBER = Kind("a number", lambda v: type(v) in (int, float) and -LARGEST <= v <= LARGEST)
AMOUNT = Kind("a number of 0 or more", lambda v: NUMBER.fits(v) and v >= 0)
COUNT = Kind("a whole number of 0 or more", lambda v: AMOUNT.fits(v) and v <= LAST_STEP and v == int(v))
OBJECT: dict[str, Any] = {}
"""An object, whatever it holds."""


def fitting(value: Any, expected: Any, misfits: list[str], path: str = "") -> Any:
    """The parts of ``value`` that are as ``expected``; what is left out is told in ``misfits``: ``legs.0.name is 7, not text``."""
    if value is None:
        return None
    if isinstance(expected, Kind):
        return value if expected.fits(value) else _misfit(value, expected.words, misfits, path)
    if isinstance(expected, list):
        if not isinstance(value, list):
            return _misfit(value, "a list", misfits, path)
        items = [fitting(item, expected[0], misfits, f"{path}.{i}".lstrip(".")) for i, item in enumerate(value)]
        return [item for item in items if item is not None]
    if not isinstance(value, dict):
        return _misfit(value, "an object", misfits, path)
    kinds = dict.fromkeys(value, expected.value) if isinstance(expected, Each) else expected
    known = {key: fitting(value[key], kinds[key], misfits, f"{path}.{key}".lstrip(".")) for key in value if key in kinds}
    return {key: item for key, item in {**value, **known}.items() if item is not None or key not in known}


def _misfit(value: Any, words: str, misfits: list[str], path: str) -> None:
    misfits.append(f"{path or 'it'} is {in_words(value)}, not {words}")
