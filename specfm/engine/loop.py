"""The loop around any training step: agree between processes, guard, record, save, stop in order, resume.

Steps are counted from 1 in everything that is written (metrics, checkpoints, faults); step ``n`` uses batch ``n - 1``.
A run is a subclass that says how a batch is made and what its loss is; everything it needs to be exact after a
resumption is a function of the step.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from specfm.config import to_dict
from specfm.engine import faults
from specfm.engine.checkpointing import Checkpointer, CheckpointWriteError
from specfm.engine.config import RunConfig
from specfm.engine.distributed import World
from specfm.engine.guard import BadStepGuard, DivergedError, StopSignals, Watchdog
from specfm.engine.optimizer import clip_gradients, set_lr
from specfm.engine.record import MetricsLog, WandbMirror
from specfm.engine.run_folder import RunFolder
from specfm.engine.schedule import warmup_cosine
from specfm.errors import SpecfmError

log = logging.getLogger(__name__)


class StepResult(Protocol):
    """What a step leaves: the loss (gradients already taken) and numbers to average over processes and record."""

    @property
    def loss(self) -> Tensor: ...

    @property
    def scalars(self) -> dict[str, float]: ...


class TrainingLoop(ABC):
    """One run on one rank. A subclass builds its parts, then calls :meth:`begin` and :meth:`watch`; :meth:`loop` works.

    Args:
        config: the run. modules: everything that is trained, by name. optimizer: over their parameters.
        world: this process among all. folder: where the run is kept.
    """

    title = "train"

    def __init__(
        self,
        config: RunConfig,
        modules: nn.ModuleDict,
        optimizer: torch.optim.Optimizer,
        world: World,
        folder: RunFolder,
    ) -> None:
        self.config, self.modules, self.optimizer, self.world, self.folder = config, modules, optimizer, world, folder
        self.guard = BadStepGuard(config.guard.bad_in_a_row, config.guard.bad_per_1000)
        keep = config.checkpoint
        self.checkpointer = Checkpointer(folder.checkpoints, keep.keep, keep.milestone_every, keep.retry_s)
        self.done = 0
        self.last_row: dict[str, Any] = {}
        self.metrics: MetricsLog | None = None
        self.mirror: WandbMirror | None = None

    # What a run says about itself.

    @abstractmethod
    def next_batch(self) -> Any:
        """The batch of the next step."""

    @abstractmethod
    def compute(self, number: int, batch: Any) -> StepResult:
        """Forward and backward of step ``number``."""

    @abstractmethod
    def batch_size(self) -> int:
        """Samples of a step over all processes."""

    @abstractmethod
    def restore(self, checkpoint: Path) -> int:
        """Take up a verified checkpoint; returns the updates done."""

    @abstractmethod
    def save(self, number: int) -> bool:
        """Write a checkpoint (rank 0); False if that failed."""

    @abstractmethod
    def release(self) -> None:
        """Publish ``out/model`` (rank 0)."""

    @abstractmethod
    def describe(self, batch: Any, result: Any) -> dict[str, Any]:
        """Facts that help to find the cause of a bad step."""

    @abstractmethod
    def memory_advice(self, number: int, batch: Any) -> str:
        """One sentence on what filled the memory and which key to change."""

    def columns(self, number: int, result: Any, bad: bool) -> dict[str, Any]:
        """Further numbers of the step's row."""
        return {}

    def observe(self, number: int, last: bool) -> dict[str, Any]:
        """Evaluate where it is time to; the numbers join the step's row."""
        return {}

    def finished(self) -> bool:
        """True once nothing can be gained from further steps."""
        return self.done >= self.config.steps

    # What is the same in all.

    def begin(self, stack: ExitStack, resume: bool) -> None:
        """Catch signals, lock the folder; on ``resume`` take up the newest valid checkpoint, the same on every rank.

        A new run that fails before its first step has been done leaves no folder behind.
        """
        # First, so that it ends last: where one rank has failed, torchrun signals the one that is still cleaning up.
        self.signals = stack.enter_context(StopSignals())
        self.world.on_main(lambda: self.folder.open(resume))

        def leave(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
            if kind is not None and not resume and self.done == 0:
                self.folder.discard()
            else:
                self.folder.close()

        if self.world.is_main:
            stack.push(leave)
        self.done = self._take_up(resume)

    def watch(self, stack: ExitStack, resume: bool) -> None:
        """Open the records, start the watchdog and the bar."""
        config = self.config
        if self.world.is_main:
            self.folder.write_config(config, self.done if resume else None)
            self.metrics = MetricsLog(self.folder.path, self.done if resume else None)
            self.mirror = WandbMirror(config.wandb.mode, config.wandb.project, self.folder.path, to_dict(config))
            stack.callback(self.metrics.close)
            stack.callback(self.mirror.close)
        self.watchdog = stack.enter_context(Watchdog(config.guard.stall_s, self.folder.stacks))
        self.progress = stack.enter_context(_progress(self.title, config.steps, self.done, self.world.is_main))

    def _take_up(self, resume: bool) -> int:
        def find() -> str | None:
            self.checkpointer.clean()
            found = self.checkpointer.newest_valid()
            return None if found is None else str(found)

        checkpoint = self.world.on_main(find) if resume else None
        if checkpoint is None:
            if resume and self.world.is_main:
                log.warning("%s holds no checkpoint to resume from; starting at step 1", self.folder.path)
            return 0
        done = self.restore(Path(checkpoint))
        log.info("resumed from %s", checkpoint)
        return done

    def loop(self) -> bool:
        """All remaining steps, then the release; False if a signal stopped the run before its end."""
        gc.collect()
        gc.disable()  # collections then happen on all ranks at the same step
        try:
            stopped = False
            while not self.finished() and not stopped:
                stopped = self._one_step()
        finally:
            gc.enable()
        if stopped and not self.finished():
            if self.world.is_main:
                self.folder.ask_requeue(self.done, self.signals.received or 0)
                log.warning("stopped by a signal at step %d; continue with --resume", self.done)
            return False
        self.watchdog.stage("release")
        self.world.on_main(self.release)
        return True

    def _one_step(self) -> bool:
        """One update; returns True when all ranks have agreed to stop."""
        config, world, began = self.config, self.world, time.perf_counter()
        number = self.done + 1
        faults.set_context(step=number)
        self.watchdog.stage("data")
        faults.hit("data.read")
        batch = self.next_batch()
        self.watchdog.stage("forward and backward")
        optim = config.optim
        lr = warmup_cosine(number - 1, config.steps, optim.warmup_steps, optim.lr, optim.min_lr)
        set_lr(self.optimizer, lr)
        try:
            faults.hit("step.forward")
            result = self.compute(number, batch)
        except torch.OutOfMemoryError as error:
            raise SpecfmError(self.memory_advice(number, batch)) from error
        self.watchdog.stage("agreement between processes")
        parameters = [p for p in self.modules.parameters() if p.requires_grad]
        if spoiled := faults.hit("step.grad"):
            parameters[0].grad = torch.full_like(parameters[0], float(spoiled))
        world.sum_gradients(parameters)
        norm = clip_gradients(parameters, optim.clip)
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
            **dict(zip(names, means, strict=True)), **self.columns(number, result, bool(bad)),
        }  # fmt: skip
        seconds = time.perf_counter() - began
        row |= {
            "samples_per_s": self.batch_size() / seconds, "seconds": seconds,
            "peak_memory_mb": _peak_memory_mb(world.device),
        }  # fmt: skip
        self._after(number, row, bool(bad), stop > 0)
        return stop > 0

    def _after(self, number: int, row: dict[str, Any], bad: bool, stop: bool) -> None:
        """Judge, watch, record and save what the step left."""
        config = self.config
        try:
            self.guard.record(number, bad, last=self.finished())
            self.watchdog.stage("evaluation")
            row |= self.observe(number, number == config.steps or stop)
        finally:
            self.last_row = row
            if self.metrics is not None and self.mirror is not None:
                self.metrics.write(row)
                self.mirror.write(row)
        self.progress(number, row)
        # A checkpoint is never written from a non-finite step, unless the run must end here: its weights are then those
        # of the last good step.
        last = self.finished()
        if last or stop or (number % config.checkpoint.every == 0 and not bad):
            self.watchdog.stage("checkpoint")
            saved = self.world.on_main(lambda: self._save_if_finite(number))
            if not saved and (last or stop):
                raise CheckpointWriteError(f"the checkpoint at step {number} could not be written; see the warnings")
            self.watchdog.stage("after checkpoint")

    def _save_if_finite(self, number: int) -> bool:
        """A finite gradient can still make an update that overflows; such weights never become a checkpoint."""
        if not torch.stack([p.detach().isfinite().all() for p in self.modules.parameters()]).all():
            raise DivergedError(
                f"weights are not finite after step {number}; lower optim.lr or optim.weight_decay, then resume or "
                "start a new run"
            )
        return self.save(number)

    def _dump(self, number: int, batch: Any, result: StepResult, norm: float) -> None:
        loss = float(result.loss)
        facts = {
            "step": number,
            "rank": self.world.rank,
            "loss": repr(loss),
            "gradient_norm": repr(norm),
            "scalars": {name: repr(value) for name, value in result.scalars.items()},
            **self.describe(batch, result),
        }
        path = self.folder.dump_bad_step(number, self.world.rank, facts)
        log.warning("step %d: loss %s, gradient norm %s; update skipped, see %s", number, loss, norm, path)


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


@contextmanager
def _progress(title: str, steps: int, done: int, shown: bool) -> Iterator[Any]:
    """A bar on stderr; silent where stderr is no terminal, and on all ranks but one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    note = TextColumn("{task.fields[note]}")
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note)
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task(title, total=steps, completed=done, note="")

        def advance(number: int, row: dict[str, Any]) -> None:
            bar.update(task, completed=number, note=f"loss {row['loss']:.4f}  {row['samples_per_s']:.0f} samples/s")

        yield advance
