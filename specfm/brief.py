"""What a result prints as at a prompt or in a notebook: a line that says what it holds, not the numbers themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

LONGEST = 80  # characters of a value that is printed as it is
SHORT = 4  # plain values that are still listed


def brief(result: Any) -> str:
    """``Class(field=what it holds, ...)`` of a dataclass; write ``__repr__ = brief`` in its body.

    Example:
        >>> from specfm.cli._results import Descriptions
        >>> Descriptions([{"scene": "a"}, {"scene": "b"}], [], single=False)
        Descriptions(rows=<list of 2 dict>, refused=[], single=False)
    """
    held = ", ".join(f"{each.name}={_held(getattr(result, each.name))}" for each in fields(result) if each.repr)
    return f"{type(result).__name__}({held})"


def _held(value: Any) -> str:
    if all(hasattr(value, name) for name in ("shape", "dtype", "ndim")):
        return f"<{value.dtype} {'x'.join(map(str, value.shape)) or 'scalar'}>"
    if isinstance(value, list | tuple) and value:
        kinds = {type(each).__name__ for each in value}
        if len(value) > SHORT or not kinds <= {"int", "float", "str", "bool", "NoneType"}:
            return f"<{type(value).__name__} of {len(value)} {kinds.pop() if len(kinds) == 1 else 'values'}>"
    if isinstance(value, Mapping) and len(value) > SHORT:
        return f"<{type(value).__name__} of {len(value)}: {', '.join(map(str, [*value][:SHORT]))}, ...>"
    if is_dataclass(value) and not isinstance(value, type) and "__repr__" not in vars(type(value)):
        return f"<{type(value).__name__}>"
    text = repr(value)
    return text if len(text) <= LONGEST and "\n" not in text else f"<{type(value).__name__}>"
