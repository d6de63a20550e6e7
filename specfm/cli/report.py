"""`specfm report`: one HTML page from runs, results, maps and scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specfm.cli._function import function, printed
from specfm.cli._options import OR_ENCODER
from specfm.cli._results import Report


@function
def report(
    sources: Annotated[
        list[Path],
        typer.Argument(help="Run folders, results files (.jsonl), benchmark folders, maps (.tif, .hdr, .npy)."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
    data: Annotated[
        list[str] | None, typer.Option("--data", help="Also show the scenes and spectra of this dataset card.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="With --data: scatter this encoder's features of the labelled pixels."),
        OR_ENCODER,
    ] = None,
    window: Annotated[int | None, typer.Option(help="Window of those features, pixels.")] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "specfm report",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing page.")] = False,
) -> Report:
    """Write one self-contained HTML page: accuracy with intervals and leakage, maps, curves, scatters, digests.

    Sections that the inputs do not fill are left out; the page and the command say which and why.
    """
    from downstream.report import build_report, embed_scenes
    from downstream.report.build import SECTIONS, expected_seconds
    from specfm.errors import UsageError
    from specfm.files import refuse_existing
    from specfm.progress import expect, progress

    if checkpoint is not None and not data:
        raise UsageError("--checkpoint needs --data: the card whose labelled pixels are embedded")
    refuse_existing(out, overwrite)
    scenes, embeddings = [], {}
    if data:
        from specfm.cards import load_card

        scenes = [scene for card in data for scene in load_card(card).scenes()]
    if checkpoint is not None and data:
        from downstream.probe.run import default_window
        from downstream.splits.samples import asked_window
        from specfm.checkpoint import load

        encoder = load(checkpoint)
        labelled = [scene for scene in scenes if scene.labels_HW is not None]
        if not labelled:
            raise UsageError(f"--checkpoint needs labels, but no scene of {', '.join(data)} has any")
        name = f"{Path(checkpoint).name} on {', '.join(data)}"
        side = asked_window(labelled, window) or default_window(encoder)
        embeddings[name] = embed_scenes(encoder, labelled, side)
    expect(expected_seconds(scenes), f"a page of {len(scenes)} scenes beside what the sources hold")
    with progress("report", SECTIONS) as advance:
        page = build_report(
            out, sources, scenes=scenes, embeddings=embeddings, title=title, overwrite=overwrite,
            say=lambda section: advance(note=section),
        )  # fmt: skip
    return Report(page.path, page.sections, page.left_out, page.rows, len(scenes))


@printed(report)
def command(found: Report) -> None:
    """Say what the page holds, and what it does not."""
    size = found.path.stat().st_size / 1024
    typer.echo(f"{found.path}: {size:.0f} KiB, {found.results} result rows, {found.scenes} scenes")
    for what, why in found.left_out:
        typer.echo(f"left out: {what}: {why}")
