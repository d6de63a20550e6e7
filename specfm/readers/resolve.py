"""Decide the sensor of a scene: the file's own metadata first, then what the user supplies, else a clear refusal."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from specfm.bands import BandGrid, UnitsError, to_nm, widths_to_nm
from specfm.errors import SpecfmError, UsageError
from specfm.library import same_bands
from specfm.limits import excess
from specfm.readers.found import Found
from specfm.sensor_table import as_sensor, get_sensor, known_sensors
from specfm.sensors import Sensor
from specfm.tables import number as decimal
from specfm.tables import read_table

log = logging.getLogger(__name__)

_WHOLE = re.compile(r"[+-]?\d+(\.0*)?")

HOW = "supply them with --sensor NAME or --wavelengths file.csv (columns band, centre_nm, fwhm_nm)"


def resolve_sensor(
    found: Found,
    sensor: Sensor | BandGrid | str | None = None,
    wavelengths: str | Path | None = None,
    units: str | None = None,
    quantity: str | None = None,
    scale: float | None = None,
    offset: float | None = None,
) -> Sensor:
    """The sensor of a file.

    Wavelengths come from the file if it states them with their units (or with ``units`` given for it); the argument
    ``wavelengths``, then ``sensor``, speak only where the file is silent, which is logged. ``quantity``, ``scale`` and
    ``offset`` given by the caller win over the file, the file wins over ``sensor``.

    Raises:
        SpecfmError: no wavelengths from anywhere, units unknown, a list that does not fit the cube, or no file
            ``wavelengths``.
    """
    table = _named(sensor)
    if wavelengths is not None:
        _check_exists(Path(wavelengths))
    rows, columns, count = found.source.shape
    supplied = wavelengths is not None or table is not None
    _check_valid(found, supplied)
    bands = _own_bands(found, units, supplied)
    if bands is not None:
        if wavelengths is not None:
            log.warning("%s states its own wavelengths; %s is not used", found.metadata_path, wavelengths)
        elif table is not None and not same_bands(bands, table.bands):
            log.info("%s states its own wavelengths; those of %s are not used", found.metadata_path, _called(table))
    else:
        bands, origin = _supplied_bands(found, wavelengths, table)
        if len(bands) != count:
            raise SpecfmError(
                f"{found.path}: the cube of {rows} x {columns} pixels has {count} bands but {origin} has {len(bands)}; "
                f"supply a list with one row per band (--wavelengths file.csv){_removed(table, count)}"
            )
        if found.valid is not None:
            bands = BandGrid(bands.wavelengths_nm, bands.fwhm_nm, bands.valid & np.asarray(found.valid, bool))
        log.info("%s is silent about wavelengths; taken from %s", found.metadata_path, origin)
    base = table or Sensor(bands)
    file_scaled = found.scale is not None or found.offset is not None
    return Sensor(
        bands=bands,
        quantity=_first(quantity, found.quantity, base.quantity),
        scale=float(_first(scale, found.scale, 1.0 if file_scaled else base.scale)),
        offset=float(_first(offset, found.offset, 0.0 if file_scaled or scale is not None else base.offset)),
        level=_first(found.level, base.level),
        gsd_m=_first(found.gsd_m, base.gsd_m),
        name=_first(base.name, found.sensor_name),
        pretreatment=found.pretreatment,
    )


def _check_valid(found: Found, supplied: bool) -> None:
    """Refuse a list of good bands of another length than the cube; beside a supplied list it is left."""
    if found.valid is None or np.asarray(found.valid).size == found.source.shape[2]:
        return
    listed, count = np.asarray(found.valid).size, found.source.shape[2]
    problem = f"its list of good bands has {listed} values but the file has {count} bands"
    if not supplied:
        raise SpecfmError(f"{found.metadata_path}: {problem}; correct it, or {HOW}")
    log.warning("%s: %s; it is not used", found.metadata_path, problem)
    found.valid = None


def supplied_count(sensor: Sensor | BandGrid | str | None, wavelengths: str | Path | None) -> int | None:
    """Number of bands of the list that the user supplies, None without one."""
    if wavelengths is not None:
        return len(read_wavelengths(wavelengths))
    table = _named(sensor)
    return None if table is None else len(table.bands)


def read_wavelengths(path: str | Path) -> BandGrid:
    """A band list from a CSV file with the columns ``centre_nm`` and, optionally, ``band``, ``fwhm_nm`` and ``valid``.

    Whole numbers in ``band`` say the order of the rows, with gaps where bands were taken out; names there, or no such
    column, leave the rows in the order of the file. ``valid`` is 1 where a band is good.

    Raises:
        SpecfmError: the file or its column is missing, a value is not a number, or band numbers are missing or double.
    """
    path = Path(path)
    _check_exists(path)
    columns, rows = read_table(path, ("band", "centre_nm", "fwhm_nm", "valid"), comments=True)
    if "centre_nm" not in columns or not rows:
        raise SpecfmError(f"{path}: needs a column 'centre_nm' (and 'fwhm_nm' where known) with one row per band")
    rows = _by_band(path, rows)
    centres, widths, valid = [], [], []
    for number, row in enumerate(rows, 1):
        try:
            centres.append(decimal(row["centre_nm"] or "nan"))
            widths.append(decimal(row.get("fwhm_nm") or "nan"))
            valid.append(decimal(row.get("valid") or "1") != 0)
        except ValueError:
            raise SpecfmError(
                f"{path}: row {number}: the columns centre_nm, fwhm_nm and valid must hold numbers only"
            ) from None
    if words := excess("bands", len(rows)):
        raise SpecfmError(f"{path}: lists {len(rows)} bands; {words}")
    return _named_errors(path, lambda: BandGrid(centres, widths, valid), "write nm in the column centre_nm")


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise SpecfmError(f"{path}: no such wavelength file")


def _by_band(path: Path, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows in the order of the numbers in their column ``band``; as they stand where it holds names or nothing."""
    bands = [(row.get("band") or "").strip() for row in rows]
    if not all(_WHOLE.fullmatch(band) for band in bands if band) or not any(bands):
        return rows
    if "" in bands:
        raise SpecfmError(
            f"{path}: row {bands.index('') + 1} has no number in the column 'band'; number every row or none"
        )
    # an instrument's numbers have gaps where bands were taken out of its cube; their order is that of the cube
    numbers = [float(band) for band in bands]
    double = next((band for band, number in zip(bands, numbers, strict=True) if numbers.count(number) > 1), None)
    if double is not None:
        raise SpecfmError(f"{path}: the column 'band' has the number {double} twice; number every row once")
    return [row for _, row in sorted(zip(numbers, rows, strict=True), key=lambda each: each[0])]


