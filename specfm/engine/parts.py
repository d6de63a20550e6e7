"""Tensors of which each process holds a part (:mod:`specfm.engine.sharded`), among those that each holds whole.

The parts are torch's DTensors, told by what they can do, so that who trains without them need not load that package.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def is_part(tensor: Tensor) -> bool:
    """Whether other processes hold the rest of a tensor."""
    return hasattr(tensor, "full_tensor")


@torch.no_grad()
def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory."""
    part: Any = tensor
    return part.to_local() if is_part(tensor) else tensor


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every process. Collective where it is a part."""
    part: Any = tensor
    return part.full_tensor() if is_part(tensor) else tensor


@torch.no_grad()
def global_norm(tensors: Iterable[Tensor]) -> Tensor:
    """The 2-norm of all elements, 0-d; of parts those of all processes. Collective where there is a part."""
    held = list(tensors)
    kinds = [[each for each in held if not is_part(each)], [each for each in held if is_part(each)]]
    norms = [whole(torch.nn.utils.get_total_norm(each)) for each in kinds if each]
    return norms[0] if len(norms) == 1 else torch.nn.utils.get_total_norm(norms)
