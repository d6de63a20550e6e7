"""Which axes of an array without a description are rows, columns and bands, as a user says it with a layout."""

from __future__ import annotations

import re
from typing import Any

from numpy.typing import NDArray

from specfm.errors import SpecfmError, UsageError
from specfm.readers.axes import BAND_AXIS
from specfm.readers.axes import by as _by

LAYOUTS = '"HWC" (default), "CHW", "HCW", "bands_by_pixels:HxW" (pixels column by column), "spectra" (N x C)'


def check_layout(layout: str) -> None:
    """Refuse a layout that does not exist.

    Raises:
        UsageError: with the list of layouts.
    """
    if layout not in (*BAND_AXIS, "spectra") and not re.fullmatch(r"bands_by_pixels:[0-9]{1,9}x[0-9]{1,9}", layout):
        raise UsageError(f"unknown layout {layout!r}; give one of {LAYOUTS}")


def layout_shape(shape: tuple[int, ...], layout: str, what: str) -> tuple[int, int, int]:
    """(H, W, C) of an array of ``shape`` (as MATLAB shows it) under ``layout``.

    Raises:
        SpecfmError: the array does not have that form.
    """
    if layout in BAND_AXIS:
        if len(shape) != 3:
            raise SpecfmError(f"{what} has shape {_by(shape)}; layout {layout} needs three axes, give one of {LAYOUTS}")
        sizes = dict(zip(layout, shape, strict=True))
        return (sizes["H"], sizes["W"], sizes["C"])
    if len(shape) != 2:
        raise SpecfmError(f"{what} has shape {_by(shape)}; layout {layout} needs a matrix")
    if layout == "spectra":
        return (shape[0], 1, shape[1])
    height, width = (int(side) for side in layout.split(":")[1].split("x"))
    if height * width != shape[1]:
        raise SpecfmError(f"{what} has shape {_by(shape)}, which is not bands x pixels of a {height}x{width} image")
    return (height, width, shape[0])


def apply_layout(array: NDArray[Any], layout: str, shape: tuple[int, int, int]) -> NDArray[Any]:
    """Bring an array (axes as MATLAB shows them) to ``[H, W, C]``."""
    if layout in BAND_AXIS:
        return array.transpose([layout.index(axis) for axis in "HWC"])
    if layout.startswith("bands_by_pixels"):
        return array.T.reshape(shape, order="F")
    return array.reshape(shape)
