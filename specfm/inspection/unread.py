"""What can be said of a file that is no scene yet: its cube, its numbers, and what its metadata state of wavelengths.

Shapes: C bands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from specfm.errors import SpecfmError
from specfm.inspection.bands import sample_rows
from specfm.readers import find_cube
from specfm.readers.found import Found

SAMPLE_BYTES = 16 << 20


def describe_unread(path: str | Path, variable: str | None = None, layout: str | None = None) -> dict[str, Any] | None:
    """JSON-safe facts of the cube in a file; None where not even a cube is found in it.

    Args:
        path: the file.
        variable: as of :func:`specfm.readers.read_scene`.
        layout: likewise.
    """
    try:
        found = find_cube(Path(path), variable, layout)
        height, width, count = found.source.shape
        rows = sample_rows(found.source.shape, found.source.dtype.itemsize, SAMPLE_BYTES)
        stored = np.asarray(found.source.read(rows, range(width), None))
    except (SpecfmError, OSError):
        return None
    if stored.dtype.kind == "c":
        return None
    finite = stored[np.isfinite(stored)]
    return {
        "path": str(path),
        "described_by": str(found.metadata_path),
        "shape": [height, width, count],
        "dtype": found.source.dtype.name,
        "values": None if not finite.size else [float(finite.min()), float(finite.max())],
        "sampled_rows": len(rows),
        "nodata": None if found.nodata is None or not np.isfinite(found.nodata) else float(found.nodata),
        "wavelengths": _stated(found),
        "units": found.units,
        "sensor": found.sensor_name,
    }


def _stated(found: Found) -> list[float] | None:
    """First and last wavelength as they are written, None where there are none."""
    if found.wavelengths is None:
        return None
    stated_C = np.asarray(found.wavelengths, np.float64).ravel()
    finite = stated_C[np.isfinite(stated_C)]
    return [float(finite[0]), float(finite[-1])] if len(finite) else None


def unread_text(facts: dict[str, Any]) -> str:
    """The facts as text, one a line."""
    height, width, count = facts["shape"]
    values = "none finite" if facts["values"] is None else "{:.6g} to {:.6g}".format(*facts["values"])
    stated = facts["wavelengths"]
    listed = "none stated" if stated is None else f"stated from {stated[0]:g} to {stated[1]:g}"
    if stated is not None:
        listed += f" in {facts['units']!r}" if facts["units"] else ", without their unit"
    return "\n".join(
        (
            facts["path"],
            f"  cube        {height} rows x {width} columns x {count} bands (numbered from 1), {facts['dtype']}",
            f"  values      {values} (stored, {facts['sampled_rows']} of {height} rows)",
            f"  wavelengths {listed}; looked for in {facts['described_by']}",
            f"  sensor      {facts['sensor'] or 'not stated'}",
        )
    )
