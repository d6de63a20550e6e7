"""The table of known imaging spectrometers: band centres and widths, with the source and the exactness of each row.

The numbers lie beside this file in ``sensor_tables/``: ``sensors.yaml`` describes each instrument, one CSV each lists
``centre_nm,fwhm_nm`` in file order (detector overlaps are kept). A scene's own metadata always beat this table.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from specfm.bands import BandGrid
from specfm.documents import parse_yaml
from specfm.errors import UsageError
from specfm.sensors import Sensor

TABLES = Path(__file__).parent / "sensor_tables"
EXACTNESS = ("exact", "nominal", "approximate", "unknown")


@dataclass(frozen=True)
class SensorRow:
    """One known instrument.

    Attributes:
        name: canonical name, the key of the table.
        title: name and variant in words.
        bands: centres and widths in nm, in file order.
        band_names: names such as ``B8A`` for multispectral instruments, else empty.
        aliases: other names that ``get_sensor`` accepts.
        platform: ``airborne``, ``spaceborne`` or ``laboratory``.
        quantity: what its products usually hold (a file can differ; ``get_sensor`` leaves it open).
        gsd_m: ground sampling distance in metres where the orbit fixes it, else None.
        typical_gsd: the usual ground sampling distance in words.
        exactness: how well the centres are known, one of ``EXACTNESS``.
        fwhm_exactness: how well the widths are known, one of ``EXACTNESS``.
        source: where the numbers come from.
        usual_removals: number of bands that are left -> name of a scene that is handed on so, and the ranges of bands
            (1-based) that are gone.
    """

    name: str
    title: str
    bands: BandGrid
    band_names: tuple[str, ...]
    aliases: tuple[str, ...]
    platform: str
    quantity: str
    gsd_m: float | None
    typical_gsd: str
    exactness: str
    fwhm_exactness: str
    source: str
    usual_removals: Mapping[int, tuple[str, str]]

    @property
    def sensor(self) -> Sensor:
        """The instrument as a `Sensor` whose quantity, scale and level are left open."""
        return Sensor(self.bands, gsd_m=self.gsd_m, name=self.name)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-safe summary without the band list."""
        fwhm = self.bands.fwhm_nm[np.isfinite(self.bands.fwhm_nm)]
        return {
            "name": self.name,
            "title": self.title,
            "bands": len(self.bands),
            "range_nm": [float(self.bands.wavelengths_nm.min()), float(self.bands.wavelengths_nm.max())],
            "fwhm_nm": [float(fwhm.min()), float(fwhm.max())] if fwhm.size else None,
            "gsd_m": self.gsd_m,
            "typical_gsd": self.typical_gsd,
            "platform": self.platform,
            "quantity": self.quantity,
            "exactness": self.exactness,
            "fwhm_exactness": self.fwhm_exactness,
            "aliases": list(self.aliases),
            "source": self.source,
        }


def _read_bands(path: Path) -> tuple[BandGrid, tuple[str, ...]]:
    """Bands and band names (if any) of one of our own tables."""
    with path.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    centres = np.array([float(row["centre_nm"]) for row in rows])
    widths = np.array([float(row["fwhm_nm"] or "nan") for row in rows])
    return BandGrid(centres, widths), tuple(row["band"] for row in rows) if "band" in rows[0] else ()


@lru_cache(maxsize=1)
def _table() -> dict[str, SensorRow]:
    entries = parse_yaml((TABLES / "sensors.yaml").read_text(encoding="utf-8"), TABLES / "sensors.yaml")
    table = {}
    for name, entry in entries.items():
        bands, band_names = _read_bands(TABLES / f"{name}.csv")
        table[name] = SensorRow(
            name=name,
            title=entry["title"],
            bands=bands,
            band_names=band_names,
            aliases=tuple(entry["aliases"]),
            platform=entry["platform"],
            quantity=entry["quantity"],
            gsd_m=float(entry["gsd_m"]) if "gsd_m" in entry else None,
            typical_gsd=entry["typical_gsd"],
            exactness=entry["exactness"],
            fwhm_exactness=entry["fwhm"],
            source=entry["source"],
            usual_removals={left: (name, gone) for left, (name, gone) in entry.get("usual_removals", {}).items()},
        )
    return table


def known_sensors() -> dict[str, SensorRow]:
    """All known instruments by canonical name, in the order of the table."""
    return dict(_table())


def _normalised(name: str) -> str:
    return re.sub(r"[^a-z0-9+]", "", name.lower())


def get_row(name: str) -> SensorRow:
    """The row of a known instrument; the name is matched without regard to case, blanks, ``-`` and ``_``.

    Raises:
        UsageError: no such instrument; the message offers the nearest names.
    """
    table = _table()
    names = {_normalised(alias): row for row in table.values() for alias in (row.name, *row.aliases)}
    key = _normalised(name)
    if key in names:
        return names[key]
    near = difflib.get_close_matches(key, names, n=4, cutoff=0.5)
    offered = list(dict.fromkeys(names[match].name for match in near)) or list(table)
    raise UsageError(f"unknown sensor {name!r}; did you mean {' or '.join(offered[:6])}? (specfm sensors lists all)")


def get_sensor(name: str) -> Sensor:
    """A known instrument as a `Sensor` (quantity, scale and level left open).

    Args:
        name: canonical name or alias, any case: ``"AVIRIS-NG"``, ``"sentinel2"``, ``"emit"``.

    Raises:
        UsageError: no such instrument; the message offers the nearest names.
    """
    return get_row(name).sensor


def as_sensor(given: Sensor | BandGrid | str) -> Sensor:
    """A Sensor as it is, one with these bands, or the known instrument of that name.

    Raises:
        SpecfmError: none of these.
        UsageError: no such instrument.
    """
    if isinstance(given, str):
        return get_sensor(given)
    return given if isinstance(given, Sensor) else Sensor(given)
