"""`specfm compare-bands`: how many of which bands are enough."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from downstream.explain.options import CompareOptions
from downstream.probe.options import ProbeOptions
from specfm.cli import _options as shared
from specfm.cli._probe import listed, numbers, with_probe
from specfm.cli._show import print_remarks, wide_console

DEFAULTS = CompareOptions()
Frozen = Annotated[str, typer.Option(help="Any of knn, linear and ridge, by commas; the encoder is not trained.")]


@with_probe(DEFAULTS.probe, leave_out=("init_seeds", "baselines", "peers", "shots"), kinds={"protocol": Frozen})
def command(
    checkpoint: shared.Encoder,
    data: shared.Data,
    probe: ProbeOptions,
    out: Annotated[
        Path, typer.Option("--out", help="Folder to make: bands.csv, bands.png, results.jsonl (rows as of a probe).")
    ],
    scenes: shared.Scenes = None,
    counts: Annotated[
        str | None, typer.Option(help="Numbers of bands spread evenly in nm; those above the sensor's are left out.")
    ] = listed(DEFAULTS.counts),
    choice: Annotated[
        list[str] | None,
        typer.Option(
            help="Another choice of bands (as --bands of a probe), or pca:N (repeatable).",
            show_default=", ".join(DEFAULTS.selections),
        ),
    ] = None,
    device: shared.ProbeDevice = "cpu",
) -> None:
    """Compare frozen features and raw spectra on evenly spread bands, RGB, regions, important bands and components."""
    from downstream.explain.compare import compare_bands
    from downstream.explain.figures import comparison_figure
    from downstream.explain.files import write_folder
    from downstream.features.encoders import open_encoder
    from downstream.results import text
    from downstream.results.files import append_rows
    from specfm.cards.opening import card_scenes
    from specfm.cli.probe import title
    from specfm.errors import UsageError

    if out.exists():
        raise UsageError(f"{out} exists; choose another --out")
    options = CompareOptions(probe, numbers("--counts", counts), tuple(choice or DEFAULTS.selections))
    options.check()
    chosen = card_scenes(data, [scenes] if scenes else [])
    encoder, name, pretrained = open_encoder(checkpoint, device)
    rows = compare_bands(encoder, chosen, options, data=title(data, scenes, probe), name=name, pretrained=pretrained)
    table = [
        {
            "bands": row["condition"],
            "count": row["bands"][0],
            **{key: row[key] for key in ("kind", "method", "protocol", "support")},
            **{key: row[key]["mean"] for key in ("oa", "aa", "kappa")},
            **{f"aa_{end}": (row["aa"]["ci"] or (None, None))[i] for i, end in enumerate(("low", "high"))},
        }
        for row in rows
    ]
    notices = sorted({note for row in rows for note in row["notices"]})
    write_folder(out, {"bands": table}, {"bands": comparison_figure(rows)}, {"notices": notices})
    append_rows(out / "results.jsonl", rows)
    console = wide_console()
    console.print(text.heading({**rows[0], "condition": None}), highlight=False)
    for each in text.robustness_tables(rows, width=console.width, of="probes of some bands", condition="bands chosen"):
        console.print(each)
    print_remarks(console, notices)
    console.print(f"{out}: bands.csv, bands.png, results.jsonl", highlight=False)