def _own_bands(found: Found, units: str | None, supplied: bool) -> BandGrid | None:
    """The file's own band grid; None where it is silent. Unknown units are refused unless a list was supplied."""
    if found.wavelengths is None:
        return None
    where = found.metadata_path
    known = found.units if _known(found.units) else None
    if known is None and units is None:
        said = f"in the unknown unit {found.units!r}" if found.units else "without their units"
        if supplied:
            log.info("%s gives wavelengths %s; they are not used", where, said)
            return None
        shown = np.asarray(found.wavelengths, np.float64)
        raise SpecfmError(
            f"{where}: wavelengths are given {said} ({shown[0]:g} ... {shown[-1]:g}); units are never guessed, "
            "say --units nm or --units um (read_scene(..., units=...)), "
            "or supply --sensor NAME or --wavelengths file.csv"
        )
    if known is not None and units is not None and _same(known) != _same(units):
        log.warning("%s says wavelengths are in %s; read as %s because that was asked for", where, known, units)
    chosen = units or known
    assert chosen is not None
    # exactly zero stands for a bad band in some lists; what else is no wavelength is refused, not passed over
    centres = np.asarray(found.wavelengths, np.float64)
    valid = np.ones(len(centres), bool) if found.valid is None else np.asarray(found.valid).astype(bool)
    valid = valid & (centres != 0)
    fwhm = found.fwhm
    if fwhm is not None and found.fwhm_units is not None and _same(found.fwhm_units) != _same(chosen):
        return _named_errors(
            where,
            lambda: BandGrid(
                to_nm(centres, chosen), widths_to_nm(fwhm, str(found.fwhm_units), to_nm(centres, chosen)), valid
            ),
            "pass --units {likely} for a file",
        )
    return _named_errors(
        where, lambda: BandGrid.from_units(centres, chosen, fwhm, valid), "pass --units {likely} for a file"
    )


def _supplied_bands(found: Found, wavelengths: str | Path | None, table: Sensor | None) -> tuple[BandGrid, str]:
    if wavelengths is not None:
        return read_wavelengths(wavelengths), str(wavelengths)
    if table is not None:
        return table.bands, _called(table)
    how = HOW
    if (named := _named_in_file(found)) is not None:
        how = f"if {named.name}, which it names, is the sensor of the table, say --sensor {named.name}; else {HOW}"
    raise SpecfmError(f"{found.metadata_path}: no wavelengths in this file; {how}")


def _named_in_file(found: Found) -> Sensor | None:
    """The known sensor that a silent file names, if the cube has its bands."""
    try:
        named = get_sensor(found.sensor_name or "")
    except UsageError:
        return None
    return named if len(named.bands) == found.source.shape[2] else None


def _removed(table: Sensor | None, count: int) -> str:
    """Which bands are usually gone where so many are left, as a card would say it: of the instrument or of what it
    was in other years (``aviris_classic_1992``)."""
    family = ((table and table.name) or "").rpartition("_")[0]
    alike = [row for row in known_sensors().values() if row.name.rpartition("_")[0] == family and family]
    alike += [row for row in known_sensors().values() if table is not None and row.name == table.name]
    row = next((row for row in reversed(alike) if count in row.usual_removals), None)
    if row is None:
        return ""
    scene, gone = row.usual_removals[count]
    return (
        f", or, if bands {gone} are taken out as they are of {scene}, say so in a dataset card (sensor: {row.name}, "
        f"removed_bands: {gone})"
    )


def _called(table: Sensor) -> str:
    return f"sensor {table.name}" if table.name else "the band list given for it"


def _named(sensor: Sensor | BandGrid | str | None) -> Sensor | None:
    return None if sensor is None else as_sensor(sensor)


def _known(units: str | None) -> bool:
    return units is not None and _same(units) is not None


def _same(units: str) -> float | str | None:
    """A key equal for spellings of one unit, None for an unknown one."""
    try:
        return round(float(to_nm([2.0], units)[0]), 6)
    except SpecfmError:
        return None


def _named_errors(where: Path, build: Callable[[], BandGrid], units_advice: str) -> BandGrid:
    """Run ``build`` and put the file's name before what it refuses; wrong units get their remedy."""
    try:
        return build()
    except UnitsError as error:
        advice = f", or {units_advice.format(likely=error.likely)}" if error.likely else ""
        raise SpecfmError(f"{where}: {error}{advice}") from None
    except SpecfmError as error:
        raise SpecfmError(f"{where}: {error}") from None


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
