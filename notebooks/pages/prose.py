"""Docstrings as Markdown: sections, entries, and the roles of other markup as plain code."""

from __future__ import annotations

import inspect
import re
from typing import Any

SECTION = r"^(?:Args|Attributes|Returns|Raises|Example|Examples|Yields):[ ]*$"


def plain(text: str) -> str:
    """Text with ``:func:`a.b.c``` as `` `c` ``, and ``Example::`` with one colon."""
    text = re.sub(r":(?:mod|func|class|meth|data|attr):`~?([\w.]+)`", lambda found: f"`{shown(found[1])}`", text)
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)


def shown(name: str) -> str:
    """A dotted name as a reader needs it: modules whole, what stands in them by its last part or two."""
    parts = name.split(".")
    classes = [number for number, part in enumerate(parts) if part[:1].isupper()]
    if classes:
        return ".".join(parts[classes[0] :])
    return name


def opening(thing: Any) -> str:
    """What a docstring says before its first section."""
    text = inspect.cleandoc(thing.__doc__ or "")
    return plain(re.split(SECTION, text, maxsplit=1, flags=re.MULTILINE)[0]).strip()


def entries(thing: Any, section: str = "Attributes") -> dict[str, str]:
    """Name -> text of a section of a docstring."""
    text = inspect.cleandoc(thing.__doc__ or "")
    found = re.search(rf"^{section}:\n((?: {{4,}}\S.*\n?)+)", text, flags=re.MULTILINE)
    if found is None:
        return {}
    lines = re.sub(r"\n {5,}", " ", found[1]).rstrip().split("\n")
    pairs = (line.strip().split(": ", 1) for line in lines)
    return {name: plain(text) for name, text in pairs}


def example(thing: Any) -> str:
    """The block after ``Example::`` in a docstring, as a block of YAML."""
    found = re.search(r"Example::\n\n((?: {4}.*\n|\n)+)", inspect.cleandoc(thing.__doc__ or ""))
    return "" if found is None else f"```yaml\n{inspect.cleandoc(found[1])}\n```"


def escaped(text: str) -> str:
    """Plain text in which Markdown sees nothing but its code in backquotes."""
    pieces = text.split("`")
    for number in range(0, len(pieces), 2):
        pieces[number] = re.sub(r"([\[\]*])", r"\\\1", pieces[number]).replace("<", "&lt;")
    return "`".join(pieces)
