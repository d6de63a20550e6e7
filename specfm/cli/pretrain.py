"""``specfm pretrain``: train an encoder on shards, in one process or several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specfm.cli import _options as options

if TYPE_CHECKING:
    from pretrain.config import PretrainConfig


def command(
    config: Annotated[str, typer.Argument(help="YAML file, as given or below configs/ (e.g. pretrain/debug.yaml).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted keys, e.g. optim.lr=1e-3 steps=500.")
    ] = None,
    nproc: Annotated[int, typer.Option(min=1, help="Processes on this machine (several: through torchrun).")] = 1,
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
) -> None:
    """Pretrain an encoder with NT-Xent on shards of many sensors.

    Writes OUT/config.yaml, metrics.jsonl, checkpoints/, loss.png and model/ (for specfm.load). Stop signals save a
    checkpoint and leave OUT/REQUEUE. Exit codes: 0 done or stopped in order, 1 failed, 2 usage, 3 no valid
    checkpoint, 4 diverged, 5 stalled.
    """
    import logging

    from rich.console import Console
    from rich.table import Table

    from pretrain.config import PretrainConfig
    from specfm.config import load_config

    settings = load_config(config, PretrainConfig, overrides)
    # what follows takes seconds to import; a mistyped key is answered before
    from pretrain.setup import settled
    from pretrain.summary import summary_rows
    from specfm.engine.run_folder import RunFolder

    settings = settled(settings)
    if dry_run:
        _print_plan(settings, nproc)
        return
    if not resume:
        RunFolder(settings.out).refuse_existing()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    for name in ("specfm", "pretrain"):
        logging.getLogger(name).setLevel(logging.INFO)
    if nproc > 1:
        from specfm.engine.launch import launch

        code = launch("pretrain", [config, *(overrides or []), *(["--resume"] if resume else [])], nproc)
        if code == 0 and not _finished_or_saved(settings):
            code = 1  # stopped by a signal before the workers could save
        if code:
            raise typer.Exit(code)
    else:
        from pretrain.loop import train

        train(settings, resume)
    table = Table(title=f"pretraining in {settings.out}", show_header=False)
    for row in summary_rows(Path(settings.out)):
        table.add_row(*row)
    Console().print(table)


def _finished_or_saved(config: PretrainConfig) -> bool:
    """Whether the model of the last step is there, or the word that a stopped run wants to be started again."""

    from specfm.documents import read_json
    from specfm.engine.run_folder import RunFolder

    folder = RunFolder(config.out)
    card = folder.model / "card.json"  # a run that is being prolonged has the model of fewer steps
    return folder.requeue.exists() or (card.is_file() and read_json(card)["steps"] >= config.steps)


def _print_plan(config: PretrainConfig, nproc: int) -> None:
    """What a run would do: resolved configuration, data, batches, model size. Reads the shards' indices only."""
    from pretrain import setup
    from specfm.config import to_yaml

    shards = setup.open_shards(config)
    sampler = setup.make_sampler(config, shards)
    sampler.check_world(nproc)
    modules, _ = setup.make_modules(config, shards)
    millions = sum(p.numel() for p in modules["encoder"].parameters()) / 1e6
    epochs = config.steps / sampler.steps_per_epoch
    typer.echo(to_yaml(config).rstrip())
    typer.echo("---")
    for domain in shards.domain_names:
        sizes = [size for size, name in zip(shards.sizes, shards.domains, strict=True) if name == domain]
        share = sampler.weights.get(domain, 0.0)
        typer.echo(f"domain {domain}: {sum(sizes)} windows in {len(sizes)} shards, share {share:.3f} of the batches")
    typer.echo(f"batch: {config.data.global_batch} windows on {nproc} processes, parts of {sampler.counts}")
    typer.echo(f"steps: {config.steps}, {epochs:.2f} passes over {len(shards)} windows")
    encoder, name = modules["encoder"], config.model.backbone or config.model.size
    typer.echo(f"encoder: {name}, {millions:.2f} million parameters, patch {encoder.patch_size} pixels")
    for doubt in setup.doubts(config, shards, sampler):
        typer.echo(f"warning: {doubt}")
    typer.echo(f"would write {config.out}; nothing was written")
