"""`specfm embed`: dense features of a whole scene, written as it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from specfm.cli import _options as options
from specfm.cli._scene import say_no_data


@options.with_reader
def command(
    checkpoint: options.Checkpoint,
    scene: options.SceneName,
    out: Annotated[Path, typer.Option("--out", help="FILE.npy, FILE.hdr (ENVI) or FILE.tif.")],
    window: options.Window = 0,
    stride: options.Stride = 0,
    level: options.Level = "scene",
    pca_png: Annotated[Path | None, typer.Option(help="Also write a false-colour PNG of three components.")] = None,
    pca_tif: Annotated[Path | None, typer.Option(help="The same at full size: .tif, .hdr or .npy of bytes.")] = None,
    even: Annotated[
        bool, typer.Option("--even", help="Take out what features say of their place in a tile; tiles show otherwise.")
    ] = False,
    *,
    reader: dict[str, Any],
    batch_size: options.BatchSize = 32,
    device: options.Device = "cpu",
    fit: options.Fit = False,
    pixels: options.Pixels = False,
    align: options.Align = None,
    align_with: Annotated[
        list[str] | None,
        typer.Option(
            help="Align for a comparison with this sensor, as the poorest tells it: a known sensor (all its bands, see "
            "specfm sensors) or the other scene (a file, CARD or CARD:SCENE); repeatable."
        ),
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write one feature vector per patch of SCENE (or per pixel), with coordinates, in bounded memory."""
    from specfm.cards.opening import open_scene
    from specfm.checkpoint import load, release_digest
    from specfm.dense.align import aligned
    from specfm.dense.stream import embed_to_file
    from specfm.errors import UsageError

    if align_with and align is False:
        raise UsageError("--align-with asks for what --no-align refuses; leave one out")
    others = [_sensor(name) for name in align_with or ()]
    encoder = load(checkpoint, device=device)
    cube = open_scene(scene, **reader)
    if fit:
        encoder.fit(cube)
    with aligned(encoder, [cube], True if others else align, others=others) as on:
        facts = {
            "checkpoint": release_digest(checkpoint), "sensor": cube.sensor.digest, "aligned": on,
            "aligned_with": sorted(align_with or ()), "fitted": encoder.card["fitted"] if fit else None,
        }  # fmt: skip
        done = embed_to_file(
            encoder, cube, out, window=window, stride=stride, level=level, pca_png=pca_png, pca_tif=pca_tif,
            even=even, batch_size=batch_size, pixels=pixels, overwrite=overwrite, facts=facts,
        )  # fmt: skip
    height, width, depth = done["shape"]
    cells = "pixels" if pixels else f"patches of {done['patch']} px"
    typer.echo(f"{out}: {height} x {width} {cells}, {depth} features each")
    if not done["with_data"]:
        say_no_data(cube)
    for path in (pca_png, pca_tif):
        if path is not None:
            typer.echo(f"{path}: false colours of the first three principal components")


def _sensor(name: str) -> Any:
    """A known sensor by any of its names, or that of a scene."""
    from specfm.cards.opening import open_scene
    from specfm.errors import UsageError
    from specfm.sensor_table import get_sensor

    try:
        return get_sensor(name)
    except UsageError as error:
        unknown = error
    try:
        return open_scene(name).sensor
    except UsageError as error:
        raise UsageError(f"--align-with: {unknown}, or a scene: {error}") from None
