"""Whether all processes hold the same weights and optimiser state, bit by bit.

They start equal and step on the same gradients, so they stay equal, unless memory fails, a file was read differently on
one host, or a program error lets them part. Training goes on all the same, on the sum of gradients of different models,
and nothing in its losses need show it. So they are compared after a checkpoint has been taken up and before one is
saved: two sums per tensor, made where the tensor is, and one small gathering. Collective.

Shape suffixes: N tensors, R ranks, 2 sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from specfm.digests import digest_json
from specfm.engine import faults
from specfm.engine.distributed import World
from specfm.errors import SpecfmError

_CHUNK = 1 << 22  # elements at a time, so that the sums need little memory
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class ReplicasDifferError(SpecfmError):
    """The processes of a run hold different weights or optimiser state."""


def alike(modules: nn.Module) -> dict[str, Tensor]:
    """The state of modules that all processes have to hold alike, by name.

    Not the running statistics of BatchNorm: each process has those of its own samples, nothing is trained on them, and
    rank 0's are saved.
    """
    own = {
        f"{name}.{statistic}" if name else statistic
        for name, module in modules.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
        for statistic in ("running_mean", "running_var")
    }
    return {name: tensor for name, tensor in modules.state_dict().items() if name not in own}


def refuse_different(world: World, tensors: Mapping[str, Tensor], facts: Any, when: str) -> None:
    """Stop where the processes do not hold the same.

    Args:
        world: this process among all.
        tensors: what is to be the same, by name; a tensor that is missing on one rank counts as different.
        facts: JSON-safe, to be the same too.
        when: for the message ("at step 500").

    Raises:
        ReplicasDifferError: on every rank, with the ranks that differ and the first tensor that does.
    """
    if world.size == 1:
        return
    if faults.hit("replicas.compare"):
        next(iter(tensors.values())).detach().view(-1)[0] = torch.nan
    names = sorted(tensors)
    shape = {name: [str(tensors[name].dtype), *tensors[name].shape] for name in names}
    told = int(digest_json({"tensors": shape, "facts": facts})[:15], 16)
    # What may differ in length comes after what says whether it does.
    first_R2 = world.gather_rows(torch.tensor([[told, len(names)]], dtype=torch.int64, device=world.device))
    where = "the state beside the tensors"
    ranks = odd_ranks(first_R2)
    if not ranks:
        sums_N2 = torch.stack([tensor_digest(tensors[name]).to(world.device) for name in names])
        sums_RN2 = world.gather_rows(sums_N2[None])
        ranks = odd_ranks(sums_RN2.flatten(1))
        if ranks:
            where = names[int((sums_RN2[ranks[0]] != sums_RN2[_usual(sums_RN2.flatten(1))]).any(1).nonzero()[0])]
    if ranks:
        listed = ", ".join(map(str, ranks))
        other = "rank 0" if world.size == 2 else "the others"
        raise ReplicasDifferError(
            f"the weights or optimiser state of rank {listed} differ from those of {other} {when}, first in {where}; "
            "nothing was saved from them: look at that host's memory and storage, then go on from the last checkpoint "
            "with --resume"
        )


@torch.no_grad()
def tensor_digest(tensor: Tensor) -> Tensor:
    """Two sums ``[2]`` (int64, on the tensor's device) of its bits: as they are, and weighted by their place.

    Sums of integers wrap, so their order does not matter: the same bits give the same sums on any device. A flipped bit
    changes both, exchanged elements the second.
    """
    flat = tensor.detach().contiguous().reshape(-1)
    bits = flat.view(_INTEGERS[flat.element_size()]) if flat.dtype != torch.bool else flat
    sums = torch.zeros(2, dtype=torch.int64, device=flat.device)
    for start in range(0, len(bits), _CHUNK):
        part = bits[start : start + _CHUNK].long()
        place = torch.arange(start + 1, start + 1 + len(part), device=flat.device)
        # an odd multiplier of golden ratio bits: a weight of full width for every place
        sums += torch.stack([part.sum(), (part * (place * -7046029254386353131 | 1)).sum()])
    return sums


def odd_ranks(rows: Tensor) -> list[int]:
    """Ranks whose row differs from that of most; of two that differ, rank 1."""
    same = (rows == rows[_usual(rows)]).all(1)
    return [rank for rank, equal in enumerate(same.tolist()) if not equal]


def _usual(rows: Tensor) -> int:
    """The first rank whose row most share."""
    alike = (rows[:, None] == rows[None]).all(2).sum(1)
    return int(alike.argmax())
