"""How much of the test set the training set has already seen: printed beside every accuracy.

Shape suffixes: N samples, C bands, I sample ids.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from downstream.splits.ground import nearest_distance
from downstream.splits.samples import Samples
from downstream.splits.split import Split


@dataclass(frozen=True)
class Leakage:
    """Leakage of one split.

    Attributes:
        overlap_share: share of test windows that share a pixel with a training or validation window.
        min_distance_px: smallest distance (rows or columns, whichever is larger) of a test to a training pixel, or None
            where no two lie on the same ground grid.
        near_duplicate_share: share of test spectra within ``tolerance`` (relative) of a training spectrum, or None
            without spectra.
    """

    overlap_share: float
    min_distance_px: float | None
    near_duplicate_share: float | None

    def to_dict(self) -> dict[str, float | None]:
        """JSON-safe form."""
        return asdict(self)


def near_duplicates(train_MC: np.ndarray, test_NC: np.ndarray, tolerance: float = 1e-3, limit: int = 2000) -> float:
    """Share of test spectra whose relative distance to some training spectrum is below ``tolerance``.

    At most ``limit`` test spectra (evenly spaced ids) are looked at. The nearest eight candidates are found in float32
    and compared exactly.
    """
    from downstream.features.neighbours import nearest

    if not len(train_MC) or not len(test_NC):
        return 0.0
    some_N = np.unique(np.linspace(0, len(test_NC) - 1, min(limit, len(test_NC))).astype(np.int64))
    query_NC = test_NC[some_N].astype(np.float64)
    index_Nk, _ = nearest(train_MC, query_NC, min(8, len(train_MC)), metric="euclidean")
    norm_N = np.maximum(np.linalg.norm(query_NC, axis=1), 1e-12)
    close_N = np.zeros(len(query_NC), bool)
    for j in range(index_Nk.shape[1]):
        gap_N = np.linalg.norm(query_NC - train_MC[index_Nk[:, j]].astype(np.float64), axis=1)
        close_N |= gap_N / norm_N < tolerance
    return float(close_N.mean())


def leakage_score(split: Split, samples: Samples, spectra_NC: np.ndarray | None = None) -> Leakage:
    """Leakage of ``split``, measured on the final ids (not on what the rule promises)."""
    fit_I = split.fit_I
    distance_I = nearest_distance(samples, split.test_I, fit_I)
    finite = distance_I[np.isfinite(distance_I)]
    duplicates = None if spectra_NC is None else near_duplicates(spectra_NC[fit_I], spectra_NC[split.test_I])
    return Leakage(
        float((distance_I < samples.window).mean()) if len(distance_I) else 0.0,
        float(finite.min()) if len(finite) else None,
        duplicates,
    )
