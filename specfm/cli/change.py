"""`specfm change`: what changed between two dates, by a trained model or by the distance of embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from specfm.cli import _options as options
from specfm.cli._function import function, printed
from specfm.cli._results import ClassMap
from specfm.cli._scene import say_map, say_taught, say_unsaid


@function
@options.with_reader
def change(
    model: Annotated[
        str,
        typer.Argument(help="Folder of a change model; or of an encoder, for a map without labels."),
        options.OR_ENCODER,
    ],
    before: Annotated[str, typer.Argument(help="First date: a file, CARD or CARD:SCENE."), options.OR_SCENE],
    after: Annotated[
        str,
        typer.Argument(help="Second date on the same grid, from any sensor; as CARD:SCENE where it differs in more."),
        options.OR_SCENE,
    ],
    out: options.MapOut,
    probabilities: Annotated[
        Path | None, typer.Option(help="Also write the probabilities (the distance, for an encoder) here.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Changed above this.", show_default="the model's; Otsu's for an encoder")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Encoder: of the sample that the distance is fitted on.")] = 0,
    window: Annotated[
        int, typer.Option(help="Encoder: side of a tile, pixels; 0 = 8 patches, or the only size it reads.")
    ] = 0,
    stride: Annotated[
        int, typer.Option(help="Step between tiles, pixels; larger is faster. 0 = a quarter of a tile (encoder: half).")
    ] = 0,
    *,
    reader: dict[str, Any],
    sensor_after: Annotated[str | None, typer.Option(help="As --sensor, for the second date, if it differs.")] = None,
    wavelengths_after: Annotated[Path | None, typer.Option(help="As --wavelengths, for the second date.")] = None,
    batch_size: options.BatchSize = 8,
    device: options.Device = "cpu",
    fit: options.Fit = False,
    align: options.Align = None,
    no_preview: options.NoPreview = False,
    overwrite: options.Overwrite = False,
) -> ClassMap:
    """Write which pixels changed from BEFORE to AFTER: 1 unchanged, 2 changed, 0 no data at one of the dates."""
    from downstream.maps.change import distance_to_file
    from downstream.maps.class_maps import Layout
    from downstream.maps.predict import predict_to_file
    from downstream.supervised.folder import load_task
    from specfm.cards.opening import open_scene
    from specfm.checkpoint import TASK, find_release, load, release_digest
    from specfm.dense.align import aligned
    from specfm.errors import UsageError
    from specfm.files import read_manifest
    from specfm.grids import Grid, require_one_grid

    trained = read_manifest(find_release(model)).get("kind") == TASK
    most = 1.0 if trained else 2.0
    if threshold is not None and not 0 <= threshold <= most:
        raise UsageError(f"--threshold {threshold}: the {'probability' if trained else 'distance'} is 0 to {most:g}")
    task_model = load_task(model, device=device, task="change") if trained else None
    if task_model is not None and window not in (0, task_model.tile):
        raise UsageError(f"--window {window}: {model} was trained on tiles of {task_model.tile} pixels; leave it out")
    one = open_scene(before, **reader)
    if sensor_after is not None or wavelengths_after is not None:
        reader |= {"sensor": sensor_after, "wavelengths": wavelengths_after}
    two = open_scene(after, **reader)
    require_one_grid(Grid.of(one), Grid.of(two))
    facts = {"model": release_digest(model), "sensors": [one.sensor.digest, two.sensor.digest]}
    if task_model is not None:
        for option, asked in (("fit", fit), ("align", align is not None), ("seed", seed)):
            if asked:
                raise UsageError(f"--{option} is for encoders; leave it out with a change model")
        if threshold is not None:
            task_model.threshold = threshold
        say_unsaid([one, two], task_model.card)
        shares = predict_to_file(
            task_model, [one, two], out, probabilities=probabilities, layout=Layout(stride), batch_size=batch_size,
            preview=not no_preview, overwrite=overwrite, facts=facts,
        )  # fmt: skip
        cut, how = task_model.threshold, "probability"
    else:
        encoder = load(model, device=device)
        say_taught(encoder, [one, two])
        if fit:
            encoder.fit([one, two])
        with aligned(encoder, [one, two], align) as on:
            cut, shares = distance_to_file(
                encoder, one, two, out, distance=probabilities, threshold=threshold, seed=seed, window=window,
                stride=stride, batch_size=batch_size, preview=not no_preview, overwrite=overwrite,
                facts={**facts, "aligned": on, "fitted": encoder.card["fitted"] if fit else None},
            )  # fmt: skip
        how = "distance of embeddings" + (" (Otsu's threshold)" if threshold is None else "")
    picture = None if no_preview else out.with_suffix(".png")
    return ClassMap(out, one, shares, picture, probabilities, 0.5 if cut is None else cut, how)


@printed(change)
def command(found: ClassMap) -> None:
    """Say how much changed."""
    say_map(found)
    typer.echo(f"  changed above {found.threshold:.4f}, {found.measure}")
