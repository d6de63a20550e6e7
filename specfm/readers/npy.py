"""NumPy ``.npy`` cubes, read by window with checked reads; no pickled objects, no memory map."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from specfm.errors import SpecfmError
from specfm.readers.axes import BAND_AXIS, band_layout
from specfm.readers.checked import FlatSource
from specfm.readers.found import Found
from specfm.readers.layouts import check_layout


def read_npy(path: Path, layout: str | None, supplied: Callable[[], int | None] = lambda: None) -> Found:
    """Open a numeric array; it carries no wavelengths, so the scene needs ``sensor`` or ``wavelengths``.

    Args:
        path: the file.
        layout: HWC (default), CHW, HCW, spectra (N x C) or bands_by_pixels:HxW (pixels column by column).
        supplied: length of the list of bands that the user supplies, None without one.

    Raises:
        SpecfmError: not numeric, wrong number of axes, cut short, or a supplied list that fits another axis.
    """
    check_layout(layout or "HWC")
    try:
        with path.open("rb") as handle:
            shape, fortran, dtype = npy_header(handle)
            offset = handle.tell()
    except (OSError, ValueError) as error:
        raise SpecfmError(f"{path}: not a readable npy file ({error}); write it again with numpy.save") from None
    if dtype.kind not in "iufcb":
        raise SpecfmError(f"{path}: holds {dtype}, not numbers")
    what = f"{path}: the array has shape {'x'.join(map(str, shape))}"
    if len(shape) == 3 and (layout is None or layout in BAND_AXIS):
        layout = band_layout(f"{path}: the array", shape, layout, supplied=supplied)
    axes, cube = _axes(shape, layout or "HWC", what)
    if fortran:
        # the pixel axis of a matrix keeps its own order inside
        axes = "WHC" if len(shape) == 2 and axes == "CWH" else axes[::-1]
    source = FlatSource(path, cube, dtype, axes, offset, "its npy header")
    return Found(source=source, path=path, name=path.stem)


def npy_header(handle: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns run first, and type, as the header of an npy file at ``handle`` states them.

    Raises:
        ValueError: a damaged header, in a few words that do not quote it.
    """
    try:
        version = np.lib.format.read_magic(handle)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote, or that nobody should have written
            shape, fortran, dtype = read(handle)
    except Exception:  # NumPy parses the header as Python text: tokens, syntax, recursion, types
        raise ValueError("its header is damaged") from None
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError("its header states a shape that no array has")
    return shape, fortran, dtype


def _axes(shape: tuple[int, ...], layout: str, what: str) -> tuple[str, tuple[int, int, int]]:
    """File order of the axes (C-contiguous) and (H, W, C)."""
    if layout in BAND_AXIS and len(shape) == 3:
        sizes = dict(zip(layout, shape, strict=True))
        return layout, (sizes["H"], sizes["W"], sizes["C"])
    if layout == "spectra" and len(shape) == 2:
        return "HWC", (shape[0], 1, shape[1])
    if layout.startswith("bands_by_pixels") and len(shape) == 2:
        height, width = (int(side) for side in layout.split(":")[1].split("x"))
        if height * width == shape[1]:
            return "CWH", (height, width, shape[0])  # pixels run down the columns
    raise SpecfmError(
        f"{what}, which layout {layout} does not fit; name its layout (HWC, CHW, HCW, spectra, bands_by_pixels:HxW)"
    )
