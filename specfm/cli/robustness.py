"""`specfm robustness`: a probe trained on scenes as measured, tested on altered ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specfm.cli import _options as shared
from specfm.cli._show import print_remarks, wide_console


def command(
    checkpoint: shared.Encoder,
    data: shared.Data,
    protocol: Annotated[
        str, typer.Option(help="Any of knn, linear, ridge and finetune (trains the encoder), by commas.")
    ] = "knn,linear",
    split: Annotated[
        str, typer.Option(help="group, block, scene, sensor, random_pixels (leaky) or auto, as for specfm probe.")
    ] = "auto",
    shots: Annotated[int | None, typer.Option(help="Train on so many labels a class.")] = None,
    seeds: shared.Seeds = 10,
    window: shared.ProbeWindow = None,
    pooling: Annotated[str, typer.Option(help="As for specfm probe.")] = "concat",
    k: shared.Neighbours = "1",
    init_seeds: shared.InitSeeds = 1,
    max_per_class: shared.MaxPerClass = None,
    min_groups: shared.MinGroups = 3,
    block: shared.Block = None,
    scenes: shared.Scenes = None,
    sensors: Annotated[
        str | None, typer.Option(help="Grids to simulate (specfm sensors), by commas; none for none.")
    ] = None,
    steps: Annotated[str, typer.Option(help="n of every n-th band.")] = "4,10",
    snr: Annotated[str, typer.Option(help="Signal-to-noise ratios.")] = "100,50,20",
    condition_seed: Annotated[int, typer.Option(min=0, help="Seed of shuffle, random half and noise.")] = 0,
    baselines: shared.Baselines = True,
    scratch: shared.Scratch = None,
    align: shared.Align = None,
    cache: shared.Cache = None,
    device: shared.ProbeDevice = "cpu",
    plot: Annotated[Path | None, typer.Option(help="Write the picture to this PNG file.")] = None,
    out: shared.RowsOut = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing picture.")] = False,
    as_json: shared.RowsAsJson = False,
) -> None:
    """Test probes of scenes as measured on fewer bands, shuffled wavelengths, other sensors, noise and other light."""
    import json
    from dataclasses import replace

    from downstream.features.encoders import open_encoder
    from downstream.probe.run import ProbeOptions
    from downstream.results import files as results
    from downstream.results import text
    from downstream.results.text import robustness_tables
    from downstream.robustness.conditions import SENSORS
    from downstream.robustness.run import RobustnessOptions, robustness, save_plot
    from specfm.cli.probe import feature_bank, labelled_scenes, numbers, protocols, with_scratch
    from specfm.files import refuse_existing, refuse_unwritable

    if plot is not None:
        refuse_existing(plot, overwrite, "--plot")
    if out is not None:
        refuse_unwritable(out)
    chosen, label = labelled_scenes(data, scenes, None)
    if split == "auto":
        split = "group" if len({scene.group for scene in chosen}) >= 3 else "block"
    wanted = (
        SENSORS if sensors is None else tuple(n.strip() for n in sensors.split(",") if n.strip() not in ("", "none"))
    )
    options = RobustnessOptions(
        ProbeOptions(
            protocols=protocols(protocol, scratch), split=split, shots=shots,
            seeds=seeds, window=window, pooling=pooling, ks=numbers("--k", k), init_seeds=init_seeds,
            max_per_class=max_per_class, min_groups=min_groups, block=block, baselines=baselines, align=align,
        ),
        wanted, numbers("--steps", steps), _ratios(snr), condition_seed,
    )  # fmt: skip
    options.check()
    encoder, name, pretrained = open_encoder(checkpoint, device)
    options = replace(options, probe=with_scratch(options.probe, encoder, scratch))
    found = robustness(
        encoder, chosen, options, data=label, name=name, pretrained=pretrained, cache=feature_bank(cache)
    )  # fmt: skip
    if out is not None:
        results.append_rows(out, found.rows)
    if plot is not None:
        save_plot(found.rows, plot, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps(found.rows, indent=1))
        return
    console = wide_console()
    console.print(text.heading({**found.rows[0], "condition": None}), highlight=False)
    for table in robustness_tables(found.rows, width=console.width):
        console.print(table)
    for condition, reason in found.skipped.items():
        console.print(f"skipped: {condition}: {reason}", highlight=False)
    print_remarks(console, text.remarks(found.rows))
    for path in (p for p in (plot, out) if p is not None):
        typer.echo(f"{path} written")


def _ratios(text: str) -> tuple[float, ...]:
    from specfm.errors import UsageError

    try:
        return tuple(float(piece) for piece in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f"--snr takes numbers divided by commas, not {text!r}") from None
