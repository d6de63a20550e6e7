"""Ranges of activations from calibration inputs, for static integers.

Shapes: I bins of a histogram, T thresholds that are tried.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from specfm.errors import UsageError

Calibration = Literal["minmax", "percentile", "mse"]
BINS = 2048
PERCENTILE = 99.99  # of values that lie inside the range
LEVELS = 255  # of 8 bits
TRIED = 60  # shares of the whole range that are tried for the least error


class _Reader:
    """One batch for ONNX Runtime's calibration, which stacks what it reads at once: batches may differ in length."""

    def __init__(self, batch: Mapping[str, NDArray[Any]]) -> None:
        self._left = [dict(batch)]

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The batch, then None."""
        return self._left.pop() if self._left else None


def calibrated_ranges(
    source: Path, operations: Sequence[str], samples: Iterable[Mapping[str, NDArray[Any]]], how: Calibration
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Lowest and highest value of each activation that integers are to hold.

    Args:
        source: an ONNX file.
        operations: whose inputs and outputs are looked at.
        samples: inputs by name, a batch each.
        how: ``minmax`` (all that was seen), ``percentile`` (all but the outermost 0.01 %) or ``mse`` (the range whose
            rounding and cutting off together have the least squared error).

    Raises:
        UsageError: an unknown method, or no samples.
    """
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    if how not in get_args(Calibration):
        raise UsageError(f"calibration is {how!r}; choose one of {', '.join(get_args(Calibration))}")
    with tempfile.TemporaryDirectory() as folder, _quiet():
        calibrator: Any = create_calibrator(
            source, list(operations), str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.Percentile, extra_options={"num_bins": BINS, "symmetric": False},
        )  # fmt: skip
        for batch in samples:
            calibrator.collect_data(_Reader(batch))
        histograms = calibrator.collector.histogram_dict if calibrator.collector else {}
    if not histograms:
        raise UsageError("static integers need calibration inputs, and there are none; name a scene for them")
    return {name: one_range(found[0], found[1], found[2], found[3], how) for name, found in histograms.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Its sessions warn of masks with a default, and histograms are announced on stdout."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        onnxruntime.set_default_logger_severity(2)


def one_range(
    hist_I: NDArray[Any], edges: NDArray[Any], low: Any, high: Any, how: Calibration
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The range for values of a histogram.

    Args:
        hist_I: how many values lie in each bin.
        edges: of the bins, one more than these.
        low: the least value.
        high: the largest value.
        how: see :func:`calibrated_ranges`.
    """
    kind = np.asarray(edges).dtype
    low, high = float(low), float(high)
    if how == "percentile":
        outside = (1 - PERCENTILE / 100) / 2
        share_I = np.cumsum(hist_I) / max(hist_I.sum(), 1)
        low = max(low, float(edges[int(np.searchsorted(share_I, outside))]))
        high = min(high, float(edges[min(int(np.searchsorted(share_I, 1 - outside)) + 1, len(edges) - 1)]))
    elif how == "mse":
        low, high = _least_error(hist_I, edges, low, high)
    return np.array(low, kind), np.array(high, kind)


def _least_error(hist_I: NDArray[Any], edges: NDArray[Any], low: float, high: float) -> tuple[float, float]:
    """Of ranges that are shares of the whole, the one with the least squared error of rounding and cutting off."""
    value_I = (edges[:-1] + edges[1:]) / 2
    best, found = np.inf, (low, high)
    for share in np.linspace(1, 1 / TRIED, TRIED):
        bottom, top = min(low * share, 0.0), max(high * share, 0.0)  # zero is always among the levels
        step = (top - bottom) / LEVELS
        if step <= 0:
            continue
        rounded_I = np.clip(np.round((value_I - bottom) / step), 0, LEVELS) * step + bottom
        error = float((hist_I * (value_I - rounded_I) ** 2).sum())
        if error < best:
            best, found = error, (bottom, top)
    return found
