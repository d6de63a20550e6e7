"""Pretraining as a task: load, view, encode, compare; the rest is as in any run (specfm/engine/loop.py)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrain import setup
from pretrain.config import PretrainConfig
from pretrain.curriculum import BatchCurriculum
from pretrain.loader import Loader
from pretrain.monitor import Monitor
from pretrain.objectives.collapse import feature_figures
from pretrain.objectives.collect import all_gather
from pretrain.pairs.pairing import PairedSampler, Pairs, joined
from pretrain.release.card import model_release, release_card
from pretrain.release.library import collect_library
from pretrain.state import restore, training_state, training_tensors
from pretrain.stems import share_stems
from pretrain.step import PretrainStep, StepResult
from pretrain.views.plain import pooled
from pretrain.windows import refuse_windows
from specfm.engine import distributed, faults
from specfm.engine.checkpointing import read_tensors
from specfm.engine.distributed import World
from specfm.engine.ema import follow, released, warmed_up
from specfm.engine.guard import Watchdog
from specfm.engine.loop import run_task
from specfm.engine.run_folder import RunFolder
from specfm.engine.sync.choose import choose_sync
from specfm.engine.task import Snapshot, Task
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
        with Watchdog(config.guard.stall_s, folder.stacks) as watchdog:
            task = Pretraining(config, world, folder, watchdog.stage)
            sync = choose_sync(config.parallel, config.sync, world, task.modules, task.optimizer, config.seed)
            run_task(task, resume, sync=sync, watchdog=watchdog)
        return folder.path


class Pretraining(Task):
    """One pretraining on one rank. What can be refused is refused here, before the folder is touched.

    Args:
        config: the run.
        world: this process among all.
        folder: where the run is kept.
        tell: is given the name of each stage of the start as it begins.
    """

    title = "pretrain"
    config: PretrainConfig
    folder: RunFolder

    def __init__(
        self, config: PretrainConfig, world: World, folder: RunFolder, tell: Callable[[str], None] = lambda stage: None
    ) -> None:
        self._tell = tell
        tell("opening of shards")
        faults.hit("start.open")
        config = setup.settled(config)
        self.config, self.world, self.folder, self.batch_size = config, world, folder, config.data.global_batch
        self.shards = setup.open_shards(config)
        self.shards.verify_once(self._checks)
        tell("making of the model")
        self.sampler = setup.make_sampler(config, self.shards)
        self.pairing = setup.make_pairing(config, self.shards, world, folder.path)
        self.paired = PairedSampler(self.sampler, self.pairing)
        self.simulated = setup.make_simulated(config, self.shards, world)
        for doubt in setup.doubts(config, self.shards, self.sampler) if world.is_main else ():
            log.warning("%s", doubt)
        self.loader = Loader(
            self.shards,
            self.paired,
            world.rank,
            world.size,
            threads=config.data.threads,
            prefetch=config.data.prefetch,
            device=world.device,
        )
        self.modules, self.objectives = setup.make_modules(config, self.shards)
        refuse_windows(config, self.shards, self.objectives, self.encoder)
        self.modules.to(world.device)
        world.broadcast_module(self.modules)
        self.optimizer = setup.make_optimizer(config, self.modules, world.device)
        if config.model.backbone is None and (world.is_main or self.encoder.aligned):  # the same spectra on every rank
            self.encoder.library = merge([collect_library(self.shards), self.encoder.library])
        setup.check_alignment(self.encoder)
        self.released.library = self.encoder.library
        self.route = setup.make_router(config, self.shards, self.encoder)
        for objective in self.objectives.values():
            objective.start(self.encoder, self.shards)
        self.step = PretrainStep(self.encoder, self.objectives, config, world)
        self.curriculum = None
        if config.curriculum is not None:
            patch = self.encoder.patch_size
            self.curriculum = BatchCurriculum(config.curriculum, config.steps, config.seed, patch)
        self.monitor: Monitor | None = None
        if world.is_main and config.monitor.every:
            other = config.monitor.shards
            watched = ShardSet(list(other), bands=setup.read_bands(config)) if other else self.shards
            self.monitor = Monitor(watched, config.monitor, config.seed, None if other else self.route)

    def _checks(self, path: str) -> None:
        self._tell(f"check of {path}")
        faults.hit("start.check")

    @property
    def encoder(self) -> Any:
        """The encoder in training."""
        return self.modules["encoder"]

    @property
    def released(self) -> Any:
        """What is watched and released: the encoder, or its average."""
        return self.modules[released(self.modules)]

    def start(self, done: int) -> None:
        """A new run fits its encoder's normalisation and whitens its stem, of which copies are then made, and plans its
        curriculum; any run pairs its samples."""
        if done == 0:
            data = (self.config, self.shards, self.sampler, self.modules)
            self._tell("whitening")
            faults.hit("start.whiten")
            setup.make_room(self.config, self.shards, self.modules)
            self.world.on_main(lambda: setup.normalise(*data))
            self.world.on_main(lambda: setup.whiten(*data))
            self.world.broadcast_module(self.modules)
            share_stems(self.modules)
            if self.config.ema is not None:
                follow(self.released, self.encoder, 0.0)
            for objective in self.objectives.values():
                objective.initialise(self.encoder)
            if self.monitor is not None:
                self.monitor.start(self.released, "untrained" if self.config.init_from is None else "init_from")
        if self.pairing is not None:
            self._tell("pairing of samples")
            self.pairing.start()
        if self.config.model.compile:
            self.encoder.compile_parts()
        if done == 0 and self.curriculum is not None:
            self.curriculum.begin(self, next(self._stored(0)))

    def batches(self, done: int) -> Iterator[Pairs]:
        pairs = self._stored(done)
        return pairs if self.curriculum is None else self.curriculum.batches(pairs, done)

    def _stored(self, done: int) -> Iterator[Pairs]:
        read = (self.paired.pair(self.route(batch)) for _, batch in self.loader.iterate(done, self.config.steps))
        if self.simulated is None:
            return read
        return map(joined, read, self.simulated.iterate(done, self.config.steps))

    def compute(self, number: int, batch: Pairs) -> StepResult:
        result = self.step(number - 1, batch)
        if result.pooled_BD is None and self._watches(number):  # no objective asked for the features of whole views
            limit = self.config.optim.micro_batch
            result = replace(result, pooled_BD=pooled(self.encoder, batch.first, limit))
        return result

    def _watches(self, number: int) -> bool:
        """Whether figures of collapse are due."""
        return number % self.config.monitor.features_every == 0 or number == self.config.steps

    def updated(self, number: int) -> None:
        for objective in self.objectives.values():
            objective.after_step(self.encoder, number - 1)
        if (ema := self.config.ema) is not None:
            follow(self.released, self.encoder, warmed_up(ema.decay, number) if ema.warmup else ema.decay)

    def columns(self, number: int, result: StepResult, bad: bool) -> dict[str, Any]:
        row: dict[str, Any] = {
            "view_strength": self.step.strength(number - 1),
            "data_wait_s": self.loader.data_wait + (self.simulated.data_wait if self.simulated else 0.0),
            **({} if self.curriculum is None else self.curriculum.columns(number)),
        }
        if self._watches(number):
            pooled_BD = None if result.pooled_BD is None else all_gather(result.pooled_BD.float())
            rows = {name: {key: all_gather(x) for key, x in each.items()} for name, each in result.rows.items()}
            if self.world.is_main and not bad:
                row |= {} if pooled_BD is None else feature_figures(pooled_BD)
                for name, each in rows.items():
                    row |= self.objectives[name].watch(each)
        return row

    def evaluates(self, number: int) -> bool:
        every = self.config.monitor.every
        return every > 0 and number % every == 0

    def observe(self, number: int, last: bool) -> dict[str, Any]:
        if self.monitor is None or not (last or self.evaluates(number)):
            return {}
        return self.monitor(self.released)

    def snapshot(self, number: int, row: dict[str, Any]) -> Snapshot:
        facts = training_state(self.config, self.shards, self._draws(), self.world.size)
        facts |= {} if self.curriculum is None else self.curriculum.state()
        facts |= {key: value for key in ("knn", "loss") if math.isfinite(value := row.get(key, math.nan))}
        facts["score"] = facts.get("knn")
        facts["monitor_before"] = {} if self.monitor is None else self.monitor.before
        card = release_card(self.config, self.shards, number, self.encoder.card)
        tensors = training_tensors(self.modules, self.optimizer)
        return Snapshot(model_release(self.modules, card).publish, tensors, facts)

    def restore(self, checkpoint: Path, state: dict[str, Any]) -> None:
        if self.curriculum is not None:
            self.curriculum.restore(state, read_tensors(checkpoint), int(state["step"]))
        restore(checkpoint, state, self.config, self.shards, self._draws(), self.modules, self.optimizer)
        if self.monitor is not None:
            self.monitor.before = dict(state.get("monitor_before") or {})

    def _draws(self) -> dict[str, Any]:
        """What decides which samples a step holds."""
        simulated = {} if self.simulated is None else {"simulated": self.simulated.source.digest}
        return self.paired.state() | simulated

    def release(self, done: int) -> None:
        """``out/model``: the final encoder; an older one (of fewer steps) is kept beside it."""
        self.world.on_main(lambda: self._publish(done))

    def _publish(self, done: int) -> None:
        from pretrain.summary import plot_losses, watched_scores
        from specfm.checkpoint import load
        from specfm.files import keep_aside

        if self.folder.model.exists():
            steps = load(self.folder.model).card.get("steps")
            if steps == done:
                return
            keep_aside(self.folder.model, f"model.until-step-{steps}")
        card = release_card(self.config, self.shards, done, self.encoder.card)
        card |= {"scores": scores} if (scores := watched_scores(self.folder.path)) else {}
        model_release(self.modules, card, whole=False).publish(self.folder.model)
        plot_losses(self.folder.path)

    def describe(self, batch: Pairs, result: Any) -> dict[str, Any]:
        return {"sample_id": batch.first.cat("sample_id_B").tolist()}

    def memory_advice(self, number: int, batch: Pairs) -> str:
        """Nothing is shrunk in silence."""
        config = self.config
        limit = min(config.optim.micro_batch or len(batch), len(batch))
        high, wide, bands = max((part.x_BHWC.shape[1:] for part in batch.first), key=lambda shape: shape[2])
        side = self.encoder.patch_size
        tokens = -(-high // side) * -(-wide // side)
        return (
            f"out of memory on rank {self.world.rank} at step {number}: micro-batch {limit}, up to {bands} bands, "
            f"about {tokens} tokens a window and view; set optim.micro_batch={max(1, limit // 2)} (the result stays) "
            "or model.grad_checkpointing=true"
        )
