"""The pretraining loop, whole: load, view, encode, contrast, agree, step, record, save.

Steps are counted from 1 in everything that is written (metrics, checkpoints, faults); step ``n`` uses batch ``n - 1``.
"""

from __future__ import annotations

import gc
import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from pretrain import setup
from pretrain.config import PretrainConfig
from pretrain.loader import Loader
from pretrain.monitor import OnlineKnn
from pretrain.objectives.metrics import embedding_metrics
from pretrain.step import PretrainStep
from specfm.batch import Batch
from specfm.config import to_dict
from specfm.engine import distributed, faults
from specfm.engine.checkpointing import Checkpointer, CheckpointWriteError
from specfm.engine.distributed import World
from specfm.engine.guard import BadStepGuard, StopSignals, Watchdog
from specfm.engine.metrics import MetricsLog, WandbMirror
from specfm.engine.optimizer import adamw, clip_gradients, set_lr
from specfm.engine.run_folder import RunFolder
from specfm.engine.schedule import warmup_cosine
from specfm.errors import SpecfmError
from specfm.shards import ShardSet

log = logging.getLogger(__name__)


def train(config: PretrainConfig, resume: bool = False) -> Path:
    """Run (or continue) a pretraining and return its folder.

    Under torchrun every process calls this; rank 0 writes. A stop signal ends the run early, in order: a checkpoint at
    the same step on all ranks and a ``REQUEUE`` file.

    Args:
        config: The run.
        resume: Continue exactly where the newest valid checkpoint of ``config.out`` ends.

    Raises:
        UsageError: the folder exists (without ``resume``), is in use, or the configuration does not fit the data.
        NoCheckpointError: ``resume``, and every checkpoint is damaged (exit code 3).
        DivergedError: too many non-finite steps (exit code 4).
    """
    world = distributed.start(config.device)
    try:
        faults.set_context(rank=world.rank)
        folder = RunFolder(config.out)
        if not resume:
            world.on_main(folder.refuse_existing)
        with ExitStack() as stack:
            run = _Run(config, world, folder, stack, resume)
            run.loop()
        return folder.path
    finally:
        distributed.stop(world)


