"""`specfm robustness`: a probe trained on scenes as measured, tested on altered ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from downstream.probe.options import ProbeOptions
from downstream.robustness.options import RobustnessOptions
from specfm.cli import _options as shared
from specfm.cli._function import function, printed
from specfm.cli._probe import feature_bank, listed, names, numbers, refuse_both, with_probe, with_scratch
from specfm.cli._show import print_remarks, wide_console

if TYPE_CHECKING:
    from downstream.robustness.run import Robustness

DEFAULTS = RobustnessOptions()


@function
@with_probe(DEFAULTS.probe, leave_out=("layers", "group_by", "split_file", "peers", "pretreatment"))
def robustness(
    checkpoint: shared.Encoder,
    data: shared.Data,
    probe: ProbeOptions,
    scenes: shared.Scenes = None,
    sensors: Annotated[
        str, typer.Option(help="Grids to simulate (specfm sensors), by commas; none for none.")
    ] = listed(DEFAULTS.sensors),
    steps: Annotated[str, typer.Option(help="n of every n-th band.")] = listed(DEFAULTS.steps),
    snr: Annotated[str, typer.Option(help="Signal-to-noise ratios.")] = listed(DEFAULTS.snrs),
    condition_seed: Annotated[int, typer.Option(min=0, help="Seed of shuffle, random half and noise.")] = DEFAULTS.seed,
    scratch: shared.Scratch = None,
    cache: shared.Cache = None,
    device: shared.ProbeDevice = "cpu",
    plot: Annotated[Path | None, typer.Option(help="Write the picture to this PNG file.")] = None,
    out: shared.RowsOut = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing picture.")] = False,
) -> Robustness:
    """Test probes of scenes as measured on fewer bands, shuffled wavelengths, other sensors, noise and other light."""
    from dataclasses import replace

    from downstream.features.encoders import open_encoder
    from downstream.report.figures import save_plot
    from downstream.results.files import append_rows
    from downstream.robustness.run import robustness as run_robustness
    from specfm.cards.opening import card_scenes
    from specfm.cli.probe import title
    from specfm.files import refuse_existing, refuse_unwritable

    if plot is not None:
        refuse_existing(plot, overwrite, "--plot")
    if out is not None:
        refuse_unwritable(out)
    refuse_both(probe, scratch)
    simulated = tuple(name for name in names(sensors) if name != "none")
    options = RobustnessOptions(
        probe, simulated, numbers("--steps", steps), numbers("--snr", snr, float), condition_seed
    )
    options.check()
    chosen = card_scenes(data, [scenes] if scenes else [])
    encoder, name, pretrained = open_encoder(checkpoint, device)
    options = replace(options, probe=with_scratch(probe, encoder, scratch))
    found = run_robustness(
        encoder,
        chosen,
        options,
        data=title(data, scenes, probe),
        name=name,
        pretrained=pretrained,
        bank=feature_bank(cache),
    )
    if out is not None:
        append_rows(out, found.rows)
    if plot is not None:
        save_plot(found.rows, plot, overwrite=overwrite)
    return found


@printed(robustness)
def command(found: Robustness, plot: Path | None, out: Path | None, as_json: shared.RowsAsJson = False) -> None:
    """Print a table for each kind of change, or the rows as JSON."""
    import json

    from downstream.results import text

    if as_json:
        typer.echo(json.dumps(found.rows, indent=1))
        return
    console = wide_console()
    console.print(text.heading({**found.rows[0], "condition": None}), highlight=False)
    for table in text.robustness_tables(found.rows, width=console.width):
        console.print(table)
    for condition, reason in found.skipped.items():
        console.print(f"skipped: {condition}: {reason}", highlight=False)
    print_remarks(console, text.remarks(found.rows))
    for path in (p for p in (plot, out) if p is not None):
        typer.echo(f"{path} written")
