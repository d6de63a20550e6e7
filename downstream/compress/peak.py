"""``python -m downstream.compress.peak FILE BATCH``: bytes by which loading and running a file raises the memory.

A process of its own, without torch: what is measured is the runtime and the model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from specfm.deploy.runtime import Deployed

STATUS = Path("/proc/self/status")
CALLS = 3


def peak_bytes() -> int:
    """The largest memory that this process has had."""
    if STATUS.exists():  # what getrusage says begins with the process that started this one
        lines = STATUS.read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measured(path: str, batch: int) -> int:
    """Load a file, run it on so many windows; what that took."""
    import onnxruntime  # noqa: F401  # the runtime itself is there before

    before = peak_bytes()
    deployed = Deployed(path, threads=1)
    sensor, side = deployed.facts.sensors[0], deployed.facts.tile
    x_BHWC = np.full((batch, side, side, len(sensor.bands)), 0.5 / sensor.scale, np.float32)
    for _ in range(CALLS):
        deployed({"x_BHWC": x_BHWC})
    return peak_bytes() - before


if __name__ == "__main__":
    print(measured(sys.argv[1], int(sys.argv[2])))
