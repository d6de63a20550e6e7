"""Versions that go together, codecs of HDF5, drivers of rasters, and whether an encoder loads and computes."""

from __future__ import annotations

import importlib.util
import platform
import re
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from specfm.doctor.finding import Finding, bad, good, note

# What each optional package is for; the extra that brings it is read from the metadata or pyproject.toml.
OPTIONAL = {
    "rasterio": ("geo", "GeoTIFF is neither read nor written"),
    "matplotlib": ("viz", "no quicklooks and figures"),
    "jinja2": ("viz", "no report.html"),
    "tensorboard": ("tensorboard", "no event files"),
    "captum": ("explain", "no integrated gradients"),
    "distributed": ("cluster", "no specfm shard --scheduler"),
}


def interpreter() -> Iterator[Finding]:
    """Python and where specfm comes from."""
    from specfm import __version__

    version = ".".join(map(str, sys.version_info[:3]))
    where = Path(__file__).resolve().parents[1]
    said = f"{version} on {platform.system()} {platform.machine()}; specfm {__version__} from {where}"
    yield good("python", said)


def requirements() -> list[str]:
    """What specfm asks for, from its metadata or, in a checkout, from pyproject.toml; without extras."""
    try:
        listed = metadata.requires("specfm") or []
    except metadata.PackageNotFoundError:
        import tomllib

        path = Path(__file__).resolve().parents[2] / "pyproject.toml"
        listed = tomllib.loads(path.read_text(encoding="utf-8"))["project"]["dependencies"] if path.is_file() else []
    return [each for each in listed if "extra ==" not in each]


def packages() -> Iterator[Finding]:
    """Versions against what specfm asks for, and optional packages with what goes without them."""
    from packaging.requirements import Requirement

    count = 0
    for text in requirements():
        asked = Requirement(text)
        if asked.marker is not None and not asked.marker.evaluate():
            continue
        try:
            version = metadata.version(asked.name)
        except metadata.PackageNotFoundError:
            yield bad(asked.name, "is not installed", f'pip install "{text}"')
            continue
        if not asked.specifier.contains(version, prereleases=True):
            yield bad(asked.name, f"{version}, and specfm needs {asked.specifier}", f'pip install "{text}"')
            continue
        count += 1
    yield good("packages", f"{count} of those that specfm needs are there, in versions that will do")
    for name, (extra, without) in OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            yield note(name, f"is not installed: {without}", f'pip install "specfm[{extra}]"')


def torch_match() -> Iterator[Finding]:
    """Whether torchvision was built for this torch: where it was not, timm and lightly fail when imported."""
    import torch

    said = f"{torch.__version__}, built for {'CUDA ' + torch.version.cuda if torch.version.cuda else 'the CPU'}"
    asks = [each for each in metadata.requires("torchvision") or [] if re.match(r"torch\b", each)]
    vision = metadata.version("torchvision")
    wanted = re.search(r"==\s*([\d.]+)", asks[0]) if asks else None
    plain = torch.__version__.partition("+")[0]
    local = [v.partition("+")[2] for v in (torch.__version__, vision)]
    remedy = (
        "install both from one place at once: pip install --force-reinstall torch torchvision (of one index), or the "
        "pins of constraints.txt"
    )
    if wanted is not None and wanted[1] != plain:
        yield bad("torch", f"{said}; torchvision {vision} was built for torch {wanted[1]}", remedy)
    elif all(local) and local[0] != local[1]:
        yield bad("torch", f"{said}; torchvision {vision} is of another build", remedy)
    else:
        try:
            import torchvision

            boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
            torchvision.ops.nms(boxes, torch.ones(1), 0.5)  # the operator that is missing where they do not match
            yield good("torch", f"{said}; torchvision {vision} fits")
        except Exception as error:
            yield bad("torch", f"{said}; torchvision {vision} does not load ({error})", remedy)


def codecs() -> Iterator[Finding]:
    """Every codec of shards, written and read in memory."""
    import h5py
    import numpy as np

    from specfm.shards.schema import CODECS, codec_options

    cube = np.arange(4 * 6 * 6 * 5, dtype=np.uint16).reshape(4, 6, 6, 5)
    lost = []
    for codec in CODECS:
        try:
            with h5py.File("doctor", "w", driver="core", backing_store=False) as file:
                held = file.create_dataset("x", data=cube, **codec_options(codec, cube.shape[1:]))
                if not np.array_equal(held[()], cube):
                    lost.append(codec)
        except Exception:
            lost.append(codec)
    said = f"HDF5 {h5py.version.hdf5_version}, h5py {h5py.__version__}"
    if lost:
        yield bad(
            "codecs", f"{said}: {', '.join(lost)} cannot be written and read back",
            "pip install --force-reinstall h5py hdf5plugin (both from pip, or both from conda)",
        )  # fmt: skip
    else:
        yield good("codecs", f"{said}: {', '.join(CODECS)} written and read back")


def rasters() -> Iterator[Finding]:
    """GDAL's drivers, and whether PROJ finds its database (environments of conda often hand it another's)."""
    if importlib.util.find_spec("rasterio") is None:
        return
    import rasterio
    from rasterio.drivers import raster_driver_extensions

    said = f"rasterio {rasterio.__version__}, GDAL {rasterio.__gdal_version__}"
    lost = sorted({"GTiff"} - set(raster_driver_extensions().values()))
    if lost:
        yield bad("rasters", f"{said} without {', '.join(lost)}", "pip install --force-reinstall rasterio")
        return
    from specfm.crs import parse_crs

    if parse_crs("EPSG:32617") is None:
        yield bad(
            "rasters", f"{said}: PROJ does not know EPSG:32617",
            "unset PROJ_LIB and PROJ_DATA, which point at the database of another PROJ",
        )  # fmt: skip
        return
    yield good("rasters", f"{said}, PROJ finds its database")


def encoder() -> Iterator[Finding]:
    """An encoder that comes with specfm: its files are whole, and it computes."""
    import torch

    from specfm.bands import BandGrid
    from specfm.checkpoint import load

    start = time.perf_counter()
    model = load("real_nano")
    loaded = time.perf_counter() - start
    x_BHWC = torch.rand(8, 9, 9, 30)
    bands = BandGrid([450.0 + 15 * n for n in range(30)])
    with torch.inference_mode():
        model(x_BHWC, bands)
        start = time.perf_counter()
        features = model(x_BHWC, bands).pooled_BD
    took = time.perf_counter() - start
    said = f"real_nano loads in {loaded:.1f} s; {len(x_BHWC) / took:.0f} windows of 9 x 9 x 30 a second on the CPU"
    if bool(torch.isfinite(features).all()):
        yield good("encoder", said)
    else:
        yield bad("encoder", f"{said}, and its features are not finite", "reinstall torch; this build computes wrongly")
