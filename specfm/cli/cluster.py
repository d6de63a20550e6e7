"""`specfm cluster`: a map of a scene without any label."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from specfm.cli import _options as options
from specfm.cli._function import function, printed
from specfm.cli._results import ClassMap
from specfm.cli._scene import say_map, say_taught


@function
@options.with_reader
def cluster(
    checkpoint: options.Checkpoint,
    scene: options.SceneName,
    out: options.MapOut,
    classes: Annotated[int, typer.Option(min=2, max=255, help="Number of clusters.")] = 8,
    method: Annotated[str, typer.Option(help="kmeans, or spectral (on a sample of patches).")] = "kmeans",
    seed: Annotated[int, typer.Option(min=0, help="Of the sample and the clustering.")] = 0,
    window: options.Window = 0,
    stride: options.Stride = 0,
    level: options.Level = "scene",
    *,
    reader: dict[str, Any],
    batch_size: options.BatchSize = 32,
    device: options.Device = "cpu",
    fit: options.Fit = False,
    pixels: options.Pixels = False,
    align: options.Align = None,
    no_preview: options.NoPreview = False,
    overwrite: options.Overwrite = False,
) -> ClassMap:
    """Group the patches of SCENE by their embeddings and write a map of the groups; needs no label."""
    from downstream.maps.cluster import cluster_to_file
    from specfm.cards.opening import open_scene
    from specfm.checkpoint import load, release_digest
    from specfm.dense.align import aligned

    encoder = load(checkpoint, device=device)
    cube = open_scene(scene, **reader)
    say_taught(encoder, [cube])
    if fit:
        encoder.fit(cube)
    with aligned(encoder, [cube], align) as on:
        shares = cluster_to_file(
            encoder, cube, out, classes=classes, method=method, seed=seed, window=window, stride=stride, level=level,
            batch_size=batch_size, pixels=pixels, preview=not no_preview, overwrite=overwrite,
            facts={
                "checkpoint": release_digest(checkpoint), "sensor": cube.sensor.digest, "aligned": on,
                "fitted": encoder.card["fitted"] if fit else None,
            },
        )  # fmt: skip
    return ClassMap(out, cube, shares, None if no_preview else out.with_suffix(".png"))


@printed(cluster)
def command(found: ClassMap) -> None:
    """Say what the map holds."""
    say_map(found)
