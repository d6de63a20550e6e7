"""What headers say about how counts came about: the integration time of a frame, and the count that saturates.

Sensors' recorders name the same thing in many ways: ``tint`` (Specim), ``shutter`` (Resonon), ``exposure``,
``integration time`` (Headwall and others; HySpex inside the description), ``ceiling`` and ``bit depth``. C bands.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from specfm.readers.found import Found
from specfm.sensors import IntegrationTime

log = logging.getLogger(__name__)

_UNITS = {
    **dict.fromkeys(("ns", "nanosecond"), 1e-6),
    **dict.fromkeys(("us", "µs", "μs", "usec", "microsec", "microsecond"), 1e-3),
    **dict.fromkeys(("ms", "msec", "millisec", "millisecond"), 1.0),
    **dict.fromkeys(("s", "sec", "second"), 1e3),
}  # in milliseconds; a plural s is taken off before
_UNIT = "|".join(f"{unit}s?" for unit in sorted(_UNITS, key=len, reverse=True))
# in the order in which they are preferred, and their unit where a recorder is known to mean one
_NAMES = {
    "tint": "ms",
    "integration time": None,
    "integrationtime": None,
    "exposure time": None,
    "exposuretime": None,
    "exposure": None,
    "shutter": "ms",
}
_KEY = re.compile(rf"(?:(?:sensor|detector) )?({'|'.join(sorted(_NAMES, key=len, reverse=True))})(?: ({_UNIT}))?")
_VALUE = re.compile(rf"([-+]?[\d.]+(?:e[-+]?\d+)?)\s*({_UNIT})?", re.IGNORECASE)
_SATURATION = ("saturation", "saturation value", "saturation level", "saturation dn", "saturation count", "ceiling")
_DEPTH = ("bit depth", "bitdepth", "adc bits", "adc bit depth", "sensor bit depth", "detector bit depth")


def state_exposure(found: Found, fields: Mapping[str, str], where: Path) -> None:
    """Take integration time and saturation from one more place; what the places before it said stays.

    Args:
        found: what it is stated of.
        fields: key -> raw text.
        where: the file that says it, for messages.
    """
    stated = found.scene_fields
    if stated.get("integration") is None:
        stated["integration"] = integration_time(fields, found.source.shape[2], where)
    if found.saturation is None:
        found.saturation = saturation_level(fields, found.source.dtype, where)


def integration_time(fields: Mapping[str, str], count: int, where: Path) -> IntegrationTime | None:
    """The integration time that a header states, None where it is silent; what cannot be used is told.

    Args:
        fields: key -> raw text.
        count: bands of the cube.
        where: the file, for messages.
    """
    plain = {_plain(key): (key, text.strip()) for key, text in fields.items()}
    both = _two_detectors(plain, count)
    if both is not None:
        return both
    found: dict[str, IntegrationTime] = {}
    for key, (written, text) in plain.items():
        match = _KEY.fullmatch(key)
        if match is None:
            continue
        name, unit = match.groups()
        unit = unit or _unit_beside(plain, key) or _NAMES[name]
        time = _time(written, text, unit, count)
        if time is None:
            log.warning("%s: %s = %s is no integration time above zero; it is not used", where, written, text)
        else:
            found.setdefault(name, time)
    return next((found[name] for name in _NAMES if name in found), None)


def saturation_level(fields: Mapping[str, str], dtype: np.dtype, where: Path) -> float | None:
    """The stored count from which a header says that values are saturated; None where it is silent or no counts."""
    if dtype.kind not in "iu":
        return None
    plain = {_plain(key): (key, text.strip()) for key, text in fields.items()}
    for names, most in ((_SATURATION, np.inf), (_DEPTH, 8.0 * dtype.itemsize)):
        for name in names:
            if name not in plain:
                continue
            written, text = plain[name]
            number = _number(text)
            if number is not None and 0 < number <= most:
                return number if names is _SATURATION else 2.0**number - 1
            log.warning("%s: %s = %s cannot be a limit of %s counts; it is not used", where, written, text, dtype.name)
    return None


def described(text: str) -> dict[str, str]:
    """The ``key = value`` lines inside a description, as some recorders write all their settings."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key.strip().lower(): value.strip() for key, value in pairs}


def _plain(key: str) -> str:
    """A key without its ways of writing: ``Integration_Time (ms)`` -> ``integration time ms``."""
    return " ".join(re.sub(r"[_\-()\[\]]", " ", key.lower()).split())


def _unit_beside(plain: Mapping[str, tuple[str, str]], key: str) -> str | None:
    """The unit that a key of its own names, ``exposure units = us``."""
    text = next((plain[f"{key} {word}"][1].lower() for word in ("units", "unit") if f"{key} {word}" in plain), "")
    return text if re.fullmatch(_UNIT, text) else None


def _time(written: str, text: str, unit: str | None, count: int) -> IntegrationTime | None:
    pieces = _pieces(text)
    matches = [_VALUE.fullmatch(piece) for piece in pieces]
    values = [_number(match.group(1)) for match in matches if match is not None]
    if len(values) != len(pieces) or len(pieces) not in (1, count) or not all(value and value > 0 for value in values):
        return None
    said = next((match.group(2) for match in matches if match is not None and match.group(2)), None) or unit
    factor = 1.0 if said is None else _factor(said)
    numbers = tuple(float(value) * factor for value in values if value is not None)
    shown = f"{written} = {pieces[0]}" + (", ..." if len(set(pieces)) > 1 else "")
    return IntegrationTime(numbers, "ms" if said else f"the unit of {_plain(written)}", shown)


def _pieces(text: str) -> list[str]:
    """The items of a list, with or without braces."""
    return [piece.strip() for piece in text.strip("{}").split(",") if piece.strip()]


def _factor(unit: str) -> float:
    unit = unit.lower()
    return _UNITS[unit] if unit in _UNITS else _UNITS[unit.removesuffix("s")]


def _number(text: str) -> float | None:
    """A finite number, else None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _two_detectors(plain: Mapping[str, tuple[str, str]], count: int) -> IntegrationTime | None:
    """Specim's sensors of two detectors: ``tint1`` and ``tint2`` (ms), of the bands ``vimg1`` and ``vimg2``."""
    value_C = np.full(count, np.nan)
    said = []
    for detector in ("1", "2"):
        written, text = plain.get(f"tint{detector}", ("", ""))
        time, ends = _number(text), [_number(each) for each in _pieces(plain.get(f"vimg{detector}", ("", ""))[1])]
        if time is None or time <= 0 or len(ends) != 2 or None in ends:
            return None
        value_C[int(ends[0]) - 1 : int(ends[1])] = time  # type: ignore[arg-type]
        said.append(f"{written} = {text}")
    if not np.isfinite(value_C).all():
        return None
    return IntegrationTime(tuple(value_C.tolist()), "ms", ", ".join(said))
