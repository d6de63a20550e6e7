"""DS-Sync and local SGD: every process makes its own update, then weights are averaged in the group of the step.

No gradient is sent. Divide-and-Shuffle Synchronisation (arXiv 2007.03298): a group averages after every step, and the
groups change so that what one worker learns reaches all. Local SGD (arXiv 1805.09767): all average, every few steps.
A gradient hook over changing groups would be neither: its replicas part for good.

**Scale.** A process back-propagates its rows' share of the mean over the whole batch, which is 1 / N of the mean over
its own; the gradient is multiplied by N here. So where all start equal, step by plain SGD (without clipping) and
average as one group, the update is that of the summed gradients.

**What travels.** Trained parameters and the running statistics of BatchNorm, in flat buckets that are sent after the
update and taken in before the next forward pass: reading the next batch goes on meanwhile. A process that leaves out a
bad update brings the weights that it has. Optimiser moments stay where they are.

**Where all must be equal** (evaluation, checkpoint, end): all average everything that differs, averages of weights
(``ema``, teachers) too. These are linear in the weights, so they need not travel before.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor, nn

from specfm.engine import groups
from specfm.engine.distributed import World
from specfm.engine.groups import Group, NodesGroup, Pending
from specfm.engine.replicas import tensor_digest
from specfm.engine.sync.all_reduce import zero_missing
from specfm.engine.sync.buckets import Bucket, cut
from specfm.engine.sync.flags import Flags
from specfm.engine.sync.layouts import Layout

Negatives = Literal["group", "world"]


class Averaging:
    """Weights averaged in groups of workers; a worker is one process, or all those of a node.

    Args:
        world: this process among all.
        modules: everything that is trained; looked through anew each time, so parameters may be replaced.
        layout: the groups, of workers.
        negatives: whose samples meet in a loss that couples samples: those of the ``group`` that averages after the
            step (with local SGD: this process's own), or of the whole ``world``, which then meets in every step.
        ranks_per_node: processes that are one worker; they have successive ranks.
    """

    equal = False

    def __init__(
        self, world: World, modules: nn.Module, layout: Layout, negatives: Negatives = "group", ranks_per_node: int = 1
    ) -> None:
        self.world, self.modules, self.layout, self.negatives = world, modules, layout, negatives
        self.flags = Flags(layout.spread)
        self._coming: list[Bucket] = []
        self._told: tuple[int, Tensor, Pending] | None = None
        # made now, while all are there, and under the timeout of the start
        self._node, self._place = divmod(world.rank, ranks_per_node)
        node = range(self._node * ranks_per_node, (self._node + 1) * ranks_per_node)
        inside = world.make_group(node)
        self._groups = [self._make_group(number, inside) for number in range(layout.cycle)]

    @property
    def stopping(self) -> bool:
        """All know that one has received a stop signal."""
        return self.flags.stopping

    def group(self, number: int) -> Group:
        """The processes that average with this one after step ``number``."""
        return self._groups[number % self.layout.cycle]

    def _make_group(self, number: int, inside: Group) -> Group:
        size = inside.size
        nodes = next(group for group in self.layout.groups(number) if self._node in group)
        group = self.world.make_group([node * size + place for node in nodes for place in range(size)])
        if size == 1:
            return group
        across = self.world.make_group([node * size + self._place for node in nodes])
        return NodesGroup(group.ranks, group.handle, inside=inside, across=across)

    def ready(self) -> None:
        """Take in the averages that are on their way."""
        for bucket in self._coming:
            bucket.receive(mean=True)
        self._coming = []
        if self._told is not None:
            number, told_2L, pending = self._told
            pending.wait()
            self.flags.hear(number, told_2L)
            self._told = None

    def coupled(self, number: int) -> AbstractContextManager[None]:
        """See ``negatives``."""
        if self.negatives == "world":
            return groups.coupling(self.world.everyone)
        return groups.coupling(self.group(number) if self.layout.couples else Group((self.world.rank,)))

    def gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Those of the mean over this process's own samples; nothing is sent."""
        gradients = zero_missing(parameters)
        if gradients:
            torch._foreach_mul_(gradients, self.world.size)

    def agree(self, number: int, numbers: Tensor, stop: bool) -> list[float]:
        """The numbers are this process's own; a bad step or a signal is told on with the weights."""
        own: list[float] = numbers.tolist()
        self.flags.note(number, own[0] > 0, stop)
        return own

    def updated(self, number: int) -> None:
        """Send the weights, and what was heard of bad steps and signals, to the group of the step."""
        group = self.group(number)
        if group.size > 1:
            self._coming = [Bucket(part, group) for part in cut(moving(self.modules))]
            told_2L = self.flags.told(number, self.world.device)
            self._told = number, told_2L, group.begin_max(told_2L)

    def settle(self, number: int, due: bool) -> dict[int, bool]:
        """See :class:`specfm.engine.sync.all_reduce.Sync`; a stop signal that all know of makes it due."""
        known = self.flags.settle(self.layout.known(number - 1))  # what was sent after this step is on its way
        if not (due or self.stopping):
            return known
        self.ready()
        told_2L = self.flags.told(number, self.world.device)
        self.world.everyone.begin_max(told_2L).wait()
        self.flags.hear(number, told_2L)
        self._meet()
        return known | self.flags.settle(number)

    @torch.no_grad()
    def _meet(self) -> None:
        """All processes hold the mean of whatever they held apart; what was equal stays as it is, bit by bit."""
        held = self.modules.state_dict()
        names = sorted(held)
        sums_N2 = torch.stack([tensor_digest(held[name]).to(self.world.device) for name in names])
        sums_RN2 = self.world.gather_rows(sums_N2[None])
        apart_N = (sums_RN2 != sums_RN2[0]).any(-1).any(0).tolist()
        differing = [held[name] for name, apart in zip(names, apart_N, strict=True) if apart]
        for part in cut([tensor for tensor in differing if tensor.is_floating_point()]):
            Bucket(part, self.world.everyone).receive(mean=True)
        for tensor in differing:
            if not tensor.is_floating_point():  # counts have no mean; rank 0's stand
                sent = tensor.long() if self.world.is_main else torch.zeros_like(tensor, dtype=torch.int64)
                tensor.copy_(self.world.sum(sent))


def moving(modules: nn.Module) -> list[Tensor]:
    """What changes from step to step by itself: trained parameters, and BatchNorm's running statistics."""
    found = [parameter.detach() for parameter in modules.parameters() if parameter.requires_grad]
    for module in modules.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            found += [each for each in (module.running_mean, module.running_var) if each is not None]
    return found
