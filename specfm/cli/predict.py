"""`specfm predict`: the map of a trained task model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from specfm.cli import _options as options
from specfm.cli._function import function, printed
from specfm.cli._results import ClassMap
from specfm.cli._scene import say_map, say_unsaid


@function
@options.with_reader
def predict(
    model: Annotated[str, typer.Argument(help="Folder of a classification or segmentation model, or its run.")],
    scene: options.SceneName,
    out: options.MapOut,
    probabilities: Annotated[Path | None, typer.Option(help="Also write one band per class here.")] = None,
    stride: Annotated[
        int, typer.Option(help="Step between tiles, pixels; larger is faster. 0 = about a quarter of a tile.")
    ] = 0,
    halo: Annotated[
        int | None,
        typer.Option(help="Outer pixels of a tile that are surroundings only.", show_default="tile / 8"),
    ] = None,
    *,
    reader: dict[str, Any],
    batch_size: options.BatchSize = 8,
    device: options.Device = "cpu",
    fit: options.Fit = False,
    no_preview: options.NoPreview = False,
    overwrite: options.Overwrite = False,
) -> ClassMap:
    """Write the class of every pixel of SCENE, of any size, in bounded memory; 0 = no data."""
    from downstream.maps.class_maps import Layout, as_taught
    from downstream.maps.predict import fit_to, predict_to_file
    from downstream.supervised.folder import load_task
    from specfm.cards.opening import open_scene
    from specfm.checkpoint import release_digest
    from specfm.errors import UsageError
    from specfm.selected_scene import for_encoder

    loaded = load_task(model, device=device)
    if loaded.task == "change":
        raise UsageError(f"{model} holds a change model; give it two dates with: specfm change {model} BEFORE AFTER")
    cube = open_scene(scene, **reader)
    known = loaded.card.get("sensors") or []
    seen = as_taught(for_encoder(loaded.encoder, cube), loaded.card)
    if known and not {cube.sensor.name, seen.sensor.digest} & set(known):
        typer.echo(
            f"notice: the model learnt from {', '.join(map(str, known))}; this scene is of another sensor", err=True
        )
    say_unsaid([cube], loaded.card)
    shares = predict_to_file(
        loaded, [cube], out, probabilities=probabilities, layout=Layout(stride, halo), batch_size=batch_size,
        preview=not no_preview, overwrite=overwrite,
        facts={
            "model": release_digest(model), "sensors": [cube.sensor.digest],
            "fitted": fit_to(loaded, [cube]) if fit else None,
        },
    )  # fmt: skip
    return ClassMap(out, cube, shares, None if no_preview else out.with_suffix(".png"), probabilities)


@printed(predict)
def command(found: ClassMap) -> None:
    """Say what the map holds."""
    say_map(found)
    if found.probabilities is not None:
        typer.echo(f"{found.probabilities}: probabilities of {len(found.shares)} classes")
