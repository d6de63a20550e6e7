"""Pretraining as a training loop: load, view, encode, contrast; the rest is that of any run (specfm/engine/loop.py)."""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pretrain import setup
from pretrain.config import PretrainConfig
from pretrain.loader import Loader
from pretrain.monitor import OnlineKnn
from pretrain.objectives.collapse import embedding_metrics
from pretrain.release.library import collect_library
from pretrain.step import PretrainStep
from specfm.batch import Batch
from specfm.engine import distributed, faults
from specfm.engine.distributed import World
from specfm.engine.loop import TrainingLoop
from specfm.engine.run_folder import RunFolder
from specfm.library import merge
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
    with distributed.joined(config.device) as world:
        faults.set_context(rank=world.rank)
        folder = RunFolder(config.out)
        if not resume:
            world.on_main(folder.refuse_existing)
        with ExitStack() as stack:
            run = _Run(config, world, folder, stack, resume)
            run.loop()
        return folder.path


class _Run(TrainingLoop):
    """One pretraining on one rank."""

    title = "pretrain"
    config: PretrainConfig

    def __init__(self, config: PretrainConfig, world: World, folder: RunFolder, stack: ExitStack, resume: bool) -> None:
        # What can be refused is refused before the folder is touched, damaged shards included.
        self.shards = setup.open_shards(config)
        self.shards.verify_once()
        self.sampler = setup.make_sampler(config, self.shards)
        for doubt in setup.doubts(config, self.shards, self.sampler) if world.is_main else ():
            log.warning("%s", doubt)
        self.loader = Loader(
            self.shards,
            self.sampler,
            world.rank,
            world.size,
            threads=config.data.threads,
            prefetch=config.data.prefetch,
            device=world.device,
        )
        modules = setup.make_modules(config).to(world.device)
        world.broadcast_module(modules)
        optimizer = setup.make_optimizer(config, modules, world.device)
        encoder: Any = modules["encoder"]
        if world.is_main or encoder.aligned:  # the same spectra on every rank
            encoder.library = merge([collect_library(self.shards), encoder.library])
        setup.check_alignment(encoder)
        super().__init__(config, modules, optimizer, world, folder)
        self.begin(stack, resume)
        if self.done == 0:
            world.on_main(lambda: setup.whiten(config, self.shards, self.sampler, self.modules))
            world.broadcast_module(self.modules)
        if config.model.compile:
            self.encoder.compile_parts()
        self.step_function = PretrainStep(self.modules, config, world)
        self.monitor: OnlineKnn | None = None
        if world.is_main and config.monitor.every:
            watched = ShardSet(list(config.monitor.shards)) if config.monitor.shards else self.shards
            self.monitor = OnlineKnn(watched, config.monitor, config.seed)
        self.batches = self.loader.iterate(self.done, config.steps)
        self.watch(stack, resume)

    @property
    def encoder(self) -> Any:
        """The encoder in training."""
        return self.modules["encoder"]

    def next_batch(self) -> Batch:
        _, batch = next(self.batches)
        return batch

    def compute(self, number: int, batch: Batch) -> Any:
        return self.step_function(number - 1, batch)

    def batch_size(self) -> int:
        return self.config.data.global_batch

    def columns(self, number: int, result: Any, bad: bool) -> dict[str, Any]:
        row: dict[str, Any] = {
            "view_strength": self.step_function.strength(number - 1),
            "data_wait_s": self.loader.data_wait,
        }
        if number % self.config.monitor.features_every == 0 or number == self.config.steps:
            pooled, z1, z2 = (self.world.gather_rows(x.float()) for x in (result.pooled_BD, result.z1_BE, result.z2_BE))
            row |= embedding_metrics(pooled, z1, z2) if self.world.is_main and not bad else {}
        return row

    def observe(self, number: int, last: bool) -> dict[str, Any]:
        every = self.config.monitor.every
        if self.monitor is None or not (last or (every and number % every == 0)):
            return {}
        return self.monitor(self.encoder)

    def restore(self, checkpoint: Path) -> int:
        return setup.restore(
            checkpoint, self.config, self.shards, self.sampler, self.modules, self.optimizer, self.guard
        )

    def save(self, number: int) -> bool:
        state = setup.training_state(self.config, self.shards, self.sampler, self.guard, self.world.size)
        state |= {key: value for key in ("knn", "loss") if math.isfinite(value := self.last_row.get(key, math.nan))}
        state["score"] = state.get("knn")
        card = setup.release_card(self.config, self.shards, number, self.encoder.card)
        saved = self.checkpointer.save(
            number,
            lambda folder: setup.write_model(self.modules, folder, card),
            setup.training_tensors(self.modules, self.optimizer),
            state,
        )
        return saved is not None

    def release(self) -> None:
        """``out/model``: the final encoder; an older one (of fewer steps) is kept beside it."""
        from pretrain.summary import plot_losses
        from specfm.checkpoint import load
        from specfm.files import keep_aside

        if self.folder.model.exists():
            steps = load(self.folder.model).card.get("steps")
            if steps == self.done:
                return
            keep_aside(self.folder.model, f"model.until-step-{steps}")
        card = setup.release_card(self.config, self.shards, self.done, self.encoder.card)
        setup.write_model(self.modules, self.folder.model, card)
        plot_losses(self.folder.path)

    def describe(self, batch: Batch, result: Any) -> dict[str, Any]:
        return {"sample_id": batch.cat("sample_id_B").tolist()}

    def memory_advice(self, number: int, batch: Batch) -> str:
        """Nothing is shrunk in silence."""
        config = self.config
        limit = min(config.optim.micro_batch or len(batch), len(batch))
        high, wide, bands = max((part.x_BHWC.shape[1:] for part in batch), key=lambda shape: shape[2])
        side = config.model.patch_size
        tokens = -(-high // side) * -(-wide // side)
        return (
            f"out of memory on rank {self.world.rank} at step {number}: micro-batch {limit}, up to {bands} bands, "
            f"about {tokens} tokens a window and view; set optim.micro_batch={max(1, limit // 2)} (the result stays) "
            "or model.grad_checkpointing=true"
        )
