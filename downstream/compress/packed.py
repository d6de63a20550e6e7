"""Sparse storage: tensors with many zeros as a bit for each value and the values that are not zero.

A file of safetensors, which anything can read: ``NAME.bits`` (packed, most significant bit first), ``NAME.values`` and
``NAME.shape``; tensors with few zeros stand as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from specfm.errors import SpecfmError

WORTH = 0.1  # share of zeros above which a bit a value pays
PARTS = ("bits", "values", "shape")


def pack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors to write; :func:`unpack` gives the same back, bit by bit (minus zero becomes zero)."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        there = flat != 0
        if flat.dtype not in (torch.float32, torch.float16, torch.bfloat16) or float(there.float().mean()) > 1 - WORTH:
            found[name] = tensor.detach().cpu().contiguous()
            continue
        found[f"{name}.bits"] = torch.from_numpy(np.packbits(there.numpy()))
        found[f"{name}.values"] = flat[there]
        found[f"{name}.shape"] = torch.tensor(tensor.shape, dtype=torch.int64)
    return found


def unpack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of :func:`pack`.

    Raises:
        SpecfmError: parts that do not fit each other.
    """
    packed = {name.removesuffix(".bits") for name in tensors if name.endswith(".bits")}
    found = {name: t for name, t in tensors.items() if name.rpartition(".")[0] not in packed}
    for name in packed:
        parts = [tensors.get(f"{name}.{part}") for part in PARTS]
        if any(part is None for part in parts):
            raise SpecfmError(f"{name}: a part of the packed tensor is missing; the file is damaged")
        bits, values, shape = (part for part in parts if part is not None)
        sides = shape.tolist()
        count = int(np.prod(sides, dtype=object)) if min(sides, default=1) >= 0 else -1
        if not 0 <= count <= 8 * len(bits) < count + 8:
            raise SpecfmError(f"{name}: {8 * len(bits)} bits do not fill a tensor of {sides}; the file is damaged")
        there = torch.from_numpy(np.unpackbits(bits.numpy())[:count].astype(bool))
        if int(there.sum()) != len(values):
            raise SpecfmError(f"{name}: {len(values)} values for {int(there.sum())} places; the file is damaged")
        flat = torch.zeros(count, dtype=values.dtype)
        flat[there] = values
        found[name] = flat.reshape(sides)
    return found


def write_packed(tensors: Mapping[str, Tensor], path: str | Path) -> int:
    """Write packed tensors as one file of safetensors; its bytes."""
    from safetensors.torch import save_file

    save_file(pack(tensors), path)
    return Path(path).stat().st_size
