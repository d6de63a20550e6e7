"""What of a run is kept on disk: the lock on its folder, its checkpoints, its record. Without a folder nothing is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from specfm.engine.checkpointing import Checkpointer, CheckpointWriteError, read_state
from specfm.engine.guard import BadStepGuard, DivergedError
from specfm.engine.mirrors import Mirror, open_mirrors
from specfm.engine.optimizer import optimizer_tensors
from specfm.engine.record import MetricsLog
from specfm.engine.replicas import alike, refuse_different
from specfm.engine.run_folder import RunFolder
from specfm.engine.staging import Beside, copied
from specfm.engine.sync.all_reduce import Sync
from specfm.engine.sync.own_state import take_up_own, with_own
from specfm.engine.task import StepResult, Task
from specfm.errors import sentence

log = logging.getLogger(__name__)


class Keeper:
    """Keeps one run; made by :func:`kept`.

    Attributes:
        done: updates done so far, with those before a checkpoint that was taken up.
    """

    def __init__(self, task: Task, guard: BadStepGuard, sync: Sync) -> None:
        self.task, self.world, self.folder, self.guard, self.sync = task, task.world, task.folder, guard, sync
        self.done = 0
        self._records: list[MetricsLog | Mirror] = []
        self._beside = Beside()
        if self.folder is not None:
            keep = task.config.checkpoint
            folder = self.folder.checkpoints
            self._checkpointer = Checkpointer(
                folder, keep.keep, keep.milestone_every, keep.retry_s, self.folder.check_lock
            )

    def take_up(self, folder: RunFolder) -> None:
        """Go on from the newest valid checkpoint, the same on every rank."""

        def find() -> str | None:
            self._checkpointer.clean()
            found = self._checkpointer.newest_valid()
            return None if found is None else str(found)

        checkpoint = self.world.on_main(find)
        if checkpoint is None:
            if self.world.is_main:
                log.warning("%s holds no checkpoint to resume from; starting at step 1", folder.path)
            return
        state = read_state(Path(checkpoint))
        self.task.restore(Path(checkpoint), state)
        if (ranks := int(state.get("own_optimizers", 1))) > 1:
            take_up_own(Path(checkpoint), self.world, self.sync, self.task, ranks)
        self.guard.restore(state["guard"])
        self.done = int(state["step"])
        self._refuse_different(state, f"after {checkpoint} was taken up")
        log.info("resumed from %s", checkpoint)

    def open_records(self, folder: RunFolder, resume: bool, stack: ExitStack) -> None:
        """Write the configuration and open ``metrics.jsonl`` and its mirrors (rank 0)."""
        config, resumed = self.task.config, self.done if resume else None
        folder.write_config(config, resumed)
        self._records = [MetricsLog(folder.path, resumed)]
        stack.callback(self._records[0].close)
        for mirror in open_mirrors(config, folder.path, resumed):
            self._records.append(mirror)
            stack.callback(mirror.close)

    def write(self, row: dict[str, Any]) -> None:
        """Record the row of a step that is done.

        Raises:
            LockLostError: another run has taken the folder over.
            CheckpointWriteError: two checkpoints in a row could not be written.
        """
        if self._records and self.folder is not None:
            self.folder.check_lock()
            self._beside.look()
        self.done = int(row["step"])
        for record in self._records:
            record.write(row)

    def dump(self, number: int, batch: Any, result: StepResult, norm: float) -> None:
        """Keep what is known of a bad step, and say where."""
        scalars = {name: repr(value) for name, value in result.scalars.items()}
        seen = {"loss": repr(float(result.loss)), "gradient_norm": repr(norm), "scalars": scalars}
        facts = {"step": number, "rank": self.world.rank, **seen, **self.task.describe(batch, result)}
        text = f"step {number}: loss {facts['loss']}, gradient norm {facts['gradient_norm']}; update skipped"
        if self.folder is not None:
            text += f", see {self.folder.dump_bad_step(number, self.world.rank, facts)}"
        log.warning("%s", text)

    def save(self, number: int, row: dict[str, Any], must: bool) -> None:
        """Begin to write a checkpoint; every rank calls this. One that ``must`` be written is waited for, and ends the
        run if it cannot be.

        A finite gradient can still make an update that overflows; such weights never become a checkpoint.

        Raises:
            ReplicasDifferError: processes hold different weights.
            DivergedError: weights are not finite.
            CheckpointWriteError: see above, or two in a row failed.
        """
        if self.folder is None:
            return
        self._refuse_different(self.guard.state(), f"at step {number}")
        finite = torch.stack([p.detach().isfinite().all() for p in self.task.modules.parameters()]).all()
        if self.world.sum((~finite).double()) > 0:
            raise DivergedError(
                f"weights are not finite after step {number}; lower optim.lr or optim.weight_decay, then resume or "
                "start a new run"
            )
        self._saved()
        held = self.task.snapshot(number, row)
        write, own, discard = with_own(held.write_model, self._checkpointer.folder, number, self.sync, self.task)
        if self.world.is_main:
            tensors, state = copied(held.tensors), deepcopy({**held.state, "guard": self.guard.state(), **own})

            def work() -> bool:
                try:
                    return self._checkpointer.save(number, write, tensors, state) is not None
                finally:
                    discard()

            self._beside.begin(number, work)
        if (must or not self.task.config.checkpoint.beside) and not self._saved() and must:
            raise CheckpointWriteError(f"the checkpoint at step {number} could not be written; see the warnings")

    def _saved(self) -> bool:
        """Wait for the checkpoint that is being written; whether it was. Every rank raises what it raised."""
        return bool(self.world.on_main(self._beside.wait))

    def close(self) -> None:
        """Before the folder is given back: what is being written is written to its end (rank 0)."""
        try:
            self._beside.wait()
        except Exception as error:  # something else ends the run, and is told
            log.warning("the last checkpoint that was begun was not written (%s)", sentence(error))
        self._beside.close()

    def _refuse_different(self, facts: dict[str, Any], when: str) -> None:
        modules = self.task.modules
        held = alike(modules) | (optimizer_tensors(self.task.optimizer, modules) if self.sync.equal else {})
        refuse_different(self.world, held, facts, when)

    def stop(self, signal_number: int) -> None:
        """Ask for another start: a signal ended the run before its end."""
        if self.folder is not None and self.world.is_main:
            self.folder.check_lock()
            self.folder.ask_requeue(self.done, signal_number)
            log.warning("stopped by a signal at step %d; continue with --resume", self.done)

    def release(self) -> None:
        """Publish what the run came to. Collective."""
        if self.folder is not None:
            self.world.on_main(self.folder.check_lock)
        self.task.release(self.done)


@contextmanager
def kept(task: Task, guard: BadStepGuard, resume: bool, sync: Sync) -> Iterator[Keeper]:
    """Lock the folder, on ``resume`` take up the newest valid checkpoint, open the record; close it all at the end.

    A new run that fails before its first step has been done leaves no folder behind. Collective.

    Raises:
        UsageError: the folder is in use, or holds an earlier run and ``resume`` is false.
        NoCheckpointError: there are checkpoints and none is valid.
    """
    keeper, folder, world = Keeper(task, guard, sync), task.folder, task.world
    if folder is None:
        yield keeper
        return
    world.on_main(lambda: folder.open(resume))
    try:
        with ExitStack() as stack:
            if resume:
                keeper.take_up(folder)
            if world.is_main:
                keeper.open_records(folder, resume, stack)
            yield keeper
    except BaseException:
        if world.is_main:
            keeper.close()
            (folder.close if resume or keeper.done else folder.discard)()
        raise
    if world.is_main:
        keeper.close()
        folder.close()
