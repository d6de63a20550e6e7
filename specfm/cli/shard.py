"""`specfm shard`: cubes to shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specfm.cli import _options as options
from specfm.cli._function import function, printed
from specfm.cli._results import Shards
from specfm.cli._show import wide_console
from specfm.shards.options import CODEC, MOST_WORKERS, WINDOW, WindowOptions

if TYPE_CHECKING:
    from specfm.scene import Scene


@function
@options.with_reader
def shard(
    inputs: Annotated[list[str], typer.Argument(help="Dataset cards (name or .yaml), cube files, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the shards.")],
    window: Annotated[
        int | None, typer.Option(help="Side of a window, pixels.", show_default=f"{WINDOW}, of lists of spectra 1")
    ] = None,
    window_width: Annotated[int | None, typer.Option(help="Width of a window, where it is not square.")] = None,
    stride: Annotated[int | None, typer.Option(help="Step between windows, pixels.", show_default="half")] = None,
    min_valid: Annotated[
        float, typer.Option(help="Least share of valid (object) pixels of a window.")
    ] = WindowOptions.min_valid,
    label: Annotated[str, typer.Option(help="Label of a window: centre (pixel) or majority.")] = WindowOptions.label,
    labelled_only: Annotated[
        bool, typer.Option("--labelled-only", help="Drop windows without a label.")
    ] = WindowOptions.labelled_only,
    object_threshold: Annotated[
        str | None, typer.Option(help="Lab scans: keep pixels whose mean stored level is above otsu or a number.")
    ] = WindowOptions.object_threshold,  # type: ignore[assignment]  # a number is written as text
    dark_objects: Annotated[
        bool, typer.Option("--dark-objects", help="Objects lie below the threshold.")
    ] = WindowOptions.dark_objects,
    background_mask: Annotated[
        Path | None, typer.Option(help="Raster of one array (.npy, .png, .tif, ENVI ...), non-zero where background.")
    ] = None,
    whole: Annotated[
        int | None,
        typer.Option(
            help="One window a specimen (its groups or object pixels): all of it on so many pixels a side, with the "
            "label of most of them. --window, --stride, --min-valid and --label are then left out."
        ),
    ] = None,
    bands: options.Bands = None,
    codec: Annotated[str, typer.Option(help="none, chunks, blosc-zstd, lz4 or gzip.")] = CODEC,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Reading processes of this machine.", show_default=f"cores, at most {MOST_WORKERS}; 1 for little"
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Let the workers of a Dask cluster read instead (tcp://HOST:8786; needs specfm[cluster]). They must "
            "see the cubes at the same paths; the shards are written here, and are the same byte by byte.",
        ),
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="Domain of every sample; default card's, sensor's or folder's.")
    ] = None,
    *,
    reader: dict[str, Any],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be written.")] = False,
    append: Annotated[
        bool,
        typer.Option("--append", help="Add scenes to a finished --out; what it holds stays as it is, byte by byte."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.")] = False,
) -> Shards:
    """Cut cubes into windows and pack them as HDF5 shards, one per data set and sensor.

    Run the same command again after an interruption: finished shards with the same inputs are kept. More scenes come to
    a finished folder with --append, with or without those that it holds.
    """
    import numpy as np

    from specfm.cards.labels import is_set
    from specfm.cards.opening import open_scenes
    from specfm.cards.raster_files import read_raster
    from specfm.grids import Grid, require_one_grid
    from specfm.progress import stages
    from specfm.shards.build import write_shards

    background = None
    if background_mask is not None:
        raster = read_raster(background_mask)
        set_pixels = is_set(raster)
        background = np.asarray(set_pixels.any(-1)) if set_pixels.ndim == 3 else set_pixels

    def scenes() -> Iterator[Scene]:
        for scene in open_scenes(inputs, reader, domain):
            if background_mask is not None and raster.grid is not None:
                require_one_grid(Grid.of(scene), raster.grid)
            yield scene

    with stages() as told:
        rows = write_shards(
            scenes(),
            out,
            window if window_width is None else (window or WINDOW, window_width),
            stride,
            min_valid=min_valid,
            label=label,
            labelled_only=labelled_only,
            object_threshold=options.number(object_threshold),
            dark_objects=dark_objects,
            background_HW=background,
            whole=whole,
            bands=bands,
            codec=codec,
            workers=workers,
            scheduler=scheduler,
            append=append,
            overwrite=overwrite,
            dry_run=dry_run,
            progress=told,
        )
    return Shards(out, rows)


@printed(shard)
def command(
    found: Shards,
    dry_run: bool,
    append: bool,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print a row a shard."""
    import json

    from rich.table import Table

    from specfm.shards.manifest import read_manifest

    rows = found.rows
    if as_json:
        typer.echo(json.dumps({"out": str(found.path), "written": not dry_run, "shards": rows}, indent=1))
        return
    table = Table("shard", "status", "domain", "sensor", "bands", "type", "scenes", "samples", "labelled", "MiB")
    for row in rows:
        size = f"{row['bytes'] / 2**20:.1f}"
        status = "written" if row["status"] == "write" and not dry_run else row["status"]
        texts = [row["file"], status, row["domain"], row["sensor"] or "-", row["bands"], row["dtype"]]
        table.add_row(*map(str, [*texts, row["scenes"], row["samples"], row["labelled"], size]))
    shown = wide_console(200)
    shown.print(table)
    total = sum(row["samples"] for row in rows)
    verb = "would be written to" if dry_run else "in"
    shown.print(f"{total} samples {verb} {found.path}", highlight=False)
    if append and not dry_run:
        held = read_manifest(found.path)["shards"]
        whole = sum(row["samples"] for row in held)
        shown.print(f"the folder now holds {whole} samples in {len(held)} shards", highlight=False)
    if dry_run and (readers := {row["read_by"] for row in rows} - {""}):
        shown.print(f"written by this process, read by {readers.pop()}", highlight=False)
