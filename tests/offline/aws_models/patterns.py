"""Patterns of AWS's service models (Java regular expressions) for Python.

The ``regex`` module knows Java's set operations and \\p classes; what is spelt differently is translated. What
still does not compile is kept in ``uncompiled`` so that a report can list it.
"""

from __future__ import annotations

import re
from functools import cache

import regex

_SPELLINGS = (
    (r"\p{LD}", r"\p{L}\p{Nd}"),  # Java: letter or digit; only seen inside of a class
    (r"\p{all}", r"\s\S"),
    (r"\p{ASCII}", r"\x00-\x7F"),
    (r"\z", r"\Z"),
    # Java takes a surrogate pair at each end of a range for one code point.
    (r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010FFFF"),
    (r"\ud800\udc00-\udbff\udfff", r"\U00010000-\U0010FFFF"),
)
uncompiled: dict[str, str] = {}
"""Pattern -> why Python cannot compile it."""


@cache
def compiled(pattern: str) -> regex.Pattern[str] | None:
    """The pattern for Python, or None when there is no translation (then it is in ``uncompiled``)."""
    text = pattern
    for java, python in _SPELLINGS:
        text = text.replace(java, python)
    text = re.sub(r"\\x\{([0-9A-Fa-f]+)\}", lambda match: f"\\U{int(match[1], 16):08x}", text)
    text = re.sub(r"(?<!\\)(--|\|\||~~)(?=[^\[]*\])", lambda match: "".join(f"\\{char}" for char in match[1]), text)
    try:
        return regex.compile(text, regex.V1)
    except regex.error as error:
        uncompiled[pattern] = str(error)
        return None


def agrees(pattern: str, value: str) -> bool:
    """Whether ``value`` as a whole matches, as the services match; true when the pattern cannot be compiled."""
    expression = compiled(pattern)
    return expression is None or expression.fullmatch(value) is not None
