"""From probabilities to classes, the same for a model and for the files it is exported to: no torch here.

Shapes: K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def decide(task: str, threshold: float | None, probabilities_K: NDArray[Any]) -> NDArray[np.int64]:
    """Class per pixel of ``[..., K]`` probabilities: the largest, or *changed* above the threshold; -1 invalid."""
    if task == "change":
        found = (probabilities_K[..., 1] > (0.5 if threshold is None else threshold)).astype(np.int64)
    else:
        found = probabilities_K.argmax(-1)
    return np.where(probabilities_K.sum(-1) > 0, found, -1)
