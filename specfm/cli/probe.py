"""`specfm probe`: what a frozen encoder is worth on labelled scenes, beside its controls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint folder or run, or random:SIZE[:PATCH] (untrained).")],
    data: Annotated[str, typer.Option("--data", help="Dataset card: a name under configs/data or a YAML file.")],
    protocol: Annotated[str, typer.Option(help="knn, linear or knn,linear.")] = "knn,linear",
    split: Annotated[
        str,
        typer.Option(
            help="group, block, scene, or random_pixels (leaky); auto: group for 3 groups and more, else block."
        ),
    ] = "auto",
    shots: Annotated[int | None, typer.Option(help="Train on so many labels a class (5, 10, 20).")] = None,
    seeds: Annotated[int, typer.Option(help="Number of splits.")] = 10,
    window: Annotated[int | None, typer.Option(help="Side of the window, pixels (default: as pretrained).")] = None,
    pooling: Annotated[str, typer.Option(help="mean, centre or concat of the tokens.")] = "concat",
    init_seeds: Annotated[int, typer.Option(help="Untrained twins to compare with.")] = 3,
    max_per_class: Annotated[int | None, typer.Option(help="At most so many pixels a class and group.")] = None,
    min_groups: Annotated[int, typer.Option(help="Leave out classes found in fewer groups or blocks.")] = 3,
    block: Annotated[int | None, typer.Option(help="Side of a spatial block, pixels.")] = None,
    group_by: Annotated[str, typer.Option(help="group (plot, scan), object (crown, specimen) or auto.")] = "auto",
    scenes: Annotated[str | None, typer.Option(help="Only scenes whose name matches, e.g. 'OSBS*'.")] = None,
    split_file: Annotated[list[Path] | None, typer.Option(help="Use this split file (may be repeated).")] = None,
    save_splits: Annotated[Path | None, typer.Option(help="Write the splits into this new folder.")] = None,
    baselines: Annotated[bool, typer.Option(help="Also the raw-spectrum and PCA baselines.")] = True,
    device: Annotated[str, typer.Option(help="cpu or cuda: where features are computed.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Append the rows to this JSON-lines file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON instead of a table.")] = False,
) -> None:
    """Probe frozen features by kNN and linear probe on leakage-safe splits, beside every control."""
    import json
    from fnmatch import fnmatch

    from rich.console import Console

    from downstream import results
    from downstream.probe import ProbeOptions, probe
    from specfm.cards import load_card
    from specfm.errors import UsageError

    if group_by not in ("auto", "group", "object"):
        raise UsageError(f"unknown --group-by {group_by!r}; one of auto, group, object")
    card = load_card(data)
    chosen = [s for s in card.scenes() if scenes is None or fnmatch(s.name, scenes)]
    if not chosen:
        raise UsageError(f"no scene of {data} matches --scenes {scenes!r}")
    if split == "auto":
        split = "group" if len({scene.group for scene in chosen}) >= 3 else "block"
    options = ProbeOptions(
        protocols=tuple(p.strip() for p in protocol.split(",") if p.strip()),
        split=split, shots=shots, seeds=seeds, window=window, pooling=pooling, init_seeds=init_seeds,
        max_per_class=max_per_class, min_groups=min_groups, block=block, group_by=group_by,  # type: ignore[arg-type]
        baselines=baselines, split_files=tuple(str(p) for p in split_file or ()),
    )  # fmt: skip
    options.check()
    if save_splits is not None and save_splits.exists():
        raise UsageError(f"{save_splits} exists; choose another --save-splits")
    encoder, name, pretrained = _encoder(checkpoint, device)
    bank: dict[str, object] = {}
    label = card.name if scenes is None else f"{card.name}[{scenes}]"
    rows = probe(encoder, chosen, options, data=label, name=name, pretrained=pretrained, bank=bank)
    if save_splits is not None:
        from downstream.splits import save_split

        for number, each in enumerate(bank["splits"]):  # type: ignore[arg-type, var-annotated]
            save_split(each, save_splits / f"{each.rule}-{number:03d}.json")
    if out is not None:
        results.append_rows(out, rows)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(results.heading(rows[0]), highlight=False)
    console.print(results.table(rows, width=console.width))
    for line in results.remarks(rows):
        console.print(line, highlight=False, style="yellow" if line.startswith("alarm") else None)
    if out is not None:
        console.print(f"{len(rows)} rows appended to {out}", highlight=False)


def _encoder(checkpoint: str, device: str) -> tuple[object, str, bool]:
    """The encoder meant by the argument, its name in the table, and whether it was trained at all."""
    from specfm.errors import UsageError

    if checkpoint.startswith("random:"):
        from downstream.baselines import random_encoder

        size, _, patch = checkpoint.removeprefix("random:").partition(":")
        if patch and not patch.isdigit():
            raise UsageError(f"{checkpoint!r}: after the size comes a patch side, as in random:nano:3")
        encoder = random_encoder(size, 0, **({"patch_size": int(patch)} if patch else {}))
        return encoder.to(device), checkpoint, False
    from specfm.checkpoint import load

    return load(checkpoint, device=device), Path(checkpoint).resolve().name, True
