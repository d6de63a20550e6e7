"""One note on what a header or the tags of a raster state of numbers and places, and what of it is not used."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path

log = logging.getLogger(__name__)

_TELLS = re.compile(
    r"scale|offset|gain|nodata|no data|fill ?value|missing value|ignore|valid (min|max|range)|rpc|geo points"
)
_SHOWN = 40  # characters of a value


def note_unused(where: Path, stated: Mapping[str, str], used: Collection[str]) -> None:
    """Say in one note which keys (lower case, with blanks) change numbers or places and are not among ``used``."""
    told = []
    for key, value in stated.items():
        if _TELLS.search(key) and key not in used and not key.startswith(("statistics", "header offset")):
            text = " ".join(value.split())
            told.append(f"{key} = {text[:_SHOWN]}{'...' if len(text) > _SHOWN else ''}")
    if told:
        log.warning("%s states what is not used: %s", where, "; ".join(told))
