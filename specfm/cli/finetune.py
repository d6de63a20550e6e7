"""``specfm finetune``: train a task head (and the encoder under it) on labelled scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specfm.cli import _options as options
from specfm.cli._show import print_remarks, wide_console

if TYPE_CHECKING:
    from downstream.tasks.config import FinetuneConfig


def command(
    config: Annotated[str, typer.Argument(help="YAML file, as given or below configs/ (e.g. downstream/NAME.yaml).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted keys, e.g. init=runs/real mode=frozen.")
    ] = None,
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
) -> None:
    """Fine-tune for classification, segmentation or change, beside controls on the same splits.

    Writes OUT/results.jsonl, map.png, model/ (for predict and change) and runs/ (one folder a training). Stop signals
    save a checkpoint and leave OUT/REQUEUE. Exit codes: 0 done or stopped in order, 1 failed, 2 usage, 3 no valid
    checkpoint, 4 diverged, 5 stalled.
    """
    import logging

    from downstream.tasks.config import FinetuneConfig
    from downstream.tasks.finetune import RESULTS, finetune
    from specfm.config import load_config
    from specfm.engine.run_folder import RunFolder

    settings = load_config(config, FinetuneConfig, overrides)
    if dry_run:
        _print_plan(settings)
        return
    if not resume:
        RunFolder(settings.out).refuse_existing()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    out = finetune(settings, resume)
    if (out / RESULTS).is_file():
        _print_table(out)
    else:
        typer.echo(f"stopped before the end; continue {out} with --resume")


def _print_table(out: Path) -> None:
    from downstream.results import files as results
    from downstream.results import text
    from downstream.tasks.finetune import PICTURE, RESULTS
    from downstream.tasks.rows import task_table

    rows = results.read_rows(out / RESULTS)
    console = wide_console(140)
    console.print(text.heading(rows[0]), highlight=False)
    console.print(task_table(rows))
    print_remarks(console, text.remarks(rows))
    console.print(f"model: {out / 'model'}", highlight=False, soft_wrap=True)
    for name in (RESULTS, PICTURE):
        if (out / name).is_file():
            console.print(f"{name}: {out / name}", highlight=False, soft_wrap=True)


def _print_plan(config: FinetuneConfig) -> None:
    """What a run would do; reads the data, writes nothing."""
    from downstream.tasks.finetune import members, prepare
    from specfm.config import to_yaml

    data, source, name = prepare(config)
    typer.echo(to_yaml(config).rstrip())
    typer.echo("---")
    typer.echo(f"scenes: {len(data.places)}, labelled pixels: {len(data.samples)}")
    for split in data.splits:
        sides = f"{len(split.train_I)} / {len(split.val_I)} / {len(split.test_I)}"
        typer.echo(f"split {split.seed} by {split.rule}: {sides} pixels to train / validate / test, {split.digest}")
    for member in members(config, name, len(data.splits)):
        typer.echo(f"training {member.folder}: {member.method}, {member.protocol}")
    millions = sum(p.numel() for p in source.parameters()) / 1e6
    typer.echo(f"encoder: {name}, {millions:.2f} million parameters, patch {source.patch_size} pixels")
    typer.echo(f"would write {config.out}; nothing was written")
