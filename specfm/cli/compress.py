"""`specfm compress`: how small and how fast a model gets, and what that costs in accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specfm.cli._function import function, printed
from specfm.cli._results import Compressed
from specfm.cli._show import print_remarks, run_logging, wide_console


@function
def compress(
    config: Annotated[str, typer.Argument(help="A YAML file or a name under configs/ (downstream/compression.yaml).")],
    out: Annotated[Path, typer.Option("--out", help="Folder for models, files, results.jsonl, table and pictures.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Dotted keys, e.g. seeds=1 train.steps=200.", show_default=False),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in --out; what was made of the same inputs is kept.")
    ] = False,
) -> Compressed:
    """Distil, prune and quantise models on labelled scenes; every result is of the deployed file, in ONNX Runtime."""
    from downstream.compress.config import CompressionConfig
    from downstream.compress.run import run_compression
    from specfm.config import load_config

    asked = load_config(config, CompressionConfig, overrides)
    found = run_compression(asked, out, resume=resume)
    return Compressed(found.folder, found.rows)


@printed(compress, around=run_logging)
def command(found: Compressed) -> None:
    """Print the tables."""
    from downstream.report.compression import rich_tables

    console = wide_console(220)
    for table, below in rich_tables(found.rows):
        console.print(table)
        print_remarks(console, below)
    typer.echo(f"{found.folder}/results.jsonl, compression.md and pareto-*.png written; files are in files/")
