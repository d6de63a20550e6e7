"""What a deployed file costs: numbers in it, bytes, multiplications, seconds and memory, in ONNX Runtime on the CPU.

Shapes: B windows.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from specfm.deploy.runtime import Deployed
from specfm.errors import SpecfmError

WARM_UP = 3  # calls before any is timed
LEAST_S = 0.02  # a measurement is of as many calls as take so long


def numbers_in(path: str | Path) -> int:
    """How many weights the graph of a file holds, constants that follow from the bands included."""
    import onnx

    model = onnx.load(str(path))
    return sum(int(np.prod(each.dims)) for each in model.graph.initializer)


def multiplications(graph: nn.Module, example: Mapping[str, Tensor]) -> int:
    """Multiply-accumulate operations for one window: matrix products, convolutions and attention of a graph."""
    from torch.utils.flop_counter import FlopCounterMode

    one = [value[:1] if "_B" in name else value for name, value in example.items()]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        graph(*one)
    return int(counter.get_total_flops() // 2)


def _call_s(deployed: Deployed, given: Mapping[str, NDArray[Any]]) -> float:
    """Seconds of a call, the mean of as many as take :data:`LEAST_S`."""
    began, calls = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < LEAST_S or not calls:
        deployed(given)
        calls += 1
    return spent / calls


def latencies(
    files: Sequence[Path], inputs: Sequence[Mapping[str, NDArray[Any]]], *, threads: int, rounds: int = 15
) -> list[float]:
    """Median seconds of a call of each file; every round calls all of them in turn, so that none has the quiet moments.

    Args:
        files: exported models.
        inputs: of each.
        threads: of the runtime.
        rounds: measurements of each.
    """
    loaded = [Deployed(path, threads) for path in files]
    for deployed, given in zip(loaded, inputs, strict=True):
        for _ in range(WARM_UP):
            deployed(given)
    spent = [[_call_s(*pair) for pair in zip(loaded, inputs, strict=True)] for _ in range(rounds)]
    return [float(np.median(each)) for each in zip(*spent, strict=True)]


def peak_memory(path: str | Path, batch: int) -> int:
    """Bytes by which loading a file and running it on so many windows raises the memory of a process of its own.

    Raises:
        SpecfmError: that process failed.
    """
    command = [sys.executable, "-m", "downstream.compress.peak", str(path), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SpecfmError(f"{path}: cannot be run in a process of its own ({done.stderr.strip().splitlines()[-1:]})")
    return int(done.stdout)
