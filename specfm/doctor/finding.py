"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["good", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it.

    Attributes:
        level: "good"; "note": something works less well or not at all without it; "bad": specfm will fail or give
            wrong numbers.
        about: what was looked at, one word or two.
        found: what it is like.
        remedy: what to do; "" where nothing needs doing.
    """

    level: Level
    about: str
    found: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return asdict(self)


def good(about: str, found: str) -> Finding:
    """As it should be."""
    return Finding("good", about, found)


def note(about: str, found: str, remedy: str) -> Finding:
    """Worth knowing."""
    return Finding("note", about, found, remedy)


def bad(about: str, found: str, remedy: str) -> Finding:
    """To be mended before anything else."""
    return Finding("bad", about, found, remedy)
