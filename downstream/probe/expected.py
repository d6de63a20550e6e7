"""What a probe will cost, said before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from downstream.features.cost import seconds_a_window
from downstream.protocols.options import ProtocolOptions, TrainOptions
from downstream.splits.samples import Samples
from specfm.progress import expect, words_of

if TYPE_CHECKING:
    from specfm.scene import Scene

TRAINING = 3.0  # a step of training takes so many times the forward pass of its windows


def say_expected(
    encoder: Any, scenes: Sequence[Scene], samples: Samples, window: int, pooling: str, options: ProtocolOptions,
    twins: int = 0, views: int = 1, tables: int = 1, trained: int | None = None,
) -> None:  # fmt: skip
    """Say on stderr about how long features and trainings of a probe will take, where that is more than seconds.

    Args:
        encoder: whose features; it is timed on a few windows.
        scenes: of the samples.
        samples: labelled windows.
        window: their side, pixels.
        pooling: of the tokens.
        options: protocols, and how often trained ones are trained.
        twins: untrained encoders beside it.
        views: conditions under which all windows are seen.
        tables: how many sets of splits there are.
        trained: protocols that train it, where not all of the options do.
    """
    each = seconds_a_window(encoder, scenes, samples, window, pooling)
    encoders = (1 + twins) if options.frozen else 0
    features = each * len(samples) * encoders * views
    trainings = (len(options.trained) if trained is None else trained) * options.trained_seeds * tables
    training = trainings * seconds_of_training(each, options.train)
    parts = []
    if encoders:
        seen = f"{len(samples)} windows" + (f" under {views} conditions" if views > 1 else "")
        parts.append(f"features of {seen} by {encoders} encoder{'s' * (encoders > 1)} ({words_of(features)})")
    if trainings:
        parts.append(f"{trainings} trainings of up to {options.train.steps} steps ({words_of(training)})")
    expect(features + training, "; ".join(parts) + "; the fits of every split come on top, what is kept costs nothing")


def seconds_of_training(each: float, options: TrainOptions) -> float:
    """Seconds that one training takes at most, where the forward pass of a window takes ``each``."""
    return TRAINING * each * options.batch * options.steps
