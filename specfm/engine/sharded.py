"""Parameters, gradients and optimiser moments of transformer blocks in parts, one a process (FSDP2, ``fully_shard``).

The third way beside those of :mod:`specfm.engine.sync`: all processes still step on the summed gradients, but of the
blocks, which are nearly all of a large model, each holds 1 / N (Zhao et al. 2023, arXiv 2304.11277; Rajbhandari et al.
2020, arXiv 1910.02054). A block is gathered before it is computed and, in the backward pass, its gradients are summed
and divided up. Whatever stands outside of blocks (embedding, stem, norms, heads) is small, is used in other ways than
by a call, and stays whole on every process, with its gradients summed as by :class:`AllReduce`.

**Scale.** Sums, not means, as everywhere here: a process back-propagates its rows' share of the whole-batch loss. Every
backward pass of a step (one a micro-batch, with cached gradients) adds its sum to the part.

**Same collectives everywhere.** Every process calls every block equally often in a step. That holds since the parts of
a batch divide evenly over processes (``data.divisor``) and a call takes all sensors at once, whichever a process has.

**Whole where it is read.** The blocks are in parts from one :meth:`Sharded.ready` until the next
:meth:`Sharded.settle` that is due (an evaluation, a checkpoint, the end). From then on to the next step everything is
whole on every process, as if nothing had ever been in parts: rank 0 evaluates alone, and checkpoints are those of any
other way, to be taken up by any number of processes and by any way. So weights have to fit the device whole, and
weights with moments the host: at the start, at evaluations and checkpoints, when there are no activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from specfm.engine import faults
from specfm.engine.distributed import World
from specfm.engine.groups import PeerLostError, collective
from specfm.engine.parts import is_part, whole
from specfm.engine.sync.all_reduce import AllReduce, zero_missing
from specfm.errors import UsageError

BLOCKS = "blocks"  # what transformers here and in timm call the list of them


@dataclass(frozen=True)
class _Place:
    """Where a block stands, and what it is made of, without its numbers."""

    blocks: nn.ModuleList
    index: int
    skeleton: nn.Module

    @property
    def block(self) -> Any:
        return self.blocks[self.index]


class Sharded(AllReduce):
    """Gradients summed over all processes; each keeps a part of the blocks, their gradients and their moments.

    Args:
        world: this process among all; more than one.
        modules: everything that is trained, with averages and teachers.
        optimizer: over their parameters.
        reshard: give a gathered block back after its forward pass, and gather it again for the backward pass. Else it
            stays until then, which needs memory for all of them and half as much traffic.

    Raises:
        UsageError: there are no blocks, or this torch cannot sum.
    """

    def __init__(
        self, world: World, modules: nn.ModuleDict, optimizer: torch.optim.Optimizer, reshard: bool = True
    ) -> None:
        from torch.distributed.fsdp import FSDPModule

        super().__init__(world)
        self.modules, self.optimizer, self.reshard = modules, optimizer, reshard
        self._places: list[_Place] = []
        if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
            raise UsageError(
                f"parallel.strategy=fsdp2 needs a later torch than {torch.__version__}; update torch, or set "
                "parallel.strategy=ddp"
            )
        if not any(True for _ in block_lists(modules)):
            raise UsageError(
                "parallel.strategy=fsdp2 divides the blocks of transformers, and this model has none; set "
                "parallel.strategy=ddp"
            )

    def ready(self) -> None:
        """Divide up what is whole; give back what the last step has left gathered, as it is of the old weights."""
        if not self._places:
            self._divide()
        for place in self._places:
            place.block.reshard()

    def coupled(self, number: int) -> AbstractContextManager[None]:
        """The samples of all processes meet; a block that cannot be gathered says so."""
        return _lost_peers()

    def gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum over all ranks what the backward pass has not summed."""
        trained = list(parameters)
        zero_missing([each for each in trained if is_part(each)])
        super().gradients([each for each in trained if not is_part(each)])

    def settle(self, number: int, due: bool) -> dict[int, bool]:
        """All know at once; where it is due, everything is whole."""
        if due or self.stopping:
            with collective():
                self._assemble()
        return super().settle(number, due)

    def _divide(self) -> None:
        from torch.distributed import group
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import Shard, distribute_tensor

        assert group.WORLD is not None
        mesh = DeviceMesh.from_group(group.WORLD, self.world.device.type)
        replaced: dict[Tensor, nn.Parameter] = {}
        for blocks in block_lists(self.modules):
            for index, block in enumerate(blocks):
                self._places.append(_Place(blocks, index, deepcopy(block).to("meta")))
                before = dict(block.named_parameters())
                # A part of what is not trained is never back-propagated through, which is when it would be given back.
                trained = any(each.requires_grad for each in before.values())
                divided = fully_shard(block, mesh=mesh, reshard_after_forward=self.reshard or not trained)
                divided.set_gradient_divide_factor(1.0)
                divided.set_force_sum_reduction_for_comms(True)
                replaced |= {before[name]: each for name, each in block.named_parameters()}

        def moments(value: Tensor) -> Tensor:
            # every process has the same whole, so nothing need be sent
            return distribute_tensor(value, mesh, [Shard(0)], src_data_rank=None)

        _retrain(self.optimizer, replaced, moments)

    def _assemble(self) -> None:
        replaced: dict[Tensor, nn.Parameter] = {}
        for place in self._places:
            faults.hit("parts.assemble")
            divided, block = place.block, deepcopy(place.skeleton)
            divided.reshard()
            for name, part in divided.named_parameters():
                replaced[part] = nn.Parameter(whole(part), part.requires_grad)
                _put(block, name, replaced[part])
            for name, buffer in divided.named_buffers():
                _put(block, name, buffer)
            block.train(divided.training)
            place.blocks[place.index] = block
        self._places = []
        _retrain(self.optimizer, replaced, lambda value: whole(value).cpu())


def block_lists(modules: nn.Module) -> Iterator[nn.ModuleList]:
    """The lists of transformer blocks in a model: those named ``blocks`` of several modules or one."""
    for name, module in modules.named_modules():
        if name.rpartition(".")[2] == BLOCKS and isinstance(module, nn.ModuleList):
            yield module


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, tensor)


def _retrain(
    optimizer: torch.optim.Optimizer, replaced: dict[Tensor, nn.Parameter], convert: Callable[[Tensor], Tensor]
) -> None:
    """Let an optimiser train other parameters in place of some, with their moments.

    Parts and whole parameters come into groups of their own, as torch computes those of a group at once.
    """
    groups = []
    for group in optimizer.param_groups:
        params = [replaced.get(each, each) for each in group["params"]]
        for kind in (True, False):
            if alike := [each for each in params if is_part(each) is kind]:
                groups.append({**group, "params": alike})
    optimizer.param_groups[:] = groups
    for before, after in replaced.items():
        if (state := optimizer.state.pop(before, None)) is not None:
            # a count of steps has no elements to divide
            optimizer.state[after] = {f: convert(v) if v.dim() else v for f, v in state.items()}


@contextmanager
def _lost_peers() -> Iterator[None]:
    """Tell a collective inside a module that failed from other errors: torch raises the former plainly on gloo."""
    try:
        yield
    except (PeerLostError, torch.OutOfMemoryError):
        raise
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower():
            with collective():
                raise
        raise
