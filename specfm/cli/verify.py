"""`specfm verify`: every byte of a folder of shards."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    path: Annotated[
        str, typer.Argument(help="Folder written by `specfm shard`, its address (s3://...), or one shard.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check shards: SHA-256 of every file against the manifest, CRC of every sample; exit code 1 names what is bad."""
    import json
    import sys

    from specfm.progress import stages
    from specfm.shards.verify import verify_shards

    with stages() as told:
        report = verify_shards(path, lambda done, total: told("verify", done, total))
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=1))
    else:
        for problem in report.problems:
            print(f"bad: {problem}", file=sys.stderr)
        size = report.nbytes / 2**20
        state = "all good" if report.ok else f"{len(report.problems)} bad"
        typer.echo(f"{report.files} files, {report.samples} samples, {size:.1f} MiB: {state}")
    if not report.ok:
        raise typer.Exit(1)
