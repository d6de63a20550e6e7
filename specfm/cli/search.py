"""`specfm search`: where a scene looks like given pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from specfm.cli import _options as options
from specfm.cli._function import function, printed
from specfm.cli._results import SimilarityMap
from specfm.cli._scene import say_taught


@function
@options.with_reader
def search(
    checkpoint: options.Checkpoint,
    scene: options.SceneName,
    like: Annotated[list[str], typer.Option("--like", help="ROW,COL of an example pixel; may be given again.")],
    out: Annotated[Path, typer.Option("--out", help="FILE.tif, FILE.hdr (ENVI) or FILE.npy.")],
    top: Annotated[int, typer.Option(min=0, help="Best places to print.")] = 10,
    apart: Annotated[int, typer.Option(min=0, help="Least distance between them, pixels; 0 = half a window.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample that features are standardised by.")] = 0,
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
) -> SimilarityMap:
    """Write the cosine similarity of every pixel of SCENE to the nearest example, and list the best places."""
    from dataclasses import asdict

    from downstream.maps.search import search_to_file
    from specfm.cards.opening import open_scene
    from specfm.checkpoint import load, release_digest
    from specfm.dense.align import aligned
    from specfm.errors import UsageError

    try:
        wanted = [(int(row), int(col)) for row, col in (text.split(",") for text in like)]
    except ValueError:
        raise UsageError(f"--like {' '.join(like)}: give an example as ROW,COL, two whole numbers") from None
    encoder = load(checkpoint, device=device)
    cube = open_scene(scene, **reader)
    say_taught(encoder, [cube])
    if fit:
        encoder.fit(cube)
    with aligned(encoder, [cube], align) as on:
        places = search_to_file(
            encoder, cube, wanted, out, top=top, apart=apart, seed=seed, window=window, stride=stride, level=level,
            batch_size=batch_size, pixels=pixels, preview=not no_preview, overwrite=overwrite,
            facts={
                "checkpoint": release_digest(checkpoint), "sensor": cube.sensor.digest, "aligned": on,
                "fitted": encoder.card["fitted"] if fit else None,
            },
        )  # fmt: skip
    return SimilarityMap(out, cube, [asdict(place) for place in places])


@printed(search)
def command(found: SimilarityMap, top: int) -> None:
    """Print the best places, and why they are fewer than were asked for."""
    height, width = found.scene.shape[:2]
    typer.echo(f"{found.path}: cosine similarity, {height} x {width} pixels")
    for place in found.rows:
        where = "" if place["x"] is None else f"  x {place['x']:.2f} y {place['y']:.2f}"
        typer.echo(f"  {place['similarity']:+.3f}  at {place['row']},{place['col']}{where}")
    if len(found.rows) < top:
        typer.echo(
            f"{len(found.rows)} of {top} places: no other pixel with data lies far enough from these and from the "
            "examples; a smaller --apart finds more"
        )
