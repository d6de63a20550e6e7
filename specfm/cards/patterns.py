"""Regular expressions that a card may hold: those whose matching takes a moment on any file name.

Python tries every way in which repeats and alternatives can share a text out: a repeat inside a repeat takes a time
that doubles with each letter. Such a pattern is refused by its form, before it meets a name.
"""

from __future__ import annotations

import re
import warnings
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from specfm.limits import excess

_LONGEST = 500  # characters
_REPEATS = (op.MAX_REPEAT, op.MIN_REPEAT, getattr(op, "POSSESSIVE_REPEAT", None))


def brackets(key: str, pattern: str) -> int:
    """How many brackets of a pattern keep what they match.

    Args:
        key: of the card, for messages.
        pattern: what stands there.

    Raises:
        ValueError: no regular expression, or one that could take for ever.
    """
    if len(pattern) > _LONGEST:
        raise ValueError(f"{key} has {len(pattern)} characters; at most {_LONGEST} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of spellings that later Pythons read otherwise
            tree = _parser.parse(pattern)
            groups = re.compile(pattern).groups
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{key} {pattern!r} is no regular expression ({error})") from None
    counts = {"repeats": 0, "choices": 0}
    _count(key, tree, False, counts)
    for name, amount in counts.items():
        if words := excess(name, amount):
            raise ValueError(f"{key} {pattern!r} can match in too many ways ({amount} {name}); {words}")
    return groups


def _count(key: str, tree: Any, repeated: bool, counts: dict[str, int]) -> None:
    """Add what the matcher has to choose between; ``repeated``: inside a repeat, where nothing may be chosen."""
    for kind, value in tree:
        chosen = None
        if kind in _REPEATS:
            low, high, inner = value
            chosen = None if low == high else "repeats" if high > 255 else "choices"
            _count(key, inner, repeated or high > 1, counts)
        elif kind is op.BRANCH:
            chosen = "choices"
            for inner in value[1]:
                _count(key, inner, repeated, counts)
        elif kind is op.SUBPATTERN:
            _count(key, value[-1], repeated, counts)
        elif kind in (op.ASSERT, op.ASSERT_NOT):
            _count(key, value[1], repeated, counts)
        elif kind in (op.GROUPREF, op.GROUPREF_EXISTS, op.ATOMIC_GROUP):
            raise ValueError(f"{key} refers to its own brackets or groups atomically; write it without")
        if chosen is None:
            continue
        if repeated:
            raise ValueError(
                f"{key} has a repeat or alternatives inside a repeat, which may take for ever; write it flat"
            )
        counts[chosen] += 1
