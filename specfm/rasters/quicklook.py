"""False-colour quicklook of a scene as PNG, written without any plotting library.

Shapes: h, w size of the picture; C bands.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from specfm.errors import SpecfmError
from specfm.files import atomic_write_bytes, refuse_existing
from specfm.scene import Scene

RGB_NM = (650.0, 550.0, 450.0)
NEAR_NM = 40.0  # a band further away does not show that colour
LONGEST, SHORTEST = 1024, 256  # the picture's longer side, in pixels
PERCENTILES = (2.0, 98.0)


def quicklook_bands(scene: Scene) -> tuple[int, int, int]:
    """Bands shown as red, green and blue: nearest 650 / 550 / 450 nm, or spread over the range outside the visible.

    Raises:
        SpecfmError: the scene has no usable band.
    """
    grid = scene.sensor.bands
    usable = np.flatnonzero(grid.valid)
    if not len(usable):
        raise SpecfmError(f"{scene.where}: no usable band to show")
    centres = grid.wavelengths_nm[usable]
    near = [int(np.abs(centres - colour).argmin()) for colour in RGB_NM]
    if any(abs(centres[index] - colour) > NEAR_NM for index, colour in zip(near, RGB_NM, strict=True)):
        low, high = centres.min(), centres.max()
        near = [int(np.abs(centres - (low + share * (high - low))).argmin()) for share in (5 / 6, 1 / 2, 1 / 6)]
    return tuple(int(usable[index]) for index in near)  # type: ignore[return-value]


def quicklook(scene: Scene) -> tuple[NDArray[np.uint8], tuple[int, int, int]]:
    """A picture ``[h, w, 4]`` (RGBA, every colour stretched from its 2nd to its 98th percentile) and its three bands.

    Large scenes are thinned, small ones enlarged; pixels without a finite, valid value are transparent.
    """
    bands = quicklook_bands(scene)
    height, width, _ = scene.shape
    step = max(1, -(-max(height, width) // LONGEST))
    values = scene.values(slice(None, None, step), slice(None, None, step), bands)
    shown = np.isfinite(values).all(axis=2) & (values != 0).any(axis=2)
    picture = np.zeros((*values.shape[:2], 4), np.uint8)
    if shown.any():
        low, high = np.percentile(values[shown], PERCENTILES, axis=0)
        stretched = (values[shown] - low) / np.where(high > low, high - low, 1.0)
        picture[shown, :3] = np.clip(np.rint(stretched * 255), 0, 255)
        picture[shown, 3] = 255
    return enlarged(picture), bands


def write_quicklook(scene: Scene, path: str | Path, overwrite: bool = False) -> tuple[int, int, int]:
    """Write the picture; returns the bands shown.

    Raises:
        UsageError: ``path`` exists and ``overwrite`` is False.
    """
    path = Path(path)
    refuse_existing(path, overwrite, "--quicklook")
    picture, bands = quicklook(scene)
    atomic_write_bytes(path, png_bytes(picture))
    return bands


def enlarged(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A small picture with every pixel repeated, so that its longer side comes near ``SHORTEST``."""
    times = max(1, SHORTEST // max(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


class Thinned:
    """A picture of rows that come one piece at a time, thinned so that its longer side is at most ``LONGEST``."""

    def __init__(self, shape_hw: tuple[int, int], channels: int) -> None:
        self.step = max(1, -(-max(shape_hw) // LONGEST))
        self.image = np.zeros((-(-shape_hw[0] // self.step), -(-shape_hw[1] // self.step), channels), np.uint8)

    def add(self, first: int, rows_hwK: NDArray[np.uint8]) -> None:
        """Rows ``[h, w, K]`` of the whole; ``first`` is the number of the first."""
        skip = -first % self.step
        kept = rows_hwK[skip :: self.step, :: self.step]
        start = (first + skip) // self.step
        self.image[start : start + len(kept)] = kept


def png_bytes(picture_hw4: NDArray[np.uint8]) -> bytes:
    """An 8-bit RGBA picture as a PNG file (ISO/IEC 15948)."""
    height, width, _ = picture_hw4.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = np.zeros((height, 1 + width * 4), np.uint8)  # each line begins with its filter type, 0 = none
    lines[:, 1:] = picture_hw4.reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
