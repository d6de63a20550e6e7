"""`specfm relate`: specimens beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specfm.cli import _options as options
from specfm.cli._function import function, printed
from specfm.cli._scene import say_taught

if TYPE_CHECKING:
    from downstream.relate.run import Relations


@function
@options.with_reader
def relate(
    checkpoint: options.Checkpoint,
    scenes: Annotated[
        list[str],
        typer.Argument(metavar="SCENE...", help="Cards, CARD:SCENE, files or folders of them."),
        options.OR_CARD,
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to make: specimens.csv, relate.png, facts.json.")],
    groups: Annotated[
        int | None,
        typer.Option(min=2, help="Number of groups.", show_default="as many as labels, else 4"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the grouping.")] = 0,
    whole: options.Whole = None,
    object_threshold: options.ObjectThreshold = None,
    dark_objects: options.DarkObjects = False,
    bands: options.Bands = None,
    *,
    reader: dict[str, Any],
    batch_size: options.BatchSize = 32,
    device: options.Device = "cpu",
    fit: options.Fit = False,
    align: options.Align = None,
) -> Relations:
    """Tell which specimens are alike: the nearest other of each, groups without labels, and a picture of all.

    Where labels are known it is told how often the nearest other has the same, and how well groups follow them, for the
    encoder and for mean spectra.
    """
    from downstream.explain.files import write_folder
    from downstream.relate.picture import relations_figure
    from downstream.relate.run import SPECTRUM, mean_spectra
    from downstream.relate.run import relate as compare
    from specfm.checkpoint import load, release_digest
    from specfm.cli._specimens import find, open_several
    from specfm.dense.align import aligned
    from specfm.dense.per_specimen import embed_specimens
    from specfm.errors import UsageError
    from specfm.selected_scene import select_scenes

    if out.exists():
        raise UsageError(f"{out} exists; choose another --out")
    encoder = load(checkpoint, device=device)
    cubes = select_scenes(open_several(scenes, reader), bands)
    say_taught(encoder, cubes)
    specimens = find(cubes, object_threshold, dark_objects)
    if fit:
        encoder.fit(cubes)
    with aligned(encoder, cubes, align) as on:
        vectors = embed_specimens(encoder, specimens, whole=whole, batch_size=batch_size)
    features: dict[str, Any] = {Path(checkpoint).resolve().name: vectors.vectors_ND}
    if (spectra := mean_spectra(specimens)) is not None:
        features[SPECTRUM] = spectra
    facts = {"checkpoint": release_digest(checkpoint), "aligned": on, "fitted": fit, **vectors.facts}
    found = compare(vectors.rows, features, groups, seed, facts)
    tables = {"specimens": found.rows, "agreement": found.agreement}
    write_folder(out, tables, {"relate": relations_figure(found)}, found.facts)
    return found


@printed(relate)
def command(found: Relations, out: Path) -> None:
    """Print how well likeness follows labels, and where the rest is."""
    known = {row["label"] for row in found.rows} - {""}
    typer.echo(f"{len(found.rows)} specimens, {len(known)} labels, {found.facts['groups']} groups")
    for told in found.agreement:
        typer.echo(
            f"  {told['features']}: nearest other of the same label in {told['nearest_right']} of {told['labelled']} "
            f"(by chance {told['by_chance']:.1f}); adjusted Rand of groups and labels {told['adjusted_rand']:.2f}"
        )
    typer.echo(f"{out}: specimens.csv, relate.png{', agreement.csv' if found.agreement else ''}")
