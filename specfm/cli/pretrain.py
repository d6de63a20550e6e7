"""``specfm pretrain``: train an encoder on shards, in one process or several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specfm.cli import _options as options
from specfm.cli._function import function, printed
from specfm.cli._results import Run
from specfm.cli._show import run_logging
from specfm.errors import SpecfmError

if TYPE_CHECKING:
    from pretrain.config import PretrainConfig


@function
def pretrain(
    config: Annotated[str, typer.Argument(help="YAML file, as given or below configs/ (e.g. pretrain/debug.yaml).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted keys, e.g. optim.lr=1e-3 steps=500.")
    ] = None,
    nproc: Annotated[int, typer.Option(min=1, help="Processes on this machine (several: through torchrun).")] = 1,
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
) -> Run:
    """Pretrain an encoder without labels on shards of many sensors.

    It learns by the objectives that CONFIG gives, one or several: objective.nt_xent (where none is given), local,
    vicreg, masked, latent, band_prediction, teacher.

    Writes OUT/config.yaml, metrics.jsonl, checkpoints/, loss.png and model/ (for specfm.load). Stop signals save a
    checkpoint and leave OUT/REQUEUE. Exit codes: 0 done or stopped in order, 1 failed, 2 usage, 3 no valid
    checkpoint, 4 diverged, 5 stalled.
    """
    from pretrain.config import PretrainConfig
    from specfm.config import load_config

    settings = load_config(config, PretrainConfig, overrides)
    # what follows takes seconds to import; a mistyped key is answered before
    from pretrain.setup import settled
    from specfm.engine.run_folder import RunFolder

    settings = settled(settings)
    if dry_run:
        return Run(Path(settings.out), False, _plan(settings, nproc))
    if not resume:
        RunFolder(settings.out).refuse_existing()
    if nproc > 1:
        from specfm.engine.launch import launch

        code = launch("pretrain", [config, *(overrides or []), *(["--resume"] if resume else [])], nproc)
        if code == 0 and not (_finished(settings) or RunFolder(settings.out).requeue.exists()):
            code = 1  # stopped by a signal before the workers could save
        if code:
            raise WorkersFailed(code)
    else:
        from pretrain.loop import train

        train(settings, resume)
    return Run(Path(settings.out), _finished(settings), read_rows=_rows)


class WorkersFailed(SpecfmError):
    """A process of several failed; the run has the exit code of the first of them."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a process of the run ended with exit code {code}; what it said on stderr tells why")
        self.exit_code = code


@contextmanager
def told_by_workers(words: Mapping[str, Any]) -> Iterator[None]:
    """A run speaks; of one that failed in a process of its own, that process has said why."""
    try:
        with run_logging(words):
            yield
    except WorkersFailed as error:
        raise typer.Exit(error.exit_code) from None


@printed(pretrain, around=told_by_workers)
def command(found: Run) -> None:
    """Print the closing table, or the plan."""
    from rich.console import Console
    from rich.table import Table

    from pretrain.summary import summary_rows

    if found.plan:
        typer.echo("\n".join(found.plan))
        return
    table = Table(title=f"pretraining in {found.folder}", show_header=False)
    for row in summary_rows(found.folder):
        table.add_row(*row)
    Console().print(table)


def _rows(folder: Path) -> list[dict[str, Any]]:
    from specfm.engine.record import read_metrics

    return read_metrics(folder)


def _finished(config: PretrainConfig) -> bool:
    """Whether the model of the last step is there."""

    from specfm.documents import read_json
    from specfm.engine.run_folder import RunFolder

    card = RunFolder(config.out).model / "card.json"  # a run that is being prolonged has the model of fewer steps
    return card.is_file() and read_json(card)["steps"] >= config.steps


def _plan(config: PretrainConfig, nproc: int) -> list[str]:
    """What a run would do: resolved configuration, data, batches, model size. Reads the shards' indices only."""
    from pretrain import setup
    from specfm.config import to_yaml

    shards = setup.open_shards(config)
    sampler = setup.make_sampler(config, shards)
    sampler.check_world(nproc)
    modules, _ = setup.make_modules(config, shards)
    millions = sum(p.numel() for p in modules["encoder"].parameters()) / 1e6
    epochs = config.steps / sampler.steps_per_epoch
    lines = [to_yaml(config).rstrip(), "---"]
    for domain in shards.domain_names:
        sizes = [size for size, name in zip(shards.sizes, shards.domains, strict=True) if name == domain]
        share = sampler.weights.get(domain, 0.0)
        lines.append(f"domain {domain}: {sum(sizes)} windows in {len(sizes)} shards, share {share:.3f} of the batches")
    lines.append(f"batch: {config.data.global_batch} windows on {nproc} processes, parts of {sampler.counts}")
    lines.append(f"steps: {config.steps}, {epochs:.2f} passes over {len(shards)} windows")
    encoder, name = modules["encoder"], config.model.backbone or config.model.size
    lines.append(f"encoder: {name}, {millions:.2f} million parameters, patch {encoder.patch_size} pixels")
    for doubt in setup.doubts(config, shards, sampler):
        lines.append(f"warning: {doubt}")
    return [*lines, f"would write {config.out}; nothing was written"]
