"""``specfm multidomain``: pretraining over seven domains of laboratory scans, and what it is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specfm.cli._show import print_remarks, wide_console


def command(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes of configs/pretrain/multidomain.yaml, e.g. steps=50."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for everything it makes.")] = Path("runs/multidomain"),
    pretrain_scans: Annotated[int, typer.Option(help="Scans of each domain to pretrain on.")] = 3,
    scans: Annotated[int, typer.Option(help="Other scans of each domain, to probe on.")] = 6,
    size: Annotated[int, typer.Option(help="Side of a scan, pixels.")] = 160,
    seeds: Annotated[int, typer.Option(help="Number of splits.")] = 10,
    init_seeds: Annotated[int, typer.Option(help="Random backbones.")] = 3,
    real: Annotated[str, typer.Option(help="Card of a real scan that joins pretraining, or none.")] = "corn_kernel",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated scans.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier study in --out.")] = False,
) -> None:
    """Simulate laboratory scans of seven domains, pretrain on all at once, probe by material and by domain.

    Prints a table with splits that keep scans apart and leaky ones side by side, and draws PC1 against PC2.
    """
    from downstream.results import text
    from pretrain.multidomain import RULES, StudyOptions, run_study

    options = StudyOptions(
        pretrain_scans=pretrain_scans, scans=scans, size=size, seeds=seeds, init_seeds=init_seeds,
        real=None if real == "none" else real, seed=seed,
    )  # fmt: skip
    done = run_study(out, options, overwrite, overrides or [], say=lambda line: print(line, flush=True))
    console = wide_console()
    console.print()
    for group in text.tables(done.rows):
        console.print(text.heading(group[0]), highlight=False)
        print_remarks(console, text.remarks(group))
    console.print(text.columns_table(done.rows, RULES))
    print(f"{sum(done.seconds.values()):.0f} s in all; rows in {out / 'results.jsonl'}, picture in {done.picture}")
