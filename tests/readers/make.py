"""Small files of every format, made by code. Shapes: H rows, W columns, C bands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

ENVI_CODES = {
    "u1": 1, "i2": 2, "i4": 3, "f4": 4, "f8": 5, "c8": 6, "c16": 9, "u2": 12, "u4": 13, "i8": 14, "u8": 15,
}  # fmt: skip
FILE_AXES = {"bsq": (2, 0, 1), "bil": (0, 2, 1), "bip": (0, 1, 2)}


def cube(shape: tuple[int, int, int] = (5, 7, 6), dtype: str = "i2", seed: int = 0) -> np.ndarray:
    """Random numbers that use the whole range of the type."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        info = np.iinfo(kind)
        return rng.integers(info.min, info.max, shape, dtype=kind, endpoint=True)
    values = rng.standard_normal(shape)
    return (values + 1j * rng.standard_normal(shape)).astype(kind) if kind.kind == "c" else values.astype(kind)


def centres(count: int) -> list[float]:
    return [400.0 + 10.0 * band for band in range(count)]


def header(shape: tuple[int, int, int], dtype: str, interleave: str = "bsq", **extra: Any) -> dict[str, Any]:
    """The keys of a plain, complete header; ``extra`` replaces or, with None, removes (``_`` stands for a space)."""
    height, width, count = shape
    keys: dict[str, Any] = {
        "samples": width, "lines": height, "bands": count, "header offset": 0, "file type": "ENVI Standard",
        "data type": ENVI_CODES[dtype], "interleave": interleave, "byte order": 0, "wavelength units": "nm",
        "wavelength": "{" + ", ".join(map(str, centres(count))) + "}",
    }  # fmt: skip
    keys.update({key.replace("_", " "): value for key, value in extra.items()})
    return {key: value for key, value in keys.items() if value is not None}


def header_text(keys: dict[str, Any]) -> str:
    return "ENVI\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())


def envi(
    folder: Path,
    cube_HWC: np.ndarray,
    interleave: str = "bsq",
    big_endian: bool = False,
    offset: int = 0,
    name: str = "scene.dat",
    **extra: Any,
) -> Path:
    """Write an ENVI pair; returns the header's path."""
    dtype = cube_HWC.dtype.str[1:]
    stored = cube_HWC.transpose(FILE_AXES.get(interleave, (2, 0, 1)))
    stored = stored.astype(cube_HWC.dtype.newbyteorder(">" if big_endian else "<"))
    data = folder / name
    data.write_bytes(b"\xff" * offset + stored.tobytes())
    keys = header(
        cube_HWC.shape, dtype, interleave, **{"byte_order": int(big_endian), "header_offset": offset, **extra}
    )
    path = data.with_suffix(".hdr")
    path.write_text(header_text(keys))
    return path


def bands_csv(folder: Path, count: int, name: str = "bands.csv") -> Path:
    path = folder / name
    rows = "".join(f"{band + 1},{centre},8.0\n" for band, centre in enumerate(centres(count)))
    path.write_text("band,centre_nm,fwhm_nm\n" + rows)
    return path


def tiff(path: Path, cube_HWC: np.ndarray, place: bool = False, **profile: Any) -> Path:
    """Write a GeoTIFF."""
    import rasterio
    from rasterio.transform import from_origin

    height, width, count = cube_HWC.shape
    if place:
        profile |= {"crs": "EPSG:32617", "transform": from_origin(500000, 4100000, 2, 2)}
    profile |= {"height": height, "width": width, "count": count, "dtype": cube_HWC.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **profile) as raster:
        raster.write(cube_HWC.transpose(2, 0, 1))
    return path


def tag(path: Path, band: int = 0, ns: str | None = None, **tags: Any) -> None:
    """Add tags to a GeoTIFF or one of its bands."""
    import rasterio

    with rasterio.open(path, "r+") as raster:
        target = {key.replace("_", " ") if ns == "ENVI" else key: value for key, value in tags.items()}
        raster.update_tags(band, ns=ns, **target) if band else raster.update_tags(ns=ns, **target)
