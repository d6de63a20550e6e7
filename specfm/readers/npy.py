"""NumPy ``.npy`` cubes, read by window with checked reads; no pickled objects, no memory map."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from specfm.errors import SpecfmError
from specfm.readers.checked import FlatSource
from specfm.readers.found import Found
from specfm.readers.matlab import check_layout


def read_npy(path: Path, layout: str | None) -> Found:
    """Open a numeric array; it carries no wavelengths, so the scene needs ``sensor`` or ``wavelengths``.

    Args:
        layout: HWC (default), CHW, spectra (N x C) or bands_by_pixels:HxW (pixels column by column).

    Raises:
        SpecfmError: not numeric, wrong number of axes, or cut short.
    """
    layout = layout or "HWC"
    check_layout(layout)
    try:
        with path.open("rb") as handle:
            version = np.lib.format.read_magic(handle)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(handle)
            offset = handle.tell()
    except ValueError as error:
        raise SpecfmError(f"{path}: not a readable npy file ({error})") from None
    if dtype.kind not in "iufcb":
        raise SpecfmError(f"{path}: holds {dtype}, not numbers")
    what = f"{path}: the array has shape {'x'.join(map(str, shape))}"
    axes, cube = _axes(shape, layout, what)
    if fortran:
        # the pixel axis of a matrix keeps its own order inside
        axes = "WHC" if axes == "CWH" else axes[::-1]
    source = FlatSource(path, cube, dtype, axes, offset, "its npy header")
    return Found(source=source, path=path, name=path.stem)


def _axes(shape: tuple[int, ...], layout: str, what: str) -> tuple[str, tuple[int, int, int]]:
    """File order of the axes (C-contiguous) and (H, W, C)."""
    if layout == "HWC" and len(shape) == 3:
        return "HWC", shape  # type: ignore[return-value]
    if layout == "CHW" and len(shape) == 3:
        return "CHW", (shape[1], shape[2], shape[0])
    if layout == "spectra" and len(shape) == 2:
        return "HWC", (shape[0], 1, shape[1])
    if layout.startswith("bands_by_pixels") and len(shape) == 2:
        height, width = (int(side) for side in layout.split(":")[1].split("x"))
        if height * width == shape[1]:
            return "CWH", (height, width, shape[0])  # pixels run down the columns
    raise SpecfmError(
        f"{what}, which layout {layout} does not fit; name its layout (HWC, CHW, spectra, bands_by_pixels:HxW)"
    )
