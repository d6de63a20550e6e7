"""`specfm benchmark`: many datasets, encoders and protocols in one leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specfm.cli import _options as options
from specfm.cli._function import function, printed
from specfm.cli._probe import named_folder
from specfm.cli._results import Benchmark
from specfm.cli._show import print_remarks, wide_console


@function
def benchmark(
    suite: Annotated[str, typer.Argument(help="Suite: a YAML file or a name under configs/ (downstream/real.yaml).")],
    checkpoints: Annotated[
        list[str],
        typer.Option(
            "--checkpoints", help="Encoders: checkpoint folder or run, random:SIZE[:PATCH], or NAME=one of them."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for cells, results.jsonl and leaderboard.")],
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MORE CHECKPOINTS]...", help="Encoders after the first.", show_default=False),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes; the numbers do not depend on it.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a benchmark in --out was stopped.")] = False,
    cache: Annotated[
        str | None, typer.Option(help="Folder where features are kept between benchmarks, or none (the default).")
    ] = None,
    device: options.ProbeDevice = "cpu",
) -> Benchmark:
    """Probe every encoder on every dataset of a suite; one table with intervals, leakage, controls and significance."""
    import sys

    from downstream.benchmark.run import run_benchmark
    from downstream.benchmark.suite import SuiteConfig
    from downstream.results.files import read_rows
    from specfm.config import load_config

    def done(title: str) -> None:
        if sys.stderr.isatty():
            typer.echo(f"done: {title}", err=True)

    config = load_config(suite, SuiteConfig)
    board = run_benchmark(
        config, [*checkpoints, *(more or ())], out, jobs=jobs, resume=resume, device=device,
        cache=named_folder(cache), done=done,
    )  # fmt: skip
    return Benchmark(out, read_rows(out / "results.jsonl"), board)


@printed(benchmark)
def command(found: Benchmark) -> None:
    """Print the leaderboard."""
    console = wide_console(140)
    for table, below in found.board.tables():
        console.print(table)
        print_remarks(console, below)
    out = found.folder
    typer.echo(f"{out}/results.jsonl, {out}/leaderboard.md written")
