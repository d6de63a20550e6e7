"""What one method did under one protocol over all runs: confusions, calibration, what the fits chose.

Shape suffixes: N samples, S runs (splits x initialisations), U resampling units, K classes, I confidence bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from downstream.results import metrics
from downstream.splits.samples import Samples
from downstream.splits.split import Split

Kind = Literal["encoder", "twin", "scratch", "peer", "baseline", "majority"]


def identity(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """(kind, method, protocol): what a row is of. Names alone do not tell: an encoder may be called as a control is."""
    return row["kind"], row["method"], row["protocol"]


@dataclass
class Runs:
    """What one method did under one protocol over all runs.

    Attributes:
        kind: what the method is: the encoder (frozen or fine-tuned), its untrained twins, its architecture trained from
            scratch on the labels, a published or other encoder beside it, a baseline without one, the majority class.
        method: name in the table, for people alone.
        protocol: what was done with it (``linear``, ``knn5``, ``scratch``, "-"); alarms, notices and tables go by it.
        support: of a baseline, what it looks at: "pixel" (the labelled one), "patch" (the mean about it), "window" (its
            mean); else "".
        conf_SUKK: confusion matrices by resampling unit, one entry a run.
        calibration_SUI3: calibration sums by resampling unit, for protocols that give probabilities.
        strengths: strength chosen in each run (C, or the ridge penalty).
        gammas: kernel width chosen in each run (SVM).
        splits: the split of each run.
        unconverged: probes that stopped before convergence.
        constant: features that hardly differ.
        pooling: where it is not that of the options.
        layers: likewise.
        wall_s: seconds spent.
    """

    kind: Kind
    method: str
    protocol: str
    conf_SUKK: list[np.ndarray] = field(default_factory=list)
    calibration_SUI3: list[np.ndarray] = field(default_factory=list)
    strengths: list[float] = field(default_factory=list)
    gammas: list[float] = field(default_factory=list)
    splits: list[Split] = field(default_factory=list)
    unconverged: int = 0
    constant: bool = False
    support: str = ""
    pooling: str | None = None
    layers: tuple[int, ...] | None = None
    wall_s: float = 0.0

    def record(
        self, samples: Samples, split: Split, predicted_N: np.ndarray, seconds: float = 0.0,
        confidence_N: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Add one run: what was predicted for the test side of ``split``."""
        units, unit_N = int(split.unit_N.max()) + 1, split.unit_N[split.test_I]
        true_N, classes = samples.y_N[split.test_I], len(samples.label_names)
        self.conf_SUKK.append(metrics.unit_confusions(true_N, predicted_N, unit_N, classes, units))
        if confidence_N is not None:
            right_N = true_N == predicted_N
            self.calibration_SUI3.append(metrics.calibration_sums(right_N, confidence_N, unit_N, units))
        self.splits.append(split)
        self.wall_s += seconds

    def add_fit(self, strength: float | None = None, gamma: float | None = None, converged: bool = True) -> None:
        """What the fit of the run that was recorded last chose."""
        if strength is not None:
            self.strengths.append(strength)
        if gamma is not None:
            self.gammas.append(gamma)
        self.unconverged += not converged

    def extend(self, other: Runs) -> None:
        """Add the runs of another initialisation."""
        for name in ("conf_SUKK", "calibration_SUI3", "strengths", "gammas", "splits"):
            getattr(self, name).extend(getattr(other, name))
        self.unconverged += other.unconverged
        self.wall_s += other.wall_s
