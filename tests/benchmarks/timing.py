"""Timing side by side: every candidate runs in turn, round after round, so that a busy machine slows all alike."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def interleaved(
    candidates: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 2, clock: str = "wall"
) -> dict[str, float]:
    """Median seconds of each candidate over ``repeats`` rounds; the order turns by one place each round.

    Each is run once untimed before it is timed, which takes back the caches and cores from the candidate before it.

    ``clock="cpu"`` counts this process's processor time instead, for machines that others use meanwhile (then use one
    thread: waiting threads spin).
    """
    now = CLOCKS[clock]
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if turn >= warmup:
                candidates[name]()
            start = now()
            candidates[name]()
            if turn >= warmup:
                seconds[name].append(now() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2),
    }


def parser(default: str, description: str | None) -> argparse.ArgumentParser:
    """Arguments every benchmark has."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--json", type=Path, default=Path("runs/bench") / default, help="where the figures go")
    arguments.add_argument("--repeats", type=int, default=7, help="rounds; the median is reported")
    return arguments


def write(path: Path, figures: dict[str, Any]) -> None:
    """Write the figures as JSON (a benchmark's earlier figures are replaced)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"figures: {path}")
