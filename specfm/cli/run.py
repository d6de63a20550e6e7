"""`specfm run`: a map, or features, by an exported model with ONNX Runtime and numpy alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from specfm.cli import _options as options
from specfm.cli._function import function, printed
from specfm.cli._results import ClassMap, FeatureMap
from specfm.cli._scene import say_map, say_no_data, say_unsaid


@function
@options.with_reader
def run(
    model: Annotated[str, typer.Argument(help="FILE.onnx that specfm export wrote.")],
    scene: options.SceneName,
    out: Annotated[
        Path, typer.Option("--out", help="FILE.tif, FILE.hdr (ENVI) or FILE.npy: the map, or an encoder's features.")
    ],
    after: Annotated[str | None, typer.Argument(help="Change model: the second date, on the same grid.")] = None,
    probabilities: Annotated[Path | None, typer.Option(help="Map: also write one band per class here.")] = None,
    stride: Annotated[
        int,
        typer.Option(min=0, help="Step between tiles, pixels; 0 = about a quarter of a tile (an encoder's: half)."),
    ] = 0,
    halo: Annotated[
        int | None,
        typer.Option(help="Map: outer pixels of a tile that are surroundings only.", show_default="tile / 8"),
    ] = None,
    *,
    reader: dict[str, Any],
    sensor_after: Annotated[str | None, typer.Option(help="As --sensor, for the second date, if it differs.")] = None,
    wavelengths_after: Annotated[Path | None, typer.Option(help="As --wavelengths, for the second date.")] = None,
    batch_size: options.BatchSize = 8,
    threads: Annotated[int, typer.Option(min=0, help="Threads of the runtime; 0 = one a core.")] = 0,
    no_preview: options.NoPreview = False,
    overwrite: options.Overwrite = False,
) -> ClassMap | FeatureMap:
    """Write the map that an exported model makes of SCENE, of any size, as specfm predict would; no torch is needed."""
    from specfm.cards.opening import open_scene
    from specfm.deploy.facts import ENCODER
    from specfm.deploy.runtime import Deployed
    from specfm.errors import UsageError
    from specfm.grids import Grid, require_one_grid

    deployed = Deployed(model, threads)
    kind, needed = deployed.facts.kind, 2 if deployed.facts.kind == "change" else 1
    if (after is not None) != (needed == 2):
        raise UsageError(f"{model} is for {kind} and takes {'two dates' if needed == 2 else 'one scene'}")
    cubes = [open_scene(scene, **reader)]
    if after is not None:
        if sensor_after is not None or wavelengths_after is not None:
            reader |= {"sensor": sensor_after, "wavelengths": wavelengths_after}
        cubes.append(open_scene(after, **reader))
        require_one_grid(*map(Grid.of, cubes))
    facts = {"model": deployed.facts.weights, "sensors": [cube.sensor.digest for cube in cubes]}
    if kind == ENCODER:
        if probabilities is not None or halo is not None:
            raise UsageError(f"--probabilities and --halo are of maps, and {model} is an encoder; leave them out")
        from specfm.deploy.features import features_to_file

        done = features_to_file(
            deployed, cubes[0], out, stride=stride, batch_size=batch_size, overwrite=overwrite, facts=facts
        )
        return FeatureMap(out, cubes[0], done)
    from downstream.deploy.run import run_to_file
    from downstream.maps.class_maps import Layout

    say_unsaid(cubes, deployed.facts.taught)
    shares = run_to_file(
        deployed, cubes, out, probabilities=probabilities, layout=Layout(stride, halo), batch_size=batch_size,
        preview=not no_preview, overwrite=overwrite, facts=facts,
    )  # fmt: skip
    picture = None if no_preview else out.with_suffix(".png")
    return ClassMap(out, cubes[0], shares, picture, probabilities, deployed.facts.threshold, "probability")


@printed(run)
def command(found: ClassMap | FeatureMap) -> None:
    """Say what was written."""
    if isinstance(found, ClassMap):
        say_map(found)
        return
    height, width, depth = found.facts["shape"]
    typer.echo(f"{found.path}: {height} x {width} patches of {found.facts['patch']} px, {depth} features each")
    if not found.facts["with_data"]:
        say_no_data(found.scene)
