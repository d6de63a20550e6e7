"""`specfm embed`: dense features of a whole scene, written as it is read, or one vector a specimen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from specfm.cli import _options as options
from specfm.cli._function import function, printed
from specfm.cli._results import FeatureMap, Vectors
from specfm.cli._scene import say_no_data, say_taught


@function
@options.with_reader
def embed(
    checkpoint: options.Checkpoint,
    scenes: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENE...",
            help="ENVI, GeoTIFF, MATLAB, HDF5 or .npy file; CARD or CARD:SCENE. Per specimen: several, folders too.",
        ),
        options.OR_CARD,
    ],
    out: Annotated[
        Path, typer.Option("--out", help="FILE.npy, FILE.hdr (ENVI) or FILE.tif; per specimen FILE.csv or FILE.npy.")
    ],
    per: Annotated[
        str, typer.Option(help="patch (dense features) or specimen (one vector for each: no map is kept).")
    ] = "patch",
    whole: options.Whole = None,
    object_threshold: options.ObjectThreshold = None,
    dark_objects: options.DarkObjects = False,
    bands: options.Bands = None,
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
        options.OR_SENSOR,
    ] = None,
    overwrite: options.Overwrite = False,
) -> FeatureMap | Vectors:
    """Write one feature vector per patch of SCENE (or pixel), with coordinates, in bounded memory, or per specimen."""
    from specfm.cards.opening import open_scene, open_sensor
    from specfm.checkpoint import load, release_digest
    from specfm.cli._specimens import find, open_several
    from specfm.dense.align import aligned
    from specfm.dense.per_specimen import check_out, embed_specimens
    from specfm.dense.stream import embed_to_file
    from specfm.errors import UsageError
    from specfm.selected_scene import select_scenes

    specimens = per == "specimen"
    if per not in ("patch", "specimen"):
        raise UsageError(f"--per is {per!r}; give patch or specimen")
    if not specimens and (len(scenes) > 1 or whole is not None or object_threshold is not None or dark_objects):
        raise UsageError(
            "several scenes, --whole, --object-threshold and --dark-objects are for --per specimen; give one scene"
        )
    if whole is not None and (window or stride or level != "scene"):
        raise UsageError(
            "--window, --stride and --level are of tiles, and --whole sees each specimen in one go by its own level; "
            "leave one or the other out"
        )
    if specimens and (pca_png or pca_tif or even or pixels):
        raise UsageError(
            "--pca-png, --pca-tif, --even and --pixels are of dense features; leave them out with --per specimen"
        )
    if align_with and align is False:
        raise UsageError("--align-with asks for what --no-align refuses; leave one out")
    if specimens:
        check_out(out, overwrite)
    others = [open_sensor(name, "--align-with") for name in align_with or ()]
    encoder = load(checkpoint, device=device)
    cubes = select_scenes(open_several(scenes, reader) if specimens else [open_scene(scenes[0], **reader)], bands)
    say_taught(encoder, cubes)
    if fit:
        encoder.fit(cubes)
    with aligned(encoder, cubes, True if others else align, others=others) as on:
        facts = {
            "checkpoint": release_digest(checkpoint), "sensor": cubes[0].sensor.digest, "aligned": on,
            "aligned_with": sorted(map(_called, align_with or ())), "fitted": encoder.card["fitted"] if fit else None,
            **({} if bands is None else {"bands": bands}),
        }  # fmt: skip
        if specimens:
            vectors = embed_specimens(
                encoder, find(cubes, object_threshold, dark_objects), whole=whole, window=window, stride=stride,
                level=level, batch_size=batch_size, facts=facts,
            )  # fmt: skip
            return Vectors(vectors.write(out, overwrite), vectors.rows, vectors.vectors_ND)
        done = embed_to_file(
            encoder, cubes[0], out, window=window, stride=stride, level=level, pca_png=pca_png, pca_tif=pca_tif,
            even=even, batch_size=batch_size, pixels=pixels, overwrite=overwrite, facts=facts,
        )  # fmt: skip
    return FeatureMap(out, cubes[0], done)


@printed(embed)
def command(found: FeatureMap | Vectors, pixels: bool, pca_png: Path | None, pca_tif: Path | None) -> None:
    """Say how many features were written."""
    if isinstance(found, Vectors):
        count, depth = found.array.shape
        typer.echo(f"{' and '.join(map(str, found.paths))}: {count} specimens, {depth} features each")
        return
    height, width, depth = found.facts["shape"]
    cells = "pixels" if pixels else f"patches of {found.facts['patch']} px"
    typer.echo(f"{found.path}: {height} x {width} {cells}, {depth} features each")
    if not found.facts["with_data"]:
        say_no_data(found.scene)
    for path in (pca_png, pca_tif):
        if path is not None:
            typer.echo(f"{path}: false colours of the first three principal components")


def _called(sensor: Any) -> str:
    """How facts name what was aligned with: as it was written, else by the sensor's name or digest."""
    told = getattr(sensor, "sensor", sensor)  # of a Scene
    return sensor if isinstance(sensor, str) else str(told.name or told.digest)
