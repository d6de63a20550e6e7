"""`specfm embed`: dense features of a whole scene, written as it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder or run.")],
    scene: Annotated[Path, typer.Argument(help="ENVI, GeoTIFF, MATLAB, HDF5 or .npy file.")],
    out: Annotated[Path, typer.Option("--out", help="FILE.npy, FILE.hdr (ENVI) or FILE.tif.")],
    window: Annotated[int, typer.Option(help="Side of a tile, pixels; 0 = 8 patches.")] = 0,
    stride: Annotated[int, typer.Option(help="Step between tiles, pixels; 0 = half a window.")] = 0,
    level: Annotated[str, typer.Option(help="Brightness level divided out: scene (no seams) or sample.")] = "scene",
    pca_png: Annotated[Path | None, typer.Option(help="Also write a false-colour PNG of three components.")] = None,
    variable: Annotated[str | None, typer.Option(help="Name of the cube in a MATLAB or HDF5 file.")] = None,
    layout: Annotated[str | None, typer.Option(help="Axes: HWC, CHW, spectra or bands_by_pixels:HxW.")] = None,
    sensor: Annotated[str | None, typer.Option(help="A known sensor, if the file is silent.")] = None,
    wavelengths: Annotated[Path | None, typer.Option(help="CSV: band,centre_nm,fwhm_nm, if it is silent.")] = None,
    units: Annotated[str | None, typer.Option(help="Unit of the wavelengths, if it does not say: nm, um.")] = None,
    quantity: Annotated[str | None, typer.Option(help="dn, radiance, ... if the file is silent.")] = None,
    scale: Annotated[float | None, typer.Option(help="physical = stored * scale; wins over the file.")] = None,
    nodata: Annotated[float | None, typer.Option(help="Stored value of pixels not measured.")] = None,
    batch_size: Annotated[int, typer.Option(help="Tiles per forward call.")] = 32,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing output files.")] = False,
) -> None:
    """Write one feature vector per patch of SCENE, with coordinates, in bounded memory."""
    from specfm.checkpoint import load, release_digest
    from specfm.readers import read_scene
    from specfm.stream import embed_to_file

    encoder = load(checkpoint, device=device)
    cube = read_scene(
        scene, variable=variable, layout=layout, sensor=sensor, wavelengths=wavelengths, units=units,
        quantity=quantity, scale=scale, nodata=nodata,
    )  # fmt: skip
    facts = {"checkpoint": release_digest(checkpoint), "sensor": cube.sensor.digest}
    done = embed_to_file(
        encoder, cube, out, window=window, stride=stride, level=level, pca_png=pca_png, batch_size=batch_size,
        overwrite=overwrite, facts=facts,
    )  # fmt: skip
    height, width, depth = done["shape"]
    typer.echo(f"{out}: {height} x {width} patches of {done['patch']} px, {depth} features each")
    if pca_png is not None:
        typer.echo(f"{pca_png}: false colours of the first three principal components")
