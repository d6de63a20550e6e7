"""``specfm finetune``: train a task head (and the encoder under it) on labelled scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specfm.cli import _options as options
from specfm.cli._function import function, printed
from specfm.cli._results import Run
from specfm.cli._show import print_remarks, run_logging, wide_console

if TYPE_CHECKING:
    from downstream.tasks.config import FinetuneConfig


@function
def finetune(
    config: Annotated[str, typer.Argument(help="YAML file, as given or below configs/ (e.g. downstream/NAME.yaml).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted keys, e.g. init=runs/real mode=frozen.")
    ] = None,
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
) -> Run:
    """Fine-tune for classification, segmentation or change, beside controls on the same splits.

    Writes OUT/results.jsonl, map.png, model/ (for predict and change) and runs/ (one folder a training). Stop signals
    save a checkpoint and leave OUT/REQUEUE. Exit codes: 0 done or stopped in order, 1 failed, 2 usage, 3 no valid
    checkpoint, 4 diverged, 5 stalled.
    """
    from downstream.tasks import finetune as task
    from downstream.tasks.config import FinetuneConfig
    from specfm.config import load_config
    from specfm.engine.run_folder import RunFolder

    settings = load_config(config, FinetuneConfig, overrides)
    if dry_run:
        return Run(Path(settings.out), False, _plan(settings))
    if not resume:
        RunFolder(settings.out).refuse_existing()
    out = task.finetune(settings, resume)
    return Run(out, (out / task.RESULTS).is_file(), read_rows=_rows)


@printed(finetune, around=run_logging)
def command(found: Run) -> None:
    """Print the results beside the controls, or the plan."""
    if found.plan:
        typer.echo("\n".join(found.plan))
    elif found.finished:
        _print_table(found.folder)
    else:
        typer.echo(f"stopped before the end; continue {found.folder} with --resume")


def _rows(folder: Path) -> list[dict[str, Any]]:
    from downstream.results.files import read_rows
    from downstream.tasks.finetune import RESULTS

    return read_rows(folder / RESULTS) if (folder / RESULTS).is_file() else []


def _print_table(out: Path) -> None:
    from downstream.results import text
    from downstream.tasks.finetune import PICTURE, RESULTS
    from downstream.tasks.rows import task_table

    rows = _rows(out)
    console = wide_console(140)
    console.print(text.heading(rows[0]), highlight=False)
    console.print(task_table(rows))
    print_remarks(console, text.remarks(rows))
    console.print(f"model: {out / 'model'}", highlight=False, soft_wrap=True)
    for name in (RESULTS, PICTURE):
        if (out / name).is_file():
            console.print(f"{name}: {out / name}", highlight=False, soft_wrap=True)


def _plan(config: FinetuneConfig) -> list[str]:
    """What a run would do; reads the data, writes nothing."""
    from downstream.tasks.finetune import members, prepare
    from specfm.config import to_yaml

    data, source, name = prepare(config)
    lines = [to_yaml(config).rstrip(), "---"]
    lines.append(f"scenes: {len(data.places)}, labelled pixels: {len(data.samples)}")
    for split in data.splits:
        sides = f"{len(split.train_I)} / {len(split.val_I)} / {len(split.test_I)}"
        lines.append(f"split {split.seed} by {split.rule}: {sides} pixels to train / validate / test, {split.digest}")
    for member in members(config, name, len(data.splits)):
        lines.append(f"training {member.folder}: {member.method}, {member.protocol}")
    millions = sum(p.numel() for p in source.parameters()) / 1e6
    lines.append(f"encoder: {name}, {millions:.2f} million parameters, patch {source.patch_size} pixels")
    return [*lines, f"would write {config.out}; nothing was written"]