class _Run:
    """One run on one rank: everything is built in ``__init__``, ``loop`` does the work."""

    def __init__(self, config: PretrainConfig, world: World, folder: RunFolder, stack: ExitStack, resume: bool) -> None:
        self.config, self.world, self.folder = config, world, folder
        # What can be refused is refused before the folder is touched.
        self.shards = setup.open_shards(config)
        self.sampler = setup.make_sampler(config, self.shards)
        self.loader = Loader(
            self.shards,
            self.sampler,
            world.rank,
            world.size,
            threads=config.data.threads,
            prefetch=config.data.prefetch,
            device=world.device,
        )
        self.modules = setup.make_modules(config).to(world.device)
        world.broadcast_module(self.modules)
        optim = config.optim
        self.optimizer = adamw(self.modules, optim.lr, optim.weight_decay, optim.betas, world.device)
        self.guard = BadStepGuard(config.guard.bad_in_a_row, config.guard.bad_per_1000)
        keep = config.checkpoint
        self.checkpointer = Checkpointer(folder.checkpoints, keep.keep, keep.milestone_every, keep.retry_s)
        world.on_main(lambda: folder.open(resume))
        if world.is_main:
            stack.callback(folder.close)
        self.done = self._take_up(resume)
        if self.done == 0 and config.init_from is None:
            world.on_main(lambda: setup.whiten(config, self.shards, self.sampler, self.modules))
            world.broadcast_module(self.modules)
        if config.model.compile:
            self.encoder.compile_blocks()
        self.step_function = PretrainStep(self.modules, config, world)
        self.last_row: dict[str, Any] = {}
        self.monitor: OnlineKnn | None = None
        self.metrics: MetricsLog | None = None
        self.mirror: WandbMirror | None = None
        if world.is_main:
            folder.write_config(config, self.done if resume else None)
            self.metrics = MetricsLog(folder.path, self.done if resume else None)
            self.mirror = WandbMirror(config.wandb.mode, config.wandb.project, folder.path, to_dict(config))
            stack.callback(self.metrics.close)
            stack.callback(self.mirror.close)
            if config.monitor.every:
                watched = ShardSet(list(config.monitor.shards)) if config.monitor.shards else self.shards
                self.monitor = OnlineKnn(watched, config.monitor, config.seed)
        self.signals = stack.enter_context(StopSignals())
        self.watchdog = stack.enter_context(Watchdog(config.guard.stall_s, folder.stacks))
        self.progress = stack.enter_context(_progress(config.steps, self.done, world.is_main))

    @property
    def encoder(self) -> Any:
        """The encoder in training."""
        return self.modules["encoder"]

    def _take_up(self, resume: bool) -> int:
        """Restore the newest valid checkpoint, the same on every rank; returns the updates done."""

        def find() -> str | None:
            self.checkpointer.clean()
            found = self.checkpointer.newest_valid()
            return None if found is None else str(found)

        checkpoint = self.world.on_main(find) if resume else None
        if checkpoint is None:
            if resume:
                log.warning("%s holds no checkpoint to resume from; starting at step 1", self.folder.path)
            return 0
        done = setup.restore(
            Path(checkpoint), self.config, self.shards, self.sampler, self.modules, self.optimizer, self.guard
        )
        log.info("resumed from %s", checkpoint)
        return done

    def loop(self) -> None:
        """All remaining steps, then the release."""
        gc.collect()
        gc.disable()  # collections then happen on all ranks at the same step
        try:
            batches = self.loader.iterate(self.done, self.config.steps)
            stopped = False
            while self.done < self.config.steps and not stopped:
                stopped = self._one_step(batches)
        finally:
            gc.enable()
        if stopped and self.done < self.config.steps:
            if self.world.is_main:
                self.folder.ask_requeue(self.done, self.signals.received or 0)
            log.warning("stopped by a signal at step %d; continue with --resume", self.done)
        else:
            self.watchdog.stage("release")
            self.world.on_main(self._release)

    def _one_step(self, batches: Iterator[tuple[int, Batch]]) -> bool:
        """One update; returns True when all ranks have agreed to stop."""
        config, world, began = self.config, self.world, time.perf_counter()
        number = self.done + 1
        faults.set_context(step=number)
        self.watchdog.stage("data")
        faults.hit("data.read")
        step, batch = next(batches)
        self.watchdog.stage("forward and backward")
        lr = warmup_cosine(step, config.steps, config.optim.warmup_steps, config.optim.lr, config.optim.min_lr)
        set_lr(self.optimizer, lr)
        try:
            faults.hit("step.forward")
            result = self.step_function(step, batch)
        except torch.OutOfMemoryError as error:
            raise SpecfmError(_memory_advice(config, world, batch, number)) from error
        self.watchdog.stage("agreement between processes")
        parameters = [p for p in self.modules.parameters() if p.requires_grad]
        if spoiled := faults.hit("step.grad"):
            parameters[0].grad = torch.full_like(parameters[0], float(spoiled))
        world.sum_gradients(parameters)
        norm = clip_gradients(parameters, config.optim.clip)
        # One reduction tells every rank whether any of them saw a bad value or a stop signal, and the global means.
        names = sorted(result.scalars)
        finite = torch.isfinite(result.loss) & torch.isfinite(norm)
        numbers = torch.stack(
            [(~finite).double(), torch.tensor(self.signals.received is not None, device=world.device).double()]
            + [result.loss.double() / world.size]
            + [
                torch.tensor(result.scalars[name] / world.size, dtype=torch.float64, device=world.device)
                for name in names
            ]
        )
        bad, stop, loss, *means = world.sum(numbers).tolist()
        if bad:
            self._dump(number, batch, result, float(norm))
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done = number
        if number == 1:
            world.tighten(config.guard.peer_timeout_s)
        if number % config.guard.collect_garbage_every == 0:
            gc.collect()
        row = {
            "step": number, "loss": loss, "lr": lr, "grad_norm": float(norm), "bad_step": bool(bad),
            "view_strength": self.step_function.strength(step), **dict(zip(names, means, strict=True)),
        }  # fmt: skip
        if number % config.monitor.features_every == 0 or number == config.steps:
            pooled, z1, z2 = (world.gather_rows(x.float()) for x in (result.pooled_BD, result.z1_BE, result.z2_BE))
            row |= embedding_metrics(pooled, z1, z2) if world.is_main and not bad else {}
        seconds = time.perf_counter() - began
        row |= {
            "samples_per_s": config.data.global_batch / seconds, "seconds": seconds,
            "data_wait_s": self.loader.data_wait, "peak_memory_mb": _peak_memory_mb(world.device),
        }  # fmt: skip
        self._after(number, row, bool(bad), stop > 0)
        return stop > 0

    def _after(self, number: int, row: dict[str, Any], bad: bool, stop: bool) -> None:
        """Judge, watch, record and save what the step left."""
        config = self.config
        last = number == config.steps
        try:
            self.guard.record(number, bad)
            every = config.monitor.every
            if self.monitor is not None and (last or stop or (every and number % every == 0)):
                self.watchdog.stage("kNN monitor")
                row |= self.monitor(self.encoder)
        finally:
            self.last_row = row
            if self.metrics is not None and self.mirror is not None:
                self.metrics.write(row)
                self.mirror.write(row)
        self.progress(number, row)
        # A checkpoint is never written from a non-finite step, unless the run must end here: its weights are then those
        # of the last good step.
        if last or stop or (number % config.checkpoint.every == 0 and not bad):
            self.watchdog.stage("checkpoint")
            saved = self.world.on_main(lambda: self._save(number))
            if not saved and (last or stop):
                raise CheckpointWriteError(f"the checkpoint at step {number} could not be written; see the warnings")
            self.watchdog.stage("after checkpoint")

    def _save(self, number: int) -> bool:
        state = setup.training_state(self.config, self.shards, self.sampler, self.guard, self.world.size)
        state |= {key: value for key in ("knn", "loss") if math.isfinite(value := self.last_row.get(key, math.nan))}
        state["score"] = state.get("knn")
        card = setup.release_card(self.config, self.shards, number)
        saved = self.checkpointer.save(
            number,
            lambda folder: setup.write_model(self.modules, folder, card),
            setup.training_tensors(self.modules, self.optimizer),
            state,
        )
        return saved is not None

    def _release(self) -> None:
        """``out/model``: the final encoder; an older one (of fewer steps) is kept beside it."""
        from pretrain.summary import plot_losses
        from specfm.checkpoint import load
        from specfm.files import keep_aside

        if self.folder.model.exists():
            steps = load(self.folder.model).card.get("steps")
            if steps == self.done:
                return
            keep_aside(self.folder.model, f"model.until-step-{steps}")
        setup.write_model(self.modules, self.folder.model, setup.release_card(self.config, self.shards, self.done))
        plot_losses(self.folder.path)

    def _dump(self, number: int, batch: Batch, result: Any, norm: float) -> None:
        loss = float(result.loss)
        facts = {
            "step": number,
            "rank": self.world.rank,
            "loss": repr(loss),
            "gradient_norm": repr(norm),
            "sample_id": batch.cat("sample_id_B").tolist(),
            "scalars": {name: repr(value) for name, value in result.scalars.items()},
        }
        path = self.folder.dump_bad_step(number, self.world.rank, facts)
        log.warning("step %d: loss %s, gradient norm %s; update skipped, see %s", number, loss, norm, path)


def _memory_advice(config: PretrainConfig, world: World, batch: Batch, number: int) -> str:
    """One sentence on what filled the memory and which key to change; nothing is shrunk in silence."""
    limit = min(config.optim.micro_batch or len(batch), len(batch))
    high, wide, bands = max((part.x_BHWC.shape[1:] for part in batch), key=lambda shape: shape[2])
    side = config.model.patch_size
    tokens = -(-high // side) * -(-wide // side)
    return (
        f"out of memory on rank {world.rank} at step {number}: micro-batch {limit}, up to {bands} bands, about "
        f"{tokens} tokens a window and view; set optim.micro_batch={max(1, limit // 2)} (the result stays) or "
        "model.grad_checkpointing=true"
    )


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


@contextmanager
def _progress(steps: int, done: int, shown: bool) -> Iterator[Any]:
    """A bar on stderr; silent where stderr is no terminal, and on all ranks but one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    note = TextColumn("{task.fields[note]}")
    columns = (TextColumn("pretrain"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note)
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task("pretrain", total=steps, completed=done, note="")

        def advance(number: int, row: dict[str, Any]) -> None:
            bar.update(task, completed=number, note=f"loss {row['loss']:.4f}  {row['samples_per_s']:.0f} samples/s")

        yield advance
