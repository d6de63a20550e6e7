"""Importance of contiguous ranges of bands: what a probe loses on held-out samples when it does not see them.

Single bands say little: their neighbours, a nanometre away, stand in for them. So ranges of several widths are hidden.

Shapes: N samples, O ranges, D features, U resampling units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from downstream.explain.judge import Judge
from downstream.explain.ranges import BandRange
from downstream.protocols.options import ProtocolOptions
from downstream.splits.samples import Samples
from downstream.splits.split import Split

Rows = list[dict[str, Any]]


def occlusion_rows(
    name: str,
    clean_ND: NDArray[np.float32],
    hidden: Sequence[NDArray[np.float32]],
    ranges: Sequence[BandRange],
    samples: Samples,
    splits: Sequence[Split],
    options: ProtocolOptions,
    draws: int,
) -> Rows:
    """A row for each range: accuracy and margin lost on the test sides, with 95 % intervals.

    Args:
        name: of the features.
        clean_ND: features of whole samples, on which probes are fitted.
        hidden: features with each of the ranges occluded.
        ranges: of the bands that are occluded.
        samples: labelled samples.
        splits: the splits.
        options: of the probe: strengths to choose from, and how much each class counts.
        draws: of the bootstrap over resampling units (groups or blocks).
    """
    lost_ON2 = np.zeros((len(ranges), len(samples), 2))
    tested_N = np.zeros(len(samples))
    accuracy = []
    for split in splits:
        judge, test_I = Judge.fit(clean_ND, samples.y_N, split, options), split.test_I
        whole = judge.right_and_margin(clean_ND[test_I], samples.y_N[test_I])
        accuracy.append(whole[0].mean())
        for number, x_ND in enumerate(hidden):
            less = judge.right_and_margin(x_ND[test_I], samples.y_N[test_I])
            for which in (0, 1):
                lost_ON2[number, test_I, which] += whole[which] - less[which]
        tested_N[test_I] += 1
    low_O2, mean_O2, high_O2 = bootstrap_means(lost_ON2, tested_N, splits[0].unit_N, draws)
    return [
        {
            "features": name,
            "width_nm": each.width_nm,
            "low_nm": each.low_nm,
            "high_nm": each.high_nm,
            "bands": len(each.index_K),
            "accuracy": float(np.mean(accuracy)),
            **{
                f"{what}_lost{end}": float(values[number, which])
                for which, what in enumerate(("accuracy", "margin"))
                for end, values in (("", mean_O2), ("_low", low_O2), ("_high", high_O2))
            },
        }
        for number, each in enumerate(ranges)
    ]


def bootstrap_means(
    sum_ON2: NDArray[np.float64], count_N: NDArray[np.float64], unit_N: NDArray[np.int64], draws: int, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(low, mean, high) of the mean over counted samples: percentiles over units drawn with replacement.

    Args:
        sum_ON2: sums over the runs in which a sample was tested.
        count_N: how many these were.
        unit_N: group or block of each sample.
        draws: how many.
        seed: of the draws.
    """
    tested_N = count_N > 0
    units = np.unique(unit_N[tested_N])
    of_NU = (unit_N[tested_N][:, None] == units).astype(np.float64)
    sum_OU2 = np.einsum("onx,nu->oux", sum_ON2[:, tested_N], of_NU)
    count_U = count_N[tested_N] @ of_NU
    drawn_RU = np.random.default_rng([seed, 41]).multinomial(len(units), np.full(len(units), 1 / len(units)), draws)
    total_R = np.maximum(drawn_RU @ count_U, 1e-12)
    means_RO2 = np.einsum("ru,oux->rox", drawn_RU, sum_OU2) / total_R[:, None, None]
    low, high = np.percentile(means_RO2, (2.5, 97.5), axis=0)
    return low, sum_OU2.sum(1) / count_U.sum(), high
