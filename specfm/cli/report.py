"""`specfm report`: one HTML page from runs, results and scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    sources: Annotated[list[Path], typer.Argument(help="Run folders and results files (.jsonl), in any order.")],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
    data: Annotated[str | None, typer.Option("--data", help="Also show the scenes of this dataset card.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="With --data: scatter this encoder's features of the labelled pixels.")
    ] = None,
    window: Annotated[int | None, typer.Option(help="Window of those features, pixels.")] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "specfm report",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing page.")] = False,
) -> None:
    """Write one self-contained HTML page: accuracy with intervals and leakage, curves, scatters, scenes, digests."""
    from downstream.report import Embedding, build_report
    from downstream.results import read_rows
    from specfm.errors import UsageError

    if checkpoint is not None and data is None:
        raise UsageError("--checkpoint needs --data: the card whose labelled pixels are embedded")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists; choose another --out or pass --overwrite")
    runs = [p for p in sources if p.is_dir()]
    rows = [row for p in sources if not p.is_dir() for row in read_rows(p)]
    rows += [row for p in runs if (p / "results.jsonl").is_file() for row in read_rows(p / "results.jsonl")]
    scenes, embeddings = [], {}
    if data is not None:
        from specfm.cards import load_card

        scenes = list(load_card(data).scenes())
    if checkpoint is not None:
        from downstream.features import extract
        from downstream.probe import default_window
        from downstream.samples import collect_samples
        from specfm.checkpoint import load

        encoder = load(checkpoint)
        side = window or default_window(encoder)
        labelled = [s for s in scenes if s.labels_HW is not None]
        samples = collect_samples(labelled, side, max_per_class=50)
        features = extract(encoder, labelled, side, samples)
        colourings = {"class": [samples.label_names[y] for y in samples.y_N]}
        domains = [labelled[i].domain or labelled[i].name for i in samples.scene_N]
        if len(set(domains)) > 1:
            colourings["domain"] = domains
        embeddings[f"{Path(checkpoint).name} on {data}"] = Embedding(features.X_ND, colourings)
    build_report(
        out, run=runs or None, results=rows or None, scenes=scenes, embeddings=embeddings, title=title,
        overwrite=overwrite,
    )  # fmt: skip
    typer.echo(f"{out}: {out.stat().st_size / 1024:.0f} KiB, {len(rows)} result rows, {len(scenes)} scenes")
