"""ENVI headers: the text file beside a flat cube, as found in the wild.

Rules (``key = value`` lines; keys in any case; ``;`` starts a comment; braces span lines): required are samples, lines,
bands, data type and interleave; byte order and header offset default to 0. Source: the ENVI header format as described
by its vendor, and what other readers accept; real headers that break one rule or another are fixtures of the tests.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from specfm.bands import nm_per_unit
from specfm.errors import SpecfmError
from specfm.limits import excess
from specfm.rasters.map_info import parse_map_info

log = logging.getLogger(__name__)

DTYPES: dict[int, str] = {
    1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 6: "c8", 9: "c16", 12: "u2", 13: "u4", 14: "i8", 15: "u8",
}  # fmt: skip
REQUIRED = ("samples", "lines", "bands", "data type", "interleave")
_SPELLINGS = {
    "missing value": "data ignore value", "nodata": "data ignore value", "no data value": "data ignore value",
    "wavelength unit": "wavelength units", "wavelengths": "wavelength",
}  # fmt: skip
_SILENT_UNITS = {"", "unknown", "index", "none", "n/a", "na"}
_MEASURE = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµμ]+)")  # 348.5 nm
_OTHER_LISTS = ((r"\s*;\s*", "."), (r"\s+", "."), (r"\s*;\s*", ","), (r"\s+", ","))  # separator, decimal point


@dataclass(frozen=True)
class EnviHeader:
    """A parsed header: ``fields`` maps lower-case keys to raw text (text inside braces without the braces)."""

    path: Path
    fields: dict[str, str]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(lines, samples, bands)."""
        return (self._count("lines"), self._count("samples"), self._count("bands"))

    @property
    def dtype(self) -> np.dtype[Any]:
        code = self.integer("data type")
        if code not in DTYPES:
            raise SpecfmError(
                f"{self.path}: data type {code} is not an ENVI type; known are {', '.join(map(str, DTYPES))}"
            )
        order = self.integer("byte order", 0)
        if order not in (0, 1):
            raise SpecfmError(f"{self.path}: byte order must be 0 (little endian) or 1 (big endian), got {order}")
        return np.dtype(DTYPES[code]).newbyteorder("<" if order == 0 else ">")

    @property
    def interleave(self) -> str:
        kind = self.text("interleave").lower()
        if kind not in ("bsq", "bil", "bip"):
            raise SpecfmError(f"{self.path}: interleave must be bsq, bil or bip, got {kind!r}")
        return kind

    @property
    def header_offset(self) -> int:
        offset = self.integer("header offset", 0)
        if offset < 0:
            raise SpecfmError(f"{self.path}: header offset must not be negative, got {offset}")
        return offset

    @property
    def is_library(self) -> bool:
        """A spectral library: lines are spectra, samples are bands."""
        return "spectral library" in self.fields.get("file type", "").lower()

    @property
    def units(self) -> str | None:
        """Wavelength units as written, None where the header does not say (``Unknown`` is not saying).

        Where what it states and what stands behind the numbers differ, both: that is no unit, and users say which is.
        """
        stated, behind = _uncommented(self.fields.get("wavelength units", "")).strip(), self.unit_behind("wavelength")
        if stated.lower() in _SILENT_UNITS:
            return behind
        return stated if behind is None or _alike(stated, behind) else f"{stated}, {behind} behind its numbers"

    def unit_behind(self, key: str) -> str | None:
        """The unit that stands behind every number of a list (``{348.0 nm, 349.1 nm}``), None where it does not."""
        behind = self._units_behind(key)
        return behind[0] if behind and "" not in behind and all(_alike(behind[0], each) for each in behind) else None

    def _units_behind(self, key: str) -> list[str]:
        return sorted({found[2] if (found := _MEASURE.fullmatch(item)) else "" for item in self.items(key)})

    def text(self, key: str) -> str:
        """A required single value."""
        if key not in self.fields:
            raise SpecfmError(f"{self.path}: the header has no {key!r}; add the line '{key} = ...'")
        return self.plain(key)

    def plain(self, key: str) -> str:
        """The text of a key without comments."""
        return _uncommented(self.fields[key]).strip()

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number; ``default`` where the key is absent (None: the key is required)."""
        if default is not None and key not in self.fields:
            return default
        try:
            number = float(self.text(key))
            if number != int(number):
                raise ValueError
        except (ValueError, OverflowError):
            raise SpecfmError(f"{self.path}: {key} must be a whole number, got {self.text(key)!r}") from None
        return int(number)

    def number(self, key: str) -> float | None:
        """A single optional number."""
        if key not in self.fields:
            return None
        try:
            return float(self.text(key))
        except ValueError:
            raise SpecfmError(f"{self.path}: {key} must be a number, got {self.text(key)!r}") from None

    def items(self, key: str) -> list[str]:
        """A list in braces, split at commas; empty where the key is absent. A comma at the end is forgiven."""
        parts = [part.strip() for part in _uncommented(self.fields.get(key, "")).split(",")]
        while parts and not parts[-1]:
            parts.pop()
        return parts

    def numbers(self, key: str, count: int) -> list[float] | None:
        """A list of exactly ``count`` numbers, None where the key is absent or its braces are empty.

        Separators are commas, else semicolons or blanks, with decimal points, else decimal commas: the first of these
        that gives a number for each band is meant. A unit behind each number is left out here (:meth:`unit_behind` has
        it).

        Raises:
            SpecfmError: another number of them, something that is none, or numbers in several units.
        """
        if not self.items(key):
            return None
        self._refuse_other_units(key)
        values, bad = self._measures(key)
        read = [] if bad is not None else [each for each in values if each is not None]
        for separator, point in _OTHER_LISTS:
            if len(read) == count:
                break
            parts = [part.replace(point, ".") for part in re.split(separator, self.fields[key].strip()) if part]
            read = [float(part) for part in parts] if all(map(_is_number, parts)) else read
        if len(read) == count:
            return read
        if len(values) != count:
            raise SpecfmError(f"{self.path}: {key} has {len(values)} values but the file has {count} bands")
        raise SpecfmError(f"{self.path}: {key} holds {bad!r}, which is not a number")

    def _refuse_other_units(self, key: str) -> None:
        """Numbers without a unit are in that of the wavelengths, so others must be in it too."""
        behind = self._units_behind(key)
        units = [unit for unit in behind if unit]
        if units and "" in behind and (key != "wavelength" or self.units is not None):
            units.append(self.units or "not said")
        if not all(_alike(units[0], unit) for unit in units):
            raise SpecfmError(f"{self.path}: {key} has numbers in several units ({', '.join(dict.fromkeys(units))})")

    def measure(self, key: str) -> float | None:
        """The number of a key that holds one alone, with or without its unit; else None."""
        text = _MEASURE.sub(r"\1", self.fields.get(key, "").strip())
        return float(text) if _is_number(text) else None

    def _measures(self, key: str) -> tuple[list[float | None], str | None]:
        """The numbers of a list in commas, None for what is none, and the first such text."""
        items = [_MEASURE.sub(r"\1", item) for item in self.items(key)]
        bad = next((item for item in items if not _is_number(item)), None)
        return [float(item) if _is_number(item) else None for item in items], bad

    def _count(self, key: str) -> int:
        value = self.integer(key)
        if value < 1:
            raise SpecfmError(f"{self.path}: {key} must be at least 1, got {value}")
        return value

    def check(self) -> None:
        """Refuse a header that cannot describe a cube: missing keys are named together."""
        missing = [key for key in REQUIRED if key not in self.fields]
        if missing:
            raise SpecfmError(
                f"{self.path}: the header lacks {', '.join(missing)}; an ENVI header needs {', '.join(REQUIRED)}"
            )
        if self.integer("file compression", 0) != 0:
            raise SpecfmError(f"{self.path}: the data file is compressed (file compression = 1); write it uncompressed")
        frames = [item for item in self.items("major frame offsets") + self.items("minor frame offsets") if item != "0"]
        if frames:
            raise SpecfmError(f"{self.path}: frame offsets are not supported; write the cube without them")
        if "byte order" not in self.fields and self.dtype.itemsize > 1:
            log.info("%s: no byte order in the header; taken as 0 (little endian)", self.path)

    def geo(self) -> tuple[str | None, tuple[float, ...] | None, float | None]:
        """(crs as WKT or EPSG name, GDAL affine transform, pixel size in metres), each None where unknown.

        A ``coordinate system string`` wins over the names in ``map info``.
        """
        stated = re.sub(r"\s*\n\s*", "", self.fields.get("coordinate system string", "")).strip() or None
        crs, transform, gsd_m = parse_map_info(self.items("map info"), self.path)
        return stated or crs, transform, gsd_m


def parse_header(path: Path) -> EnviHeader:
    """Read a header file.

    Raises:
        SpecfmError: not an ENVI header, or a brace that never closes.
    """
    if words := excess("header_bytes", path.stat().st_size):
        raise SpecfmError(f"{path}: is too large for a header; {words}")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(";")]
    first = next((line.strip() for line in lines if line.strip()), "")
    fields: dict[str, str] = {}
    position = 0
    while position < len(lines):
        line = lines[position]
        position += 1
        if "=" not in line:
            continue
        key, value = (part.strip() for part in line.split("=", 1))
        key = re.sub(r"[\s_]+", " ", key).lower()
        key = _SPELLINGS.get(key, key)
        if not value and position < len(lines) and lines[position].lstrip().startswith("{"):
            value = lines[position].strip()  # a list whose brace begins on the next line
            position += 1
        if value.startswith("{"):
            while "}" not in value and position < len(lines):
                value += "\n" + lines[position]
                position += 1
            if "}" not in value:
                raise SpecfmError(f"{path}: the brace after {key!r} never closes; the header was cut short")
            value = value[1 : value.rindex("}")].strip()
        if key in fields and fields[key] != value:
            log.warning("%s: %r is given twice; the last one is used", path, key)
        fields[key] = value
    if not first.startswith("ENVI"):
        if first.split("=")[0].split()[:1] and first.split()[0].upper() in ("BYTEORDER", "NROWS", "NCOLS", "LAYOUT"):
            raise SpecfmError(
                f"{path}: this is an ESRI (ArcGIS) header, not an ENVI header; export the cube as ENVI or GeoTIFF"
            )
        if not {"samples", "lines", "bands"} <= fields.keys():
            raise SpecfmError(f"{path}: not an ENVI header (its first line should be 'ENVI')")
        log.warning("%s: the first line is not 'ENVI'; read as an ENVI header all the same", path)
    return EnviHeader(path, fields)


def _uncommented(value: str) -> str:
    return "\n".join(line.split(";", 1)[0] for line in value.split("\n"))


def _alike(one: str, other: str) -> bool:
    """Whether two texts mean one unit."""
    sizes = nm_per_unit(one), nm_per_unit(other)
    return one.casefold() == other.casefold() if None in sizes else sizes[0] == sizes[1]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
