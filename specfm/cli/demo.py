"""``specfm demo``: the whole road on simulated scenes, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specfm.cli._show import print_remarks, wide_console


def command(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes of configs/demo.yaml, e.g. steps=50.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the demo makes.")] = Path("runs/demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in --out.")] = False,
) -> None:
    """Simulate scenes of four sensors, pretrain on them, probe on a fifth, and write a report.

    Takes a few minutes on two cores and needs no data. Prints the probe's table and the path of report.html.
    """
    from downstream.results import text
    from pretrain.demo import run_demo

    done = run_demo(out, overwrite, overrides, say=lambda line: print(line, flush=True))
    console = wide_console()
    console.print()
    console.print(text.heading(done.rows[0]), highlight=False)
    console.print(text.table(done.rows, width=console.width))
    print_remarks(console, text.remarks(done.rows))
    print(f"{sum(done.seconds.values()):.0f} s in all; open {done.report}")
