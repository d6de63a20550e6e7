"""A graph written in the format asked for, then run from its file and compared with the model it was made of.

Shapes: B tiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from specfm.deploy.calibrate import Calibration
from specfm.deploy.facts import Facts
from specfm.deploy.free import free_axes
from specfm.deploy.graph import traced, write_onnx, write_pt2
from specfm.deploy.int8 import PRECISION, How, quantise
from specfm.deploy.runtime import Deployed
from specfm.errors import SpecfmError, UsageError
from specfm.files import publish_file, refuse_existing, temporary_sibling

MOST_OFF = 1e-3  # of the largest output: a float32 graph that differs by more than this is not the model
# A fitted stem amplifies noise, that of rounding too: what moves a model when the last bit of its input does, another
# order of sums may move by so many times as much.
SHAKEN, MOST_SHAKEN = 4.0, 1e-2


def write(
    module: nn.Module,
    example: Mapping[str, Tensor],
    outputs: Sequence[str],
    out: Path,
    facts: Facts,
    *,
    form: str,
    integers: How | None = None,
    samples: Iterable[Mapping[str, NDArray[Any]]] | None = None,
    calibration: Calibration = "minmax",
    overwrite: bool = False,
) -> float:
    """Write a module; the largest difference of any output to the module's, as a share of its largest value.

    Args:
        module: its ``forward`` takes ``*given``, the inputs in the order of the example.
        example: inputs by name, of which batch and bands stay free.
        outputs: their names.
        out: to be written.
        facts: to be written in it.
        form: onnx or pt2.
        integers: in place of weights (ONNX), see :mod:`specfm.deploy.int8`.
        samples: inputs that static integers are calibrated on.
        calibration: how.
        overwrite: replace ``out``.

    Raises:
        UsageError: ``out`` exists, integers of another format, or what :func:`specfm.deploy.int8.quantise` refuses.
        SpecfmError: a part of the module cannot be exported, or the graph answers otherwise than the module by more
            than rounding explains (nothing is then written, and what stood there stays).
    """
    if integers is not None and form != "onnx":
        raise UsageError(f"integers are for ONNX Runtime, not for {form}; leave --int8 out or choose --format onnx")
    refuse_existing(out, overwrite)
    program = traced(module, example, free_axes(example, torch.export.Dim("batch", min=1)))
    out.parent.mkdir(parents=True, exist_ok=True)
    # under hidden names until it has been looked at: what stood at ``out`` stays if the new one is not the model
    made, whole = (temporary_sibling(out).with_suffix(f".{form}") for _ in range(2))
    try:
        if form == "pt2":
            write_pt2(program, made, facts)
        elif integers is not None:
            write_onnx(program, list(example), outputs, whole, facts)
            quantise(whole, made, replace(facts, precision=PRECISION[integers]), integers, samples, calibration)
        else:
            write_onnx(program, list(example), outputs, made, facts)
        off = max(_off(made, form, module, given) for given in (example, _three(example)))
        if integers is None and not off <= MOST_OFF and not off <= _explained(module, example):
            raise SpecfmError(f"{out}: not written, since the exported graph differs from the model by {off:.1e}")
        publish_file(made, out, overwrite)
    finally:
        for each in (made, whole):
            each.unlink(missing_ok=True)
    return off


def _explained(module: nn.Module, example: Mapping[str, Tensor]) -> float:
    """Up to where rounding explains a difference; of a model that anything moves it explains nothing."""
    return min(SHAKEN * _shaken(module, example), MOST_SHAKEN)


def _shaken(module: nn.Module, example: Mapping[str, Tensor]) -> float:
    """By how much the module answers otherwise when the last bit of its floating inputs changes."""
    sign = torch.Generator().manual_seed(0)

    def other(given: Tensor) -> Tensor:
        if not given.is_floating_point():
            return given
        up = torch.rand(given.shape, generator=sign) < 0.5
        return torch.nextafter(given, torch.where(up, torch.inf, -torch.inf).to(given))

    with torch.no_grad():
        wanted = module(*example.values())
        found = module(*(other(given) for given in example.values()))
    return max(difference(a.numpy(), b.numpy()) for a, b in zip(found, wanted, strict=True))


def _three(example: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Another number of tiles."""
    tiles = [name for name, axes in free_axes(example, "batch").items() if axes[0] == "batch"]
    return {name: torch.cat([given, given[:1]]) if name in tiles else given for name, given in example.items()}


def _off(out: Path, form: str, module: nn.Module, example: Mapping[str, Tensor]) -> float:
    with torch.no_grad():
        wanted = [each.numpy() for each in module(*example.values())]
        if form == "pt2":
            found = [each.numpy() for each in torch.export.load(out).module()(*example.values())]
        else:
            found = list(Deployed(out, threads=1)({name: given.numpy() for name, given in example.items()}).values())
    return max(difference(*pair) for pair in zip(found, wanted, strict=True))


def difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Largest absolute difference over the largest absolute value wanted; of masks, 1 where any differs."""
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    return float(np.abs(found - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))
