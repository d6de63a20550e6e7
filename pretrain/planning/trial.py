"""A few steps of a pretraining that is not started, on batches of its shards: what they hold, compute and take.

Nothing that a run works out from its data before the first step is worked out here (pairs, whitened stems): a step
costs the same without. Several processes are not needed: one step of the share of one of them is taken, alone.

**Memory.** What autograd keeps for the backward pass is counted where it is kept: every tensor that is saved, once,
however many operations save it, without the parameters. So it is the same number on any machine, and that of a GPU can
be told without one. What is held only while an operation computes is not in it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pretrain import setup
from pretrain.config import PretrainConfig
from pretrain.loader import Loader
from pretrain.pairs.pairing import PairedSampler, Pairs, joined
from pretrain.stems import share_stems
from pretrain.step import PretrainStep, StepResult
from pretrain.windows import refuse_windows
from specfm.batch import Batch
from specfm.engine.distributed import World

LONGEST_S = 4.0  # of a step that is timed
TIMED = 3  # steps that are timed, after one that is not
READ = 4  # batches that reading is timed with
FEW = 4, 8  # samples of a sensor that memory is measured with


@dataclass(frozen=True)
class Cost:
    """A straight line: what is needed ``always``, such as for weights that are generated, and for ``each`` sample."""

    always: float
    each: float

    @classmethod
    def through(cls, few: int, at_few: float, more: int, at_more: float) -> Cost:
        """From what two numbers of samples cost; of one number, all is for the samples."""
        each = max((at_more - at_few) / (more - few), 0.0) if more > few else at_few / few
        return cls(max(at_few - each * few, 0.0), each)

    def of(self, samples: int) -> float:
        """So many at once."""
        return self.always + self.each * samples


@dataclass(frozen=True)
class Part:
    """The samples of one shard in a step, on one process.

    Attributes:
        domain: of it.
        samples: of a step, on one process.
        bands: of its sensor.
        pixels: of a view.
        tokens: of a view.
        stored_bytes: of a window.
    """

    domain: str
    samples: int
    bands: int
    pixels: int
    tokens: int
    stored_bytes: int


class Trial:
    """Takes steps of one process of ``processes``.

    Args:
        config: the run, settled.
        processes: it will have.
        device: where steps are taken.

    Raises:
        UsageError: the configuration does not fit the data or the number of processes.
    """

    def __init__(self, config: PretrainConfig, processes: int, device: torch.device) -> None:
        self.config, self.device = config, device
        self.shards = setup.open_shards(config)
        self.sampler = setup.make_sampler(config, self.shards)
        one_of = World(0, processes, device)
        self.simulated = setup.make_simulated(config, self.shards, one_of)
        self._paired = PairedSampler(self.sampler, None)
        # nothing is read ahead, so that reading and computing are timed apart
        self.loader = Loader(self.shards, self._paired, 0, processes, config.data.threads, 0, device)
        self.modules, self.objectives = setup.make_modules(config, self.shards)
        refuse_windows(config, self.shards, self.objectives, self.encoder)
        self.modules.to(device)
        self.optimizer = setup.make_optimizer(config, self.modules, device)
        setup.normalise(config, self.shards, self.sampler, self.modules)
        setup.make_room(config, self.shards, self.modules)
        share_stems(self.modules)
        self._route = setup.make_router(config, self.shards, self.encoder)
        for objective in self.objectives.values():
            objective.start(self.encoder, self.shards)
            objective.initialise(self.encoder)
        self.shards.verify_once()  # once on a machine, and no part of reading
        batches, waits = self._stored(), []
        for _ in range(READ):
            self.pairs = next(batches)
            waits.append(self.loader.data_wait)
        self.read_s = statistics.median(waits[1:])
        self._take(self._some(1))  # what is made at the first call is not counted

    @property
    def encoder(self) -> Any:
        """The encoder in training."""
        return self.modules["encoder"]

    def parts(self) -> list[Part]:
        """What a step consists of."""
        found, names, side = [], self.shards.domain_names, self.encoder.patch_size
        for part in self.pairs.first:
            high, wide, bands = part.x_BHWC.shape[1:]
            high, wide = (min(edge, self.config.views.crop or edge) for edge in (high, wide))
            tokens = -(-high // side) * -(-wide // side)
            domain, stored = int(part.domain_B[0]), part.x_BHWC[0].numel() * part.x_BHWC.element_size()
            name = names[domain] if 0 <= domain < len(names) else "simulated"
            found.append(Part(name, len(part), bands, high * wide, tokens, stored))
        return found

    def kept(self, precision: str, checkpointing: bool) -> list[Cost]:
        """Of each part, computed in this precision, with or without ``model.grad_checkpointing``."""
        found, first = [], 0
        self.encoder.set_grad_checkpointing(checkpointing)
        for part in self.pairs.first:
            count = len(part)
            few = sorted({min(n, count) for n in FEW})
            held = [self._kept(self.pairs.select(first, first + n), precision) for n in few]
            found.append(Cost.through(few[0], held[0], few[-1], held[-1]))
            first += count
        self.encoder.set_grad_checkpointing(self.config.model.grad_checkpointing)
        return found

    def rows_bytes(self) -> float:
        """Of what objectives couple of one sample with those of other processes."""
        some = self._some(2)
        rows = self._take(some).rows
        return sum(row.numel() * row.element_size() for each in rows.values() for row in each.values()) / len(some)

    def flops(self) -> Cost:
        """Floating-point operations of samples that are computed at once, forward and backward."""
        from torch.utils.flop_counter import FlopCounterMode

        def count(pairs: Pairs) -> float:
            with FlopCounterMode(display=False) as counter:
                self._take(pairs)
            return float(counter.get_total_flops())

        few, more = self._some(2), self._some(4)
        return Cost.through(len(few), count(few), len(more), count(more))

    def seconds(self) -> Cost:
        """Of samples that are computed at once; of as many as take a few seconds."""
        few = self._some(2)
        self._timed(few)
        at_few = self._median(few)
        share = len(self.pairs)
        most = min(self.config.optim.micro_batch or share, share, int(LONGEST_S / at_few * len(few)))
        more = self._share(most / share)
        if len(more) <= len(few):
            return Cost(0.0, at_few / len(few))
        self._timed(more)
        return Cost.through(len(few), at_few, len(more), self._median(more))

    def _median(self, pairs: Pairs) -> float:
        return statistics.median(self._timed(pairs) for _ in range(TIMED))

    def _stored(self) -> Iterator[Pairs]:
        steps = max(self.config.steps, READ)
        read = (self._paired.pair(self._route(batch)) for _, batch in self.loader.iterate(0, steps))
        return read if self.simulated is None else map(joined, read, self.simulated.iterate(0, steps))

    def _some(self, least: int) -> Pairs:
        """At least so many samples of each part, in the proportions of a step as far as that allows."""
        smallest = min(len(part) for part in self.pairs.first)
        return self._share(min(1.0, least / smallest), least)

    def _share(self, share: float, least: int = 1) -> Pairs:
        taken, first = [], 0
        for part in self.pairs.first:
            count = min(len(part), max(least, round(share * len(part))))
            taken.append(self.pairs.select(first, first + count))
            first += len(part)
        whole = Batch(tuple(part for one in taken for part in one.first))
        return Pairs.of(whole)

    def _take(self, pairs: Pairs, precision: str | None = None) -> StepResult:
        optim = self.config.optim
        optim = optim.model_copy(update={"micro_batch": None, "precision": precision or optim.precision})
        step = PretrainStep(
            self.encoder, self.objectives, self.config.model_copy(update={"optim": optim}), World(0, 1, self.device)
        )
        result = step(0, pairs)
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def _timed(self, pairs: Pairs) -> float:
        self._wait()
        began = time.perf_counter()
        self._take(pairs)
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _kept(self, pairs: Pairs, precision: str) -> float:
        with kept_bytes(self.modules) as count:
            self._take(pairs, precision)
        return float(sum(count.values()))


@contextmanager
def kept_bytes(modules: torch.nn.Module) -> Iterator[dict[int, int]]:
    """Bytes of each storage that autograd keeps meanwhile, by its address; without those of the parameters."""
    own = {each.untyped_storage().data_ptr() for each in [*modules.parameters(), *modules.buffers()]}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found
