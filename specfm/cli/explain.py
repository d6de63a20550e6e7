"""`specfm explain`: which bands a probe of frozen features rests on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from downstream.explain.options import ExplainOptions
from downstream.probe.options import ProbeOptions
from specfm.cli import _options as shared
from specfm.cli._function import function, printed
from specfm.cli._probe import listed, numbers, with_probe

if TYPE_CHECKING:
    from downstream.explain.run import Explanation

DEFAULTS = ExplainOptions()


@function
@with_probe(DEFAULTS.probe, leave_out=("protocol", "k", "init_seeds", "baselines", "peers", "shots"))
def explain(
    checkpoint: shared.Encoder,
    data: shared.Data,
    probe: ProbeOptions,
    out: Annotated[Path, typer.Option("--out", help="Folder to make: CSV tables, explain.png, facts.json.")],
    scenes: shared.Scenes = None,
    widths: Annotated[str, typer.Option(help="Widths of the ranges that are hidden, nm.")] = listed(DEFAULTS.widths_nm),
    gradients: Annotated[
        int, typer.Option(min=0, help="Test samples for integrated gradients (needs captum); 0 leaves them out.")
    ] = DEFAULTS.gradients,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the integral.")] = DEFAULTS.steps,
    device: shared.ProbeDevice = "cpu",
) -> Explanation:
    """Show along the wavelength axis what a linear probe loses without a range of bands, and what gradients say.

    Writes occlusion.csv, gradients.csv and signatures.csv (means of the classes), and one picture of all.
    """
    from downstream.explain.figures import explanation_figure
    from downstream.explain.files import write_folder
    from downstream.explain.run import explain as run_explain
    from downstream.features.encoders import open_encoder
    from specfm.cards.opening import card_scenes
    from specfm.cli.probe import title
    from specfm.errors import UsageError

    if out.exists():
        raise UsageError(f"{out} exists; choose another --out")
    options = ExplainOptions(probe, numbers("--widths", widths, float), gradients, steps)
    options.check()
    chosen = card_scenes(data, [scenes] if scenes else [])
    encoder, name, pretrained = open_encoder(checkpoint, device)
    called = title(data, scenes, probe)
    found = run_explain(encoder, chosen, options, data=called, name=name, pretrained=pretrained)
    write_folder(out, _tables(found), {"explain": explanation_figure(found)}, found.facts)
    return found


@printed(explain)
def command(found: Explanation, out: Path) -> None:
    """Say which range matters most to each kind of features."""
    for features, accuracy in found.facts["accuracy"].items():
        mine = [row for row in found.occlusion if row["features"] == features]
        worst = max(mine, key=lambda row: row["accuracy_lost"])
        typer.echo(
            f"{features}: accuracy {accuracy:.1%}; most is lost without "
            f"{worst['low_nm']:.0f}-{worst['high_nm']:.0f} nm: {100 * worst['accuracy_lost']:.1f} points "
            f"({100 * worst['accuracy_lost_low']:.1f} to {100 * worst['accuracy_lost_high']:.1f})"
        )
    for note in found.facts["notices"]:
        typer.echo(f"notice: {note}")
    typer.echo(f"{out}: {', '.join(f'{name}.csv' for name, rows in _tables(found).items() if rows)}, explain.png")


def _tables(found: Explanation) -> dict[str, Any]:
    return {"occlusion": found.occlusion, "gradients": found.gradients, "signatures": found.signatures}
