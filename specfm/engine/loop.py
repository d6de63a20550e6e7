"""The loop around any training step: agree between processes, guard, record, save, stop in order, resume.

Read :func:`run_task` from top to bottom; what is trained is a :class:`specfm.engine.task.Task`, what is kept of it on
disk is :mod:`specfm.engine.keeper`. Steps are counted from 1 in everything that is written (metrics, checkpoints,
faults); step ``n`` uses batch ``n - 1``.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from specfm.engine import faults
from specfm.engine.guard import BadStepGuard, StopSignals, Watchdog
from specfm.engine.keeper import Keeper, kept
from specfm.engine.launch import starts_again
from specfm.engine.optimizer import clip_gradients, set_lr
from specfm.engine.schedule import warmup_cosine
from specfm.engine.sync.all_reduce import AllReduce, Sync
from specfm.engine.task import StepResult, Task
from specfm.engine.waits import own_wait_R, wait_columns
from specfm.errors import SpecfmError
from specfm.progress import progress


@dataclass(frozen=True)
class Outcome:
    """How a run ended: updates ``done`` since it was new; not ``finished`` where a stop signal ended it early."""

    done: int
    finished: bool


class StoppedElsewhereError(SpecfmError):
    """Another process was told to stop, and all did; the launcher of this one starts it again if it fails."""

    exit_code = 75  # of those that are worth another try (EX_TEMPFAIL)


def run_task(
    task: Task, resume: bool = False, signals: StopSignals | None = None, sync: Sync | None = None,
    watchdog: Watchdog | None = None,
) -> Outcome:  # fmt: skip
    """All steps of a task that are not done yet, then its release.

    Under torchrun every process calls this. A stop signal ends the run early, in order: a checkpoint at the same step
    on all ranks and a ``REQUEUE`` file.

    Args:
        task: what is trained.
        resume: go on where the newest valid checkpoint in ``task.folder`` ends.
        signals: the caller's, where it has caught them already; else they are caught here (for a run in a folder).
        sync: how processes keep their weights together; default: gradients are summed over all.
        watchdog: the caller's, where it has watched the making of the task; else one is started here.

    Raises:
        UsageError: the folder is in use, or holds an earlier run and ``resume`` is false.
        NoCheckpointError: exit code 3.
        DivergedError: exit code 4.
        CheckpointWriteError: the disk does not take checkpoints.
        StoppedElsewhereError: exit code 75; under a torchrun that has restarts left, see there.
    """
    config, sync = task.config, sync or AllReduce(task.world)
    guard = BadStepGuard(config.guard.bad_in_a_row, config.guard.bad_per_1000)
    with ExitStack() as stack:
        # First, so that it ends last: where one rank has failed, torchrun signals the one that is still cleaning up.
        if signals is None:
            signals = StopSignals() if task.folder is None else stack.enter_context(StopSignals())
        watchdog = watchdog or stack.enter_context(_watchdog(task))
        watchdog.stage("lock of the run folder", endless=True)  # of a lost node it is waited for
        keeper = stack.enter_context(kept(task, guard, resume, sync))
        watchdog.stage("start")
        task.start(keeper.done)
        shown = progress(task.title, config.steps, keeper.done, task.world.is_main, keep=task.folder is not None)
        advance = stack.enter_context(shown)
        batches = task.batches(keeper.done)
        own_wait_R(task.world)  # in the start, which is no step
        with _collected_on_purpose():
            while not (_over(task, keeper.done) or sync.stopping):
                number = keeper.done + 1
                row = _step(task, number, batches, sync, signals, watchdog, keeper)
                due = _over(task, number) or number % config.checkpoint.every == 0 or task.evaluates(number)
                try:
                    for step, bad in sync.settle(number, due).items():
                        row["bad_step"] |= bad and step == number
                        guard.record(step, bad, last=step == number and _over(task, number))
                    watchdog.stage("evaluation")
                    row |= task.observe(number, number == config.steps or sync.stopping)
                finally:
                    keeper.write(row)
                advance(note=f"loss {row['loss']:.4f}  {row['samples_per_s']:.0f} samples/s")
                # A checkpoint is never written from a non-finite step, unless the run must end here: its weights are
                # then those of the last good step.
                must = _over(task, number) or sync.stopping
                if must or (number % config.checkpoint.every == 0 and not row["bad_step"]):
                    watchdog.stage("checkpoint")
                    keeper.save(number, row, must)
                    watchdog.stage("after checkpoint")
        if sync.stopping and not _over(task, keeper.done):
            keeper.stop(signals.received or 0)
            watchdog.stage("stop", endless=True)
            if starts_again(told=lambda: signals.received is not None):
                raise StoppedElsewhereError(
                    f"another process of the run was told to stop, so all did after step {keeper.done}; the launcher "
                    "goes on from there with those that are left, or new"
                )
            return Outcome(keeper.done, False)
        watchdog.stage("release")
        keeper.release()
        return Outcome(keeper.done, True)


def _over(task: Task, done: int) -> bool:
    return done >= task.config.steps or task.stale()


def _step(
    task: Task, number: int, batches: Iterator[Any], sync: Sync, signals: StopSignals, watchdog: Watchdog,
    keeper: Keeper,
) -> dict[str, Any]:  # fmt: skip
    """One update; returns the step's row."""
    config, world, began = task.config, task.world, time.perf_counter()
    optim = config.optim
    faults.set_context(step=number)
    watchdog.stage("data")
    faults.hit("data.read")
    batch = next(batches)
    watchdog.stage("weights of other processes")
    sync.ready()
    watchdog.stage("forward and backward")
    lr = warmup_cosine(number - 1, config.steps, optim.warmup_steps, optim.lr, optim.min_lr)
    set_lr(task.optimizer, lr)
    try:
        faults.hit("step.forward")
        with sync.coupled(number):
            result: StepResult = task.compute(number, batch)
    except torch.OutOfMemoryError as error:
        raise SpecfmError(task.memory_advice(number, batch)) from error
    watchdog.stage("agreement between processes")
    parameters = [p for p in task.modules.parameters() if p.requires_grad]
    if spoiled := faults.hit("step.grad"):
        parameters[0].grad = torch.full_like(parameters[0], float(spoiled))
    sync.gradients(parameters)
    norm = clip_gradients(parameters, optim.clip)
    # One reduction tells every rank whether any of them saw a bad value or a stop signal, and the global means.
    names = sorted(result.scalars)
    finite = torch.isfinite(result.loss) & torch.isfinite(norm)
    here = torch.stack([(~finite).double(), result.loss.double()])
    figures = [*own_wait_R(world), *(result.scalars[name] for name in names)]
    told = torch.tensor(figures, dtype=torch.float64, device=world.device)
    bad, loss, *means = sync.agree(number, torch.cat([here, told]), signals.received is not None)
    waits_R, means = means[: world.size], means[world.size :]
    if bad:
        keeper.dump(number, batch, result, float(norm))
    else:
        task.optimizer.step()
        task.updated(number)
    sync.updated(number)
    task.optimizer.zero_grad(set_to_none=True)
    if number == 1:
        world.tighten(config.guard.peer_timeout_s)
    if number % config.guard.collect_garbage_every == 0:
        gc.collect()
    with sync.coupled(number):
        columns = task.columns(number, result, bool(bad))
    row = {
        "step": number, "loss": loss, "lr": lr, "grad_norm": float(norm), "bad_step": bool(bad),
        **dict(zip(names, means, strict=True)), **columns, **wait_columns(waits_R, world, sync.equal),
    }  # fmt: skip
    seconds = time.perf_counter() - began
    row |= {
        "samples_per_s": task.batch_size / seconds, "seconds": seconds,
        "peak_memory_mb": world.peak_memory_mb(),
    }  # fmt: skip
    return row


def _watchdog(task: Task) -> Watchdog:
    folder = task.folder
    return Watchdog(0, Path()) if folder is None else Watchdog(task.config.guard.stall_s, folder.stacks)


@contextmanager
def _collected_on_purpose() -> Iterator[None]:
    """No garbage collection but ours, which happens on all ranks at the same step."""
    gc.collect(1)  # what a run before left is young; looking through every module that is loaded takes a second
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
