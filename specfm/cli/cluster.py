"""`specfm cluster`: a map of a scene without any label."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specfm.cli import _scene as options


def command(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder or run.")],
    scene: options.SceneName,
    out: Annotated[Path, typer.Option("--out", help="FILE.tif, FILE.hdr (ENVI Classification) or FILE.npy.")],
    classes: Annotated[int, typer.Option(help="Number of clusters.")] = 8,
    method: Annotated[str, typer.Option(help="kmeans, or spectral (on a sample of patches).")] = "kmeans",
    seed: Annotated[int, typer.Option(help="Of the sample and the clustering.")] = 0,
    window: options.Window = 0,
    stride: options.Stride = 0,
    level: options.Level = "scene",
    variable: options.Variable = None,
    layout: options.Layout = None,
    sensor: options.SensorName = None,
    wavelengths: options.Wavelengths = None,
    units: options.Units = None,
    quantity: options.Quantity = None,
    scale: options.Scale = None,
    nodata: options.Nodata = None,
    batch_size: options.BatchSize = 32,
    device: options.Device = "cpu",
    no_preview: options.NoPreview = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Group the patches of SCENE by their embeddings and write a map of the groups; needs no label."""
    from downstream.maps.cluster import cluster_to_file
    from specfm.checkpoint import load, release_digest

    encoder = load(checkpoint, device=device)
    cube = options.open_scene(
        scene, variable=variable, layout=layout, sensor=sensor, wavelengths=wavelengths, units=units,
        quantity=quantity, scale=scale, nodata=nodata,
    )  # fmt: skip
    shares = cluster_to_file(
        encoder, cube, out, classes=classes, method=method, seed=seed, window=window, stride=stride, level=level,
        batch_size=batch_size, preview=not no_preview, overwrite=overwrite,
        facts={"checkpoint": release_digest(checkpoint), "sensor": cube.sensor.digest},
    )  # fmt: skip
    options.say_map(out, cube, shares, preview=not no_preview)
